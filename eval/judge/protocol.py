"""What a judge is: a name, a description, and one verdict for one response."""

from typing import Any, Protocol

from eval.endpoints.judge_client import Usage
from eval.records.rows import Generation, Verdict


class RuleJudge(Protocol):
    """A judge that scores by rules, at once and without a network.

    Attributes:
        judge_id: key of its verdicts; changes whenever its scores could.
        kind: "heuristic".
    """

    judge_id: str
    kind: str

    def describe(self) -> dict[str, Any]:
        """What is recorded in the run's manifest."""
        ...

    def judge(self, item: Generation) -> Verdict:
        """Score one response."""
        ...


class RemoteJudge(Protocol):
    """A judge behind an endpoint: an async context manager that scores several responses at a time.

    Attributes:
        retried_reasons: reasons of unscored verdicts that a later call tries again.
        usage: requests and tokens spent.
    """

    judge_id: str
    kind: str
    retried_reasons: frozenset[str]

    @property
    def usage(self) -> Usage:
        """What has been spent so far."""
        ...

    def describe(self) -> dict[str, Any]:
        """What is recorded in the run's manifest; asked for after the judge was entered."""
        ...

    async def judge(self, item: Generation) -> Verdict:
        """Score one response."""
        ...

    async def __aenter__(self) -> "RemoteJudge": ...

    async def __aexit__(self, *exc_info: object) -> None: ...


Judge = RuleJudge | RemoteJudge
