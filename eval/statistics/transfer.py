"""Transfer between tiers: what is extracted from the prompts of one tier, measured on the prompts of each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.statistics.confirmation import choose_on_half
from eval.statistics.intervals import Interval
from eval.statistics.scores import Scores
from eval.statistics.summaries import part_mean
from eval.statistics.tiers import TierContrast, contrast_pairs


@dataclass(frozen=True)
class Transferred:
    """An intervention and the prompts on which it is fair to measure it.

    Attributes:
        tag: the tier or category that its RVs are from; "" for all prompts.
        scores: of the intervention, on all prompts of the set.
        measured: [n_prompts], True for those that took no part in choosing it.
    """

    tag: str
    scores: Scores
    measured: NDArray[np.bool_]


def best_single(tag: str, candidates: Sequence[Scores]) -> Transferred | None:
    """The layer of highest compliance on one half of the prompts, all tiers together, to be measured on the other half.

    A lone candidate is not chosen, so it is measured on all prompts.
    """
    if len(candidates) == 1:
        return unchosen(tag, candidates[0])
    found = choose_on_half(candidates)
    return None if found is None else Transferred(tag, candidates[found[0]], found[1])


def unchosen(tag: str, scores: Scores) -> Transferred:
    """An intervention that was named beforehand: all prompts measure it."""
    return Transferred(tag, scores, np.ones(len(scores.prompts), dtype=bool))


def tier_compliance(transferred: Transferred, tier: int) -> tuple[Interval | None, int]:
    """Its compliance on the prompts of one tier, and how many of them are unscored; see `part_mean`."""
    of_tier = [prompt.tier == tier for prompt in transferred.scores.prompts]
    return part_mean(transferred.scores, transferred.measured & of_tier)


def own_tier_advantages(
    pairs: Sequence[tuple[Transferred, Transferred]], lower: int, upper: int
) -> list[TierContrast | None]:
    """Whether interventions do better on the tier that they are from: a difference in differences.

    With C(i, j) the compliance on tier j under what is from tier i, the difference is
    [C(upper, upper) - C(lower, upper)] - [C(upper, lower) - C(lower, lower)]: the baseline, and how hard either tier is,
    cancel. Above zero, each does better on its own tier; at zero it does not matter which tier the vectors are from.

    Args:
        pairs: (from the lower tier, from the upper tier), of the same kind; p is adjusted over them.
    Returns: as `contrast_pairs`: `lower` and `upper` are what vectors from the upper tier reach above those from the lower
        one, on the prompts of either tier.
    """
    return contrast_pairs(
        [(second.scores, first.scores, first.measured & second.measured) for first, second in pairs], lower, upper
    )
