"""What is reported of one condition: its means with intervals, and its paired comparison with the baseline."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from eval.plan.conditions import Condition
from eval.records.measures import MEANS, MEASURES, SHARES
from eval.statistics.bounds import Bounds, is_withheld, worst_case_change
from eval.statistics.comparisons import (
    holm_p,
    max_t_p,
    minimal_detectable_difference,
    minimal_detectable_share,
    paired_test,
)
from eval.statistics.flips import Flips, flips_between
from eval.statistics.intervals import Interval, bootstrap_mean, wilson
from eval.statistics.scores import NoScoresError, ScoredRun, Scores

EXCLUDED_FROM = 0.8  # layers at or above this share of the depth are not candidates (Arditi et al. 2024, section 2.3)


@dataclass(frozen=True)
class Summary:
    """One condition on one prompt set.

    Attributes:
        n, n_scored, n_unscored: responses; `reasons` says why some are unscored.
        means: measure's name -> mean over prompts with its BCa bootstrap interval, or share of prompts with Wilson's;
            empty when nothing is scored.
        change: mean paired difference of compliance against the baseline, on prompts scored under both; None without.
        n_pairs: prompts behind `change`.
        p: two-sided sign-flip p of `change`.
        p_adjusted: Westfall-Young max-T p over the source layers of one sweep; None outside a sweep.
        p_holm: Holm's p over the same layers.
        flips: name of a share -> prompts that changed sides against the baseline; empty without a pair.
        bounds: of the mean difference over all prompts, whatever the unscored responses were; None with none unscored
            under either condition.
    """

    condition: Condition
    prompt_set: str
    n: int
    n_scored: int
    reasons: Mapping[str, int] = field(default_factory=dict)
    means: Mapping[str, Interval] = field(default_factory=dict)
    change: Interval | None = None
    n_pairs: int = 0
    p: float | None = None
    p_adjusted: float | None = None
    p_holm: float | None = None
    flips: Mapping[str, Flips] = field(default_factory=dict)
    bounds: Bounds | None = None

    @property
    def compliance(self) -> Interval | None:
        """Mean compliance; None when nothing is scored."""
        return self.means.get("compliance")

    @property
    def height(self) -> tuple[float, ...]:
        """What the highest row is the highest by: the means in the order of their list; of a row without scores ()."""
        return tuple(self.means[measure.name].estimate for measure in MEANS if self.means)

    @property
    def n_unscored(self) -> int:
        """Responses without scores."""
        return self.n - self.n_scored

    @property
    def reported_p(self) -> float | None:
        """The adjusted p where there is one, else p."""
        return self.p if self.p_adjusted is None else self.p_adjusted

    @property
    def withheld(self) -> bool:
        """Whether p is small but the unscored responses could turn the difference round."""
        return is_withheld(self.reported_p, self.bounds)


@dataclass(frozen=True)
class Agreement:
    """How far two conditions give the same result on the same prompts.

    Attributes:
        first, second: the conditions; `change` is mean(second) - mean(first).
        n_pairs: prompts scored under both.
        same_verdict: share of them with equal means of scores, with Wilson's interval.
        same_text: share of prompts answered by both whose responses are equal letter for letter.
    """

    first: Condition
    second: Condition
    n_pairs: int
    same_verdict: Interval
    same_text: float
    change: Interval
    p: float


def summarize(scores: Scores, baseline: Scores | None = None) -> Summary:
    """Describe one condition. Raises: NoScoresError when none of its responses is scored."""
    means = {measure.name: _mean(scores.scored(measure.name), bool(measure.share)) for measure in MEASURES}
    summary = Summary(scores.condition, scores.prompt_set, scores.n, scores.n_scored, scores.reasons, means)
    return summary if baseline is None else _compare(summary, scores, baseline)


def _mean(values: NDArray[np.float64], share: bool) -> Interval:
    return wilson(float(values.sum()), values.size) if share else bootstrap_mean(values)


def summarize_all(run: ScoredRun, prompt_set: str) -> list[Summary]:
    """Describe every condition that answered this prompt set, in the run's order, against the run's baseline.

    A condition of which nothing is scored keeps its counts and reasons, and no number. RVs of one sweep (same alpha,
    site, layers acted on and tag) get p adjusted over their source layers.
    Raises: NoScoresError when the baseline has no score.
    """
    conditions = [condition for condition in run.conditions if run.has(condition, prompt_set)]
    baseline = _baseline(run, conditions, prompt_set)
    rows = [_summarize_or_count(run.scores(condition, prompt_set), baseline) for condition in conditions]
    adjusted = _adjust_sweeps(run, rows, baseline)
    return [adjusted.get(row.condition.id, row) for row in rows]


def sweeps(conditions: Iterable[Condition]) -> dict[tuple[float, str, str, str], list[Condition]]:
    """RVs by (alpha, site, layers acted on, tag): the families over whose source layers p is adjusted."""
    families: dict[tuple[float, str, str, str], list[Condition]] = defaultdict(list)
    for condition in conditions:
        if condition.kind == "rv":
            families[condition.alpha, condition.site, condition.layers, condition.tag].append(condition)
    return dict(families)


def differences(scores: Scores, baseline: Scores) -> NDArray[np.float64]:
    """[n_prompts] compliance minus the baseline's, matched on prompt; NaN where either is unscored."""
    return scores.compliance - baseline.compliance


