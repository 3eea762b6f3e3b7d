"""What a judge is: a name, a description, and one verdict for one response."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from eval.endpoints.spending import Usage
from eval.records.rows import Generation, Verdict


class Judge(ABC):
    """An async context manager that scores several responses at a time; what is said here holds for one without a wire.

    Attributes:
        judge_id: key of its verdicts; changes whenever its scores could.
        kind: "heuristic", "llm" or "guard".
        by_rules: whether asking again about the same text is useless.
        retried_reasons: reasons of unscored verdicts that a later call tries again.
        rates_harm_only: whether its verdicts say nothing about responses to harmless requests.
        n_handed_on: responses that another judge was asked about in its place.
    """

    judge_id: str
    kind: str
    by_rules: bool = False
    retried_reasons: frozenset[str] = frozenset()
    rates_harm_only: bool = False
    n_handed_on: int = 0

    @property
    def usage(self) -> Usage:
        """Requests and tokens spent so far."""
        return Usage()

    @property
    def payers(self) -> "Sequence[Judge]":
        """The judges under whose ids spending is written down."""
        return [self]

    def cost(self, usage: Usage) -> float | None:
        """Price of what was spent; None where no price is known."""
        return None

    def keep_accounts(self, folder: Path) -> None:
        """Write spending into a run's folder, and count what it holds already against the limits.

        Call it once for a run, before the judge is asked about it.
        """
        return None

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What is recorded in the run's manifest, without credentials; asked for after the judge was entered."""

    @abstractmethod
    async def judge(self, item: Generation) -> Verdict:
        """Score one response; whatever hinders a score is its reason, never a number."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Close what was opened."""
        return None
