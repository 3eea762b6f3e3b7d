"""Greedy forward selection of the layers whose refusal vectors span a subspace."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Layers = tuple[int, ...]
Score = Callable[[Sequence[Layers]], Sequence[float]]
Novelty = Callable[[Layers, int], float]

ENOUGH = 0.95
"""Compliance from which no further layer is tried."""
PATIENCE = 2
"""Steps in succession without a gain after which the search ends, once anything was gained at all."""
_TIE = 1e-9


@dataclass(frozen=True)
class Step:
    """The best set of one size that the search found.

    Attributes:
        layers: ascending; the set of the step before and one layer more.
        added: that layer.
        score: mean compliance on the selection half.
        tried: score of every candidate of the step, by the layer that it would have added.
    """

    layers: Layers
    added: int
    score: float
    tried: dict[int, float]


def forward_selection(
    candidates: Sequence[int], score: Score, novelty: Novelty, max_rank: int, floor: float = 0.0
) -> list[Step]:
    """Add, one at a time, the layer with which compliance is highest (forward selection).

    A greedy path need not hold the best set of each size, so a rank read off it is an upper bound on the rank needed.
    Of candidates with equal scores the one whose vector lies furthest outside the span of those chosen is added: where
    no single vector moves a refusal, as in a distributed mechanism, scores alone do not say where to go. For the same
    reason a search that has gained nothing yet goes on to `max_rank`.

    Args:
        candidates: layers that may be chosen.
        score: mean compliance of each of several sets, asked for once per step.
        novelty: length of a layer's unit vector outside the span of a set's.
        max_rank: size of the largest set.
        floor: compliance without any ablation, above which a gain counts.
    Returns: one step per size, at least one; it ends at `max_rank`, at ENOUGH, or after PATIENCE steps without gain.
    Raises: ValueError without candidates.
    """
    if not candidates or max_rank < 1:
        raise ValueError(f"expected candidates and a rank of at least 1, found {list(candidates)} and {max_rank}")
    steps: list[Step] = []
    chosen: Layers = ()
    while len(chosen) < min(max_rank, len(candidates)) and not _is_over(steps, floor):
        left = [layer for layer in candidates if layer not in chosen]
        sets = [tuple(sorted((*chosen, layer))) for layer in left]
        found = dict(zip(left, score(sets), strict=True))
        best = max(found.values())
        added = max((layer for layer in left if found[layer] >= best - _TIE), key=lambda n: novelty(chosen, n))
        chosen = tuple(sorted((*chosen, added)))
        steps.append(Step(chosen, added, best, found))
    return steps


def headline_step(steps: Sequence[Step]) -> Step:
    """The smallest set of the highest score on the selection half, or that reaches ENOUGH."""
    best = min(ENOUGH, max(step.score for step in steps))
    return next(step for step in steps if step.score >= best - _TIE)


def _is_over(steps: Sequence[Step], floor: float) -> bool:
    if not steps:
        return False
    best = max(step.score for step in steps)
    if best >= ENOUGH:
        return True
    first = next(index for index, step in enumerate(steps) if step.score >= best - _TIE)
    return best > floor + _TIE and len(steps) - 1 - first >= PATIENCE