def compare(first: Scores, second: Scores) -> tuple[Interval, float]:
    """Mean paired difference second - first with its interval, and its sign-flip p. Raises: NoScoresError: no pair."""
    if found := paired_test(differences(second, first)):
        return found
    raise NoScoresError(
        f"{second.condition.id} and {first.condition.id} share no scored {first.prompt_set} prompt; judge the run again"
    )


def agreement(run: ScoredRun, prompt_set: str, first: Condition, second: Condition) -> Agreement:
    """Compare two conditions prompt by prompt, for example runtime ablation with its checkpoint."""
    a, b = run.scores(first, prompt_set), run.scores(second, prompt_set)
    change, p = compare(a, b)
    both = ~np.isnan(a.compliance) & ~np.isnan(b.compliance)
    same = np.logical_and.reduce([a.values[each.name] == b.values[each.name] for each in MEANS])
    n_pairs = int(both.sum())
    return Agreement(
        first,
        second,
        n_pairs,
        wilson(int(same[both].sum()), n_pairs),
        _same_text(run, prompt_set, first, second),
        change,
        p,
    )


def group_means(scores: Scores, tag: str) -> dict[str, tuple[Interval | None, int]]:
    """Mean compliance per value of a tag: {value: (interval or None when unscored, unscored prompts)}.

    Args:
        tag: "tier" or "category"; prompts without that tag are left out.
    """
    values = [getattr(prompt, tag) for prompt in scores.prompts]
    named = sorted({value for value in values if value not in (None, "")})
    return {str(value): part_mean(scores, [other == value for other in values]) for value in named}


def part_mean(scores: Scores, keep: Sequence[bool] | NDArray[np.bool_]) -> tuple[Interval | None, int]:
    """Mean compliance on some prompts with its BCa interval, None when nothing is scored; how many are unscored."""
    part = scores.only(keep)
    return bootstrap_mean(part.scored("compliance")) if part.n_scored else None, part.n_unscored


def is_candidate(layer: int, n_layers: int) -> bool:
    """Whether a source layer may be called the best one: the last fifth of the depth is excluded."""
    return layer < EXCLUDED_FROM * n_layers


def detectable_difference(pairs: Sequence[NDArray[np.float64]], n_tests: int = 1) -> float:
    """Least mean compliance difference found at 80 % power with the spread seen here, never below what n alone allows.

    The spread is the root mean square of the conditions' sd of paired differences, n the least number of pairs.

    Args:
        pairs: per condition [n_prompts] paired differences, NaN where unscored.
        n_tests: comparisons to correct for.
    """
    kept = [d[~np.isnan(d)] for d in pairs]
    n = min(d.size for d in kept)
    sd = float(np.sqrt(np.mean([np.var(d, ddof=1) for d in kept])))
    floor = minimal_detectable_share(n, n_tests)
    return max(floor, minimal_detectable_difference(sd, n, n_tests)) if sd > 0 else floor


def _baseline(run: ScoredRun, conditions: Sequence[Condition], prompt_set: str) -> Scores | None:
    found = [condition for condition in conditions if condition.kind == "baseline"]
    if not found:
        return None
    scores = run.scores(found[0], prompt_set)
    scores.scored("compliance")
    return scores


def _summarize_or_count(scores: Scores, baseline: Scores | None) -> Summary:
    if scores.n_scored == 0:
        return Summary(scores.condition, scores.prompt_set, scores.n, 0, scores.reasons)
    is_baseline = scores.condition.kind == "baseline"
    return summarize(scores, None if is_baseline else baseline)


def _compare(summary: Summary, scores: Scores, baseline: Scores) -> Summary:
    d = differences(scores, baseline)
    tested = paired_test(d)
    return (
        summary
        if tested is None
        else replace(
            summary,
            change=tested[0],
            n_pairs=int((~np.isnan(d)).sum()),
            p=tested[1],
            flips={each.name: flips for each in SHARES if (flips := flips_between(baseline, scores, each.name))},
            bounds=worst_case_change(scores, baseline),
        )
    )


def _adjust_sweeps(run: ScoredRun, rows: Sequence[Summary], baseline: Scores | None) -> dict[str, Summary]:
    """The sweep rows again, with adjusted p; those without a scored pair are not tested."""
    tested = {row.condition.id: row for row in rows if row.p is not None}
    adjusted: dict[str, Summary] = {}
    if baseline is None:
        return adjusted
    for family in sweeps(row.condition for row in tested.values()).values():
        members = [tested[condition.id] for condition in family]
        columns = [differences(run.scores(row.condition, row.prompt_set), baseline) for row in members]
        by_max_t, by_holm = max_t_p(np.column_stack(columns)), holm_p([row.p for row in members if row.p is not None])
        for row, p_max_t, p_holm in zip(members, by_max_t, by_holm, strict=True):
            adjusted[row.condition.id] = replace(row, p_adjusted=float(p_max_t), p_holm=float(p_holm))
    return adjusted


def _same_text(run: ScoredRun, prompt_set: str, first: Condition, second: Condition) -> float:
    texts = {(row.prompt_id, row.sample): row.response_key for row in run.responses(first.id, prompt_set)}
    pairs = [
        texts[key] == row.response_key
        for row in run.responses(second.id, prompt_set)
        if (key := (row.prompt_id, row.sample)) in texts
    ]
    return sum(pairs) / len(pairs)
