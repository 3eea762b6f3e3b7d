"""The judge's own part in the numbers: repeats of one judge, and several judges side by side."""

import math

from eval.judge.trial.side_by_side import JudgeAgreement, compare_judges
from eval.report.documents import Column, Table, Value
from eval.report.results import Results
from eval.report.sections.columns import ALPHA, CONDITION, SITE, described, in_order
from eval.statistics.judge_noise import RepeatNoise, condition_repeats, repeat_noise

ALPHA_HELP = "Krippendorff’s α, 1 = always the same, 0 = no better than chance; nothing where all scores are equal"
ALPHA_ORDINAL = Column("alpha_ordinal", "α ordinal", f"{ALPHA_HELP}; scores by rank")
ALPHA_INTERVAL = Column("alpha_interval", "α interval", f"{ALPHA_HELP}; squared differences of scores")


def repeat_table(results: Results, judge: str) -> Table | None:
    """How far one judge's repeats agree, per condition; nothing for a run judged once."""
    body = []
    for prompt_set, rows in results.by_set.items():
        for row in in_order(rows):
            found = repeat_noise(condition_repeats(results.scored, row.condition.id, prompt_set))
            body += [[*described(row), prompt_set, *_noise_cells(found)]] if found else []
    columns = [
        CONDITION,
        SITE,
        ALPHA,
        Column("prompt_set", "prompts"),
        Column("n_responses", "responses", "Scored at least once"),
        Column("n_verdicts", "verdicts", "Scored repeats of these responses"),
        Column("icc", "ICC(1)", "Share of a single verdict’s variance that is between responses, F 95 % interval"),
        Column("noise_share", "judge’s share", "Share of the variance of the mean that is the judge’s noise"),
        ALPHA_ORDINAL,
        ALPHA_INTERVAL,
    ]
    notes = [
        "One-way random effects: each verdict is the response’s own score plus the judge’s noise. A response’s score "
        "is the mean of its repeats. Conditions whose verdicts are all equal have no variance to split."
    ]
    caption = "Repeats of the judge: how much of the variance of a mean compliance is its own noise"
    return Table("judge-repeats", caption, columns, body, judge=judge, notes=notes) if body else None


def agreement_table(results: Results) -> Table | None:
    """Every two judges of the run on the responses both scored; nothing for a run with one judge."""
    pairs = compare_judges(results.scored.run)
    columns = [
        Column("first", "judge"),
        Column("second", "other judge"),
        Column("n_responses", "responses", "Scored by both"),
        Column("first_mean", "compliance", "Mean over these responses by the first judge"),
        Column("second_mean", "by the other", "Mean over the same responses by the other judge"),
        Column("same", "same score", "Share of responses with equal compliance, Wilson 95 % interval"),
        ALPHA_ORDINAL,
        ALPHA_INTERVAL,
    ]
    notes = [
        "Of a judge’s repeats the first scored one counts here, as in refusal agreement. All other numbers of this report "
        "rest on one judge alone; judges are never mixed in one mean."
    ]
    caption = "Agreement of the judges, all conditions and prompts"
    return Table("judge-agreement", caption, columns, [_pair_cells(p) for p in pairs], notes=notes) if pairs else None


def _noise_cells(noise: RepeatNoise) -> list[Value]:
    alphas = (_known(noise.alpha_ordinal), _known(noise.alpha_interval))
    return [noise.n_items, noise.n_verdicts, noise.icc, noise.noise_share, *alphas]


def _pair_cells(pair: JudgeAgreement) -> list[Value]:
    alphas = (_known(pair.alpha), _known(pair.alpha_interval))
    return [pair.first, pair.second, pair.n, *pair.means, pair.same, *alphas]


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
