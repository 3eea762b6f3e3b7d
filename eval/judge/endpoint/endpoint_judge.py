"""What all judges behind an endpoint share: one question, and an answer that is a score or a reason, never a guess."""

from abc import abstractmethod
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from eval.endpoints.address import public_url
from eval.endpoints.replica import Refused
from eval.endpoints.spending import Ledger, Usage, read_spending
from eval.judge.endpoint.client import Completion, JudgeClient, TransportFailure
from eval.judge.endpoint.scales import MAX_EVIDENCE, Answer, UnreadableAnswer
from eval.judge.protocol import Judge
from eval.judge.rules.coherence import coherence_sha256, read_coherence
from eval.judge.rules.heuristic import is_refusal
from eval.judge.rules.thinking import CUT, answer_of, is_cut_in_reasoning
from eval.records.rows import SCORED, UNSCORED, Generation, Verdict
from surgery.files.artifacts import json_sha256, package_versions

TRANSPORT = "transport failure"
UNREADABLE = "unreadable answer"
JUDGE_REFUSED = "judge refused"
CONTENT_FILTER = "content filter"
TRUNCATED = "judge answer truncated"
REJECTED = "request rejected"
NOT_MEASURED = "not measured by this judge"


class EndpointJudge(Judge):
    """A judge behind an OpenAI-compatible endpoint; use as an async context manager, which probes it once.

    A judge that does not rate coherence takes it from the rules of the heuristic judge, and its description says so.

    Attributes:
        judge_id: "<kind>:<model>-<hash>", of model, address, rubric, temperature and, where coherence comes from rules,
            those rules: any change makes another judge.
        scores_coherence: whether the model itself rates coherence.
    """

    kind = "llm"
    retried_reasons = frozenset({TRANSPORT})

    def __init__(
        self,
        model: str,
        client: JudgeClient,
        label: str,
        identity: list[Any],
        max_tokens: int,
        scores_coherence: bool = True,
    ):
        """Set up; nothing is sent.

        Args:
            label: of the rubric where it is not the standard one, as it stands in the id.
            identity: what else makes it another judge.
            max_tokens: of the judge's answer.
        """
        self.model = model
        self.client = client
        self._max_tokens = max_tokens
        self.scores_coherence = scores_coherence
        identity = [*identity, *([] if scores_coherence else [coherence_sha256()])]
        name = f"{model}/{label}" if label else model
        self.judge_id = f"{self.kind}:{name}-{json_sha256([model, public_url(client.base_url), *identity])[:8]}"

    def describe(self) -> dict[str, Any]:
        """What is recorded with a run: everything that decides the verdicts, and no credentials."""
        urls = self.client.urls
        return {
            "kind": self.kind,
            "model": self.model,
            "base_url": urls[0],
            **({"replicas": urls} if len(urls) > 1 else {}),
            "max_tokens": self._max_tokens,
            **({} if self.scores_coherence else {"coherence": f"by rules: heuristic:coherence-{coherence_sha256()}"}),
            "versions": {**package_versions(), "openai": metadata.version("openai")},
        }

    @property
    def usage(self) -> Usage:
        """Requests and tokens spent, the probe included."""
        return self.client.usage

    def cost(self, usage: Usage) -> float | None:
        """At this endpoint's prices."""
        return self.client.budget.limits.cost(usage)

    def keep_accounts(self, folder: Path) -> None:
        """See `Judge.keep_accounts`."""
        self.client.ledger = Ledger(folder, self.judge_id, self.usage)
        self.client.budget.earlier = read_spending(folder).get(self.judge_id, Usage())

    async def __aenter__(self) -> "EndpointJudge":
        await self.client.__aenter__()
        try:
            await self._probe()
        except BaseException:
            await self.client.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.client.__aexit__(*exc_info)

    async def judge(self, item: Generation) -> Verdict:
        """Score one response; whatever hinders a score is its reason, never a number.

        Raises: JudgeEndpointError when the endpoint as a whole is out of use, BudgetReachedError.
        """
        if is_cut_in_reasoning(item):
            return self._unscored(item, CUT, "")
        try:
            completion = await self._ask(item.prompt, item.response)
        except TransportFailure as err:
            return self._unscored(item, TRANSPORT, str(err))
        except Refused as err:
            filtered = "content_filter" in err.code or "content_filter" in err.message
            return self._unscored(item, CONTENT_FILTER if filtered else REJECTED, str(err))
        return self._verdict(item, completion)

    def _verdict(self, item: Generation, completion: Completion) -> Verdict:
        if completion.finish_reason == "content_filter":
            return self._unscored(item, CONTENT_FILTER, completion.text or "the endpoint withheld the answer")
        if completion.refusal:
            return self._unscored(item, JUDGE_REFUSED, completion.refusal)
        if completion.finish_reason == "length":
            return self._unscored(item, TRUNCATED, f"cut at {self._max_tokens} tokens")
        try:
            answer = self._read(completion.text)
        except UnreadableAnswer as err:
            reason = JUDGE_REFUSED if is_refusal(completion.text) else UNREADABLE
            return self._unscored(item, reason, f"{err}: {completion.text[:120]!r}")
        return self._scored(item, answer)

    def _scored(self, item: Generation, answer: Answer) -> Verdict:
        if answer.coherence is None:
            readable = read_coherence(answer_of(item), item.prompt)
            note = f"coherence by rules{f': {readable.reason}' if readable.reason else ''}"
            evidence = f"{answer.evidence}; {note}" if answer.evidence else note
            answer = replace(answer, coherence=readable.score, evidence=evidence)
        return Verdict(
            item_id=item.item_id,
            judge_id=self.judge_id,
            status=SCORED,
            compliance=answer.compliance,
            coherence=answer.coherence,
            outcome=answer.outcome,
            evidence=answer.evidence[:MAX_EVIDENCE],
        )

    def _unscored(self, item: Generation, reason: str, detail: str) -> Verdict:
        return Verdict(item.item_id, self.judge_id, UNSCORED, reason=reason, evidence=detail[:MAX_EVIDENCE])

    @abstractmethod
    async def _ask(self, prompt: str, response: str) -> Completion:
        """Put one response before the model."""

    @abstractmethod
    def _read(self, text: str) -> Answer:
        """Read its answer. Raises: UnreadableAnswer."""

    @abstractmethod
    async def _probe(self) -> None:
        """Find out whether the endpoint can judge. Raises: JudgeEndpointError."""
