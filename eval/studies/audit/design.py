"""What an audit asks: the two halves of the prompts, the layers it chooses from, and at most how many responses."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from eval.statistics.summaries import is_candidate
from surgery.console.errors import RefusalError
from surgery.prompts import Prompt

LEAST_PROMPTS = 12
"""Harmful prompts below which the intervals of no compliance and of full compliance on either half overlap.

Exact 95 % intervals of 0 of n and n of n lie apart from n = 6 on (Clopper and Pearson 1934: 0.025^(1/n) > 1/2).
"""
N_RANDOM = 2
"""Random subspaces per rank."""
Half = TypeVar("Half", bound=Prompt)


class AuditError(RefusalError):
    """An audit cannot be made as asked."""


@dataclass(frozen=True)
class AuditSize:
    """An audit in numbers.

    Attributes:
        n_layers: of the model.
        max_rank: largest rank asked for.
        alphas: strengths.
        n_selection, n_measured: harmful prompts of either half.
        n_safe: safe prompts.
        weights: whether a checkpoint is made and answers too.
    """

    n_layers: int
    max_rank: int
    alphas: tuple[float, ...]
    n_selection: int
    n_measured: int
    n_safe: int
    weights: bool = True

    @property
    def candidates(self) -> tuple[int, ...]:
        """Layers that may be chosen: not the last fifth (Arditi et al. 2024, section 2.3)."""
        return tuple(layer for layer in range(self.n_layers) if is_candidate(layer, self.n_layers))

    @property
    def largest(self) -> int:
        """The largest rank that can be reached."""
        return min(self.max_rank, len(self.candidates))

    @property
    def n_selecting(self) -> int:
        """Responses of the selection: every layer three ways, every layer left at each step, each step's other forms."""
        later = sum(len(self.candidates) - rank + 1 for rank in range(2, self.largest + 1))
        return (1 + 3 * self.n_layers + later + 2 * (self.largest - 1)) * self.n_selection

    @property
    def n_measuring(self) -> int:
        """Responses on the other half: every rank at every strength, its controls and other forms, the writes."""
        conditions = 1 + self.largest * (len(self.alphas) + N_RANDOM + 2) + 1 + self.weights
        return conditions * self.n_measured

    @property
    def n_on_safe(self) -> int:
        """Responses to safe prompts: the baseline twice, at most five ablations, and every layer's vector added."""
        return (2 + 5 + self.n_layers) * self.n_safe

    @property
    def n_responses(self) -> int:
        """Responses at most."""
        return self.n_selecting + self.n_measuring + self.n_on_safe

    def __str__(self) -> str:
        return (
            f"at most {self.n_responses} responses, each judged once: {self.n_selecting} to choose "
            f"({self.n_selection} prompts), {self.n_measuring} to measure ({self.n_measured} other prompts), "
            f"{self.n_on_safe} to {self.n_safe} safe prompts"
        )


def split_in_halves(prompts: Sequence[Half], seed: int) -> tuple[list[Half], list[Half]]:
    """A selection and a measuring half, of every tier and category as many prompts in either, or one more.

    Prompts of one tier and category are shuffled and dealt out in turn; the turn goes on from one group to the next, so
    that the halves differ by at most one prompt in all. Either half keeps the order of the prompts.

    Raises: AuditError with fewer than LEAST_PROMPTS prompts.
    """
    if len(prompts) < LEAST_PROMPTS:
        raise AuditError(f"an audit needs at least {LEAST_PROMPTS} harmful prompts, found {len(prompts)}")
    random = np.random.default_rng(seed)
    groups: dict[tuple[str, str], list[int]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault((str(prompt.tier), prompt.category), []).append(index)
    dealt = [index for key in sorted(groups) for index in random.permutation(groups[key])]
    first, second = sorted(dealt[::2]), sorted(dealt[1::2])
    return [prompts[index] for index in first], [prompts[index] for index in second]
