"""Two judges one after the other: what the first leaves unscored is put before the second."""

from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from eval.endpoints.spending import Usage
from eval.judge.endpoint.endpoint_judge import (
    CONTENT_FILTER,
    JUDGE_REFUSED,
    REJECTED,
    TRANSPORT,
    TRUNCATED,
    UNREADABLE,
    EndpointJudge,
)
from eval.judge.endpoint.scales import MAX_EVIDENCE
from eval.judge.protocol import Judge
from eval.records.rows import SCORED, Generation, Verdict
from surgery.files.artifacts import json_sha256

HANDED_ON = frozenset({UNREADABLE, JUDGE_REFUSED, CONTENT_FILTER, TRUNCATED, REJECTED})


class FallbackJudge(Judge):
    """A judge made of two, with an id and verdicts of its own; each verdict's evidence says which model gave it.

    A transport failure is not handed on: it passes, and is tried again by the next call.

    Attributes:
        n_handed_on: responses that the second judge was asked about since this one was made.
    """

    kind = "llm"
    retried_reasons = frozenset({TRANSPORT})

    def __init__(self, first: EndpointJudge, second: EndpointJudge):
        """Set up; nothing is sent."""
        self.first, self.second = first, second
        first.client.budget.share(second.client.budget)
        joined = json_sha256([first.judge_id, second.judge_id])[:8]
        self.judge_id = f"llm:{first.model}+{second.model}-{joined}"
        self.n_handed_on, self.rates_harm_only = 0, first.rates_harm_only

    def describe(self) -> dict[str, Any]:
        """What is recorded with a run: both judges."""
        first, second = ({"judge_id": judge.judge_id, **judge.describe()} for judge in (self.first, self.second))
        shared = {key: first[key] for key in ("model", "base_url", "rubric", "rubric_version", "rubric_sha256")}
        return {"kind": self.kind, **shared, "first": first, "fallback": second, "handed_on": sorted(HANDED_ON)}

    @property
    def usage(self) -> Usage:
        """Requests and tokens spent by both."""
        return self.first.usage.plus(self.second.usage)

    @property
    def payers(self) -> tuple[Judge, Judge]:
        """Both, each at its own prices."""
        return self.first, self.second

    def keep_accounts(self, folder: Path) -> None:
        """Write the spending of each into a run's folder."""
        self.first.keep_accounts(folder)
        self.second.keep_accounts(folder)

    async def __aenter__(self) -> "FallbackJudge":
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.first)
            await stack.enter_async_context(self.second)
            self._entered = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._entered.aclose()

    async def judge(self, item: Generation) -> Verdict:
        """Score one response by the first judge, or else by the second."""
        verdict = await self.first.judge(item)
        if verdict.status == SCORED or verdict.reason not in HANDED_ON:
            return self._signed(verdict, self.first.model)
        self.n_handed_on += 1
        second = await self.second.judge(item)
        return self._signed(second, f"{self.second.model}, as {self.first.model}: {verdict.reason}")

    def _signed(self, verdict: Verdict, who: str) -> Verdict:
        return replace(verdict, judge_id=self.judge_id, evidence=f"[{who}] {verdict.evidence}"[:MAX_EVIDENCE])
