"""The judge's own part in the numbers: repeats of one judge, and several judges side by side."""

import math
from collections.abc import Callable
from typing import Any

from eval.judge.trial.side_by_side import compare_judges
from eval.report.documents import Column, Section, Table, Value
from eval.report.results import Results
from eval.report.sections.columns import DESCRIBED, described, in_order
from eval.statistics.judge_noise import condition_repeats, repeat_noise

ALPHA = "Krippendorff’s α, 1 = always the same, 0 = no better than chance; nothing where all scores are equal"


def sections(results: Results, chapter_id: str) -> list[Section]:
    """Nothing for a run judged once by one judge."""
    return Section.of("judge", "The judge", [_repeat_table(results), _agreement_table(results)])


def _repeat_table(results: Results) -> Table | None:
    """How far one judge's repeats agree, per condition; nothing for a run judged once."""
    columns = [
        Column("n_responses", "responses", "Scored at least once", read=lambda noise: noise.n_items),
        Column("n_verdicts", "verdicts", "Scored repeats of these responses"),
        Column("icc", "ICC(1)", "Share of a single verdict’s variance that is between responses, F 95 % interval"),
        Column("noise_share", "judge’s share", "Share of the variance of the mean that is the judge’s noise"),
        *_alphas("alpha_ordinal"),
    ]
    body = [
        [*described(row), name, *(column.cell(noise) for column in columns)]
        for name, rows in results.by_set.items()
        for row in in_order(rows)
        if (noise := repeat_noise(condition_repeats(results.scored, row.condition.id, name)))
    ]
    notes = [
        "One-way random effects: each verdict is the response’s own score plus the judge’s noise. A response’s score "
        "is the mean of its repeats. Conditions whose verdicts are all equal have no variance to split."
    ]
    caption = "Repeats of the judge: how much of the variance of a mean compliance is its own noise"
    columns = [*DESCRIBED, Column("prompt_set", "prompts"), *columns]
    return Table("judge-repeats", caption, columns, body, judge=results.judge, notes=notes) if body else None


def _agreement_table(results: Results) -> Table | None:
    """Every two judges of the run on the responses both scored; nothing for a run with one judge."""
    mean, second = "Mean over these responses by", "Mean over the same responses by the other judge"
    columns = [
        Column("first", "judge"),
        Column("second", "other judge"),
        Column("n_responses", "responses", "Scored by both", read=lambda pair: pair.n),
        Column("first_mean", "compliance", f"{mean} the first judge", read=lambda pair: pair.means[0]),
        Column("second_mean", "by the other", second, read=lambda pair: pair.means[1]),
        Column("same", "same score", "Share of responses with equal compliance, Wilson 95 % interval"),
        *_alphas("alpha"),
    ]
    notes = [
        "Of a judge’s repeats the first scored one counts here, as in refusal agreement. All other numbers of this report "
        "rest on one judge alone; judges are never mixed in one mean."
    ]
    caption = "Agreement of the judges, all conditions and prompts"
    return Table.of("judge-agreement", caption, columns, compare_judges(results.scored.run), notes=notes)


def _alphas(ordinal: str) -> list[Column]:
    """The two alphas of an item that has the ordinal one under this name."""

    def known(name: str) -> Callable[[Any], Value]:
        return lambda item: None if math.isnan(getattr(item, name)) else getattr(item, name)

    return [
        Column("alpha_ordinal", "α ordinal", f"{ALPHA}; scores by rank", read=known(ordinal)),
        Column("alpha_interval", "α interval", f"{ALPHA}; squared differences of scores", read=known("alpha_interval")),
    ]
