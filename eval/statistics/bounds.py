"""Worst-case bounds: what a difference could be if every unscored response had gone one way or the other."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.statistics.comparisons import SIGNIFICANCE
from eval.statistics.scores import Scores


@dataclass(frozen=True)
class Bounds:
    """The least and the greatest mean difference that the unscored responses allow.

    No-assumption bounds (Manski 1990, AER 80:319-323; Horowitz & Manski 2000, JASA 95:77-84): they cover the data that
    are missing, not the sampling of prompts.
    """

    low: float
    high: float

    @property
    def cross_zero(self) -> bool:
        """Whether the sign of the difference depends on what is unscored."""
        return self.low <= 0 <= self.high


def is_withheld(p: float | None, bounds: Bounds | None) -> bool:
    """Whether a difference must not be called significant: p is small, but what is unscored could turn its sign."""
    return p is not None and p <= SIGNIFICANCE and bounds is not None and bounds.cross_zero


def worst_case_change(scores: Scores, baseline: Scores, measure: str = "compliance") -> Bounds | None:
    """Bounds of the mean paired difference of a measure over all prompts of the set.

    The lower one gives each unscored response 0 under the condition and 1 under the baseline, the upper one the
    opposite.

    Returns: None when nothing is unscored on either side, where both would be the mean difference itself.
    """
    if min(scores.scored_share.min(), baseline.scored_share.min()) == 1:
        return None
    return _change_bounds(scores, baseline, measure)


def worst_case_contrast(
    scores: Scores, baseline: Scores, is_upper: NDArray[np.bool_], is_lower: NDArray[np.bool_]
) -> Bounds | None:
    """Bounds of the change of compliance on some prompts minus that on others; None with nothing unscored on them."""
    sides = [(scores.only(mask), baseline.only(mask)) for mask in (is_lower, is_upper)]
    if all(each.scored_share.min() == 1 for side in sides for each in side):
        return None
    lower, upper = (_change_bounds(*side, "compliance") for side in sides)
    return Bounds(upper.low - lower.high, upper.high - lower.low)


def _change_bounds(scores: Scores, baseline: Scores, measure: str) -> Bounds:
    least, most = _filled(scores, measure)
    least_baseline, most_baseline = _filled(baseline, measure)
    return Bounds(float((least - most_baseline).mean()), float((most - least_baseline).mean()))


def _filled(scores: Scores, measure: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[n_prompts] values with all unscored responses at 0, and at 1."""
    known = np.nan_to_num(scores.values[measure]) * scores.scored_share
    return known, known + (1 - scores.scored_share)
