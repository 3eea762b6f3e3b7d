"""Prompts that change sides between two conditions: McNemar's exact test and the interval of the paired difference."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from eval.statistics.bounds import Bounds, worst_case_change
from eval.statistics.comparisons import sign_flip_p
from eval.statistics.intervals import Interval, bonett_price, paired_difference
from eval.statistics.scores import Scores


@dataclass(frozen=True)
class Flips:
    """A yes-or-no outcome of the same prompts under a baseline and under an intervention.

    Attributes:
        gained, lost: prompts that got the outcome, and that lost it; those with several samples count by direction.
        change: paired difference of shares, gained minus lost.
        p: two-sided p of `change`.
        exact: whether p is McNemar's and the interval Bonett and Price's; False where a prompt's outcome is a share of
            several samples, and both come from the differences (sign flips, BCa).
        bounds: of the difference whatever the unscored responses were; None with none unscored.
    """

    gained: int
    lost: int
    change: Interval
    p: float
    exact: bool = True
    bounds: Bounds | None = None


def flips_between(baseline: Scores, scores: Scores, measure: str) -> Flips | None:
    """Compare a share with the baseline's; None when no pair is scored."""
    found = count_flips(baseline.values[measure], scores.values[measure])
    return found and replace(found, bounds=worst_case_change(scores, baseline, measure))


def count_flips(
    before: Sequence[float] | NDArray[np.float64], after: Sequence[float] | NDArray[np.float64]
) -> Flips | None:
    """Compare shares of the same prompts under two conditions.

    Args:
        before, after: [n_prompts] in 0..1, 0 or 1 with one sample per prompt; NaN where unscored, which drops the pair.
    Returns: None when no pair is left.
    """
    d = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    d = d[~np.isnan(d)]
    if d.size == 0:
        return None
    gained, lost = int((d > 0).sum()), int((d < 0).sum())
    if np.isin(d, (-1.0, 0.0, 1.0)).all():
        return Flips(gained, lost, bonett_price(d), mcnemar_p(gained, lost))
    return Flips(gained, lost, paired_difference(d), sign_flip_p(d), exact=False)


def mcnemar_p(n_gained: int, n_lost: int) -> float:
    """Two-sided exact p of McNemar's test: of the prompts that changed sides, half go each way under the null.

    McNemar 1947, Psychometrika 12:153-157, in its exact form; it is the sign-flip test of differences in {-1, 0, 1}, with
    every pattern counted. Raises: ValueError for a negative count.
    """
    from scipy.stats import binomtest

    n = n_gained + n_lost
    return float(binomtest(n_gained, n).pvalue) if n else 1.0
