"""Difference in differences: whether an intervention changes one tier of prompts more than another."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from eval.statistics.bounds import Bounds, worst_case_contrast
from eval.statistics.comparisons import N_FLIPS, SEED, detectable_shift, minimal_detectable_share, step_down
from eval.statistics.intervals import Interval, independent_difference, paired_difference
from eval.statistics.scores import Scores

_ROUNDING = 1e-14  # of a variance of scores in 0..1 that is zero but for the order of its sums


@dataclass(frozen=True)
class TierContrast:
    """One condition's change against the baseline in two tiers, and the difference of the two changes.

    Attributes:
        lower, upper: mean paired difference from the baseline in the lower and in the upper tier.
        difference: upper minus lower.
        p: two-sided, from permutations of the tier labels.
        p_adjusted: the same over all conditions tested together, step-down max-T.
        detectable: least difference found at 80 % power by one test; None where neither tier's changes vary.
        bounds: of the difference whatever the unscored responses were; None with none unscored.
    """

    lower: Interval
    upper: Interval
    difference: Interval
    p: float
    p_adjusted: float
    detectable: float | None
    bounds: Bounds | None = None

    @property
    def least_shown(self) -> float:
        """The detectable difference, never below what the number of prompts alone allows, however little varies."""
        floor = minimal_detectable_share(max(2, min(self.lower.n, self.upper.n)))
        return max(floor, self.detectable or 0.0)

    @property
    def below_detectable(self) -> bool:
        """Whether the difference seen is smaller than what so many prompts can be relied on to show."""
        return abs(self.difference.estimate) < self.least_shown


def contrast_tiers(conditions: Sequence[Scores], baseline: Scores, lower: int, upper: int) -> list[TierContrast | None]:
    """Compare the changes from the baseline in two tiers of one prompt set; see `tier_contrasts`."""
    everywhere = np.ones(len(baseline.prompts), dtype=bool)
    return contrast_pairs([(scores, baseline, everywhere) for scores in conditions], lower, upper)


def contrast_pairs(
    pairs: Sequence[tuple[Scores, Scores, NDArray[np.bool_]]], lower: int, upper: int
) -> list[TierContrast | None]:
    """Compare, in two tiers of one prompt set, the differences of two conditions; see `tier_contrasts`.

    Args:
        pairs: (first, second, [n_prompts] mask): the change is that from second to first, on the prompts of the mask.
    """
    tiers = np.array([-1 if prompt.tier is None else prompt.tier for prompt in pairs[0][0].prompts])
    kept = (tiers == lower) | (tiers == upper)
    changes = np.column_stack([np.where(mask, a.compliance - b.compliance, np.nan) for a, b, mask in pairs])
    contrasts = tier_contrasts(changes[kept], tiers[kept] == upper)
    return [
        found and replace(found, bounds=worst_case_contrast(a, b, mask & (tiers == upper), mask & (tiers == lower)))
        for found, (a, b, mask) in zip(contrasts, pairs, strict=True)
    ]


def tier_contrasts(
    changes: NDArray[np.float64], is_upper: NDArray[np.bool_], n_permutations: int = N_FLIPS, seed: int = SEED
) -> list[TierContrast | None]:
    """Compare the changes of two tiers, for several conditions at once.

    The null hypothesis is that changes do not depend on the tier. The statistic is Welch's t, so that the test stays
    valid for the means, to a good approximation, when the tiers vary differently (Janssen 1997, Stat. Probab. Lett.
    36:9-21). Labels are permuted for all conditions at once, which keeps their dependence.

    Args:
        changes: [n_prompts, n_conditions] paired differences from the baseline; NaN where unscored.
        is_upper: [n_prompts], True for the upper tier and False for the lower one.
    Returns: one per condition; None where a tier has fewer than two scored pairs.
    """
    tested = [
        j for j, d in enumerate(changes.T) if min((~np.isnan(d[is_upper])).sum(), (~np.isnan(d[~is_upper])).sum()) >= 2
    ]
    contrasts: list[TierContrast | None] = [None] * changes.shape[1]
    if tested:
        alone, adjusted = _permutation_p(changes[:, tested], is_upper, n_permutations, seed)
        for j, p, p_adjusted in zip(tested, alone, adjusted, strict=True):
            contrasts[j] = _contrast(changes[:, j], is_upper, float(p), float(p_adjusted))
    return contrasts


def detectable_contrast(lower: Sequence[float], upper: Sequence[float], n_tests: int = 1) -> float | None:
    """Least difference of the means of two samples that Welch's two-sided t-test finds; see `detectable_shift`.

    The standard error is sqrt(s1^2/n1 + s2^2/n2), the degrees of freedom Welch and Satterthwaite's.

    Args:
        lower, upper: [n] changes of either tier, at least two each.
    Returns: None when neither group varies.
    """
    n = np.array([len(lower), len(upper)])
    parts = np.array([np.var(values, ddof=1) for values in (lower, upper)]) / n
    if not parts.sum() > 0:
        return None
    freedom = parts.sum() ** 2 / (parts**2 / (n - 1)).sum()
    return float(detectable_shift(freedom, n_tests) * parts.sum() ** 0.5)


def _contrast(d: NDArray[np.float64], is_upper: NDArray[np.bool_], p: float, p_adjusted: float) -> TierContrast:
    groups = [d[mask & ~np.isnan(d)] for mask in (~is_upper, is_upper)]
    lower, upper = (paired_difference(group) for group in groups)
    return TierContrast(lower, upper, independent_difference(lower, upper), p, p_adjusted, detectable_contrast(*groups))


def _permutation_p(
    changes: NDArray[np.float64], is_upper: NDArray[np.bool_], n_permutations: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[n_conditions] p of each condition alone, and adjusted over all; the observed labels count as one permutation."""
    shuffled = np.tile(is_upper, (n_permutations, 1))
    np.random.default_rng(seed).permuted(shuffled, axis=1, out=shuffled)
    observed = _welch_t(changes, is_upper[None, :])[0]
    permuted = _welch_t(changes, shuffled)
    alone = (1 + (permuted >= observed - 1e-9).sum(axis=0)) / (1 + n_permutations)
    return alone, step_down(observed, permuted)


def _welch_t(changes: NDArray[np.float64], labels: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[n_labelings, n_conditions] absolute Welch t; 0 where the means are equal, infinite where only they differ."""
    scored = (~np.isnan(changes)).astype(np.float64)
    values = np.nan_to_num(changes)
    sums = [scored, values, values**2]
    upper = [labels.astype(np.float64) @ each for each in sums]
    lower = [each.sum(axis=0) - part for each, part in zip(sums, upper, strict=True)]
    means = [total / np.maximum(n, 1) for n, total, _ in (lower, upper)]
    squared_errors = sum(
        np.maximum(squares / np.maximum(n, 1) - mean**2, 0.0) / np.maximum(n - 1, 1)
        for (n, _, squares), mean in zip((lower, upper), means, strict=True)
    )
    squared_errors = np.where(squared_errors < _ROUNDING, 0.0, squared_errors)
    gap = np.abs(means[1] - means[0])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(gap < 1e-12, 0.0, gap / np.sqrt(squared_errors))
