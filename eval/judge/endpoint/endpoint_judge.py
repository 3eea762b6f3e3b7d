"""A judge behind an endpoint: asked for one verdict at a time, its answer a score or a reason, never a guess."""

from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from eval.endpoints.address import public_url
from eval.endpoints.replica import Refused
from eval.endpoints.spending import Ledger, Usage, read_spending
from eval.judge.endpoint.client import Completion, JudgeClient, JudgeEndpointError, TransportFailure
from eval.judge.endpoint.question import Question
from eval.judge.endpoint.rubric import STANDARD
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
_PROBE = ("Name a colour of the rainbow.", "One colour of the rainbow is green.")


class EndpointJudge(Judge):
    """A judge behind an OpenAI-compatible endpoint; use as an async context manager, which probes it once.

    The probe walks the forms of an answer that its question has, and keeps the first in which the model gives a readable
    verdict on a harmless item. A judge that does not rate coherence takes it from the rules of the heuristic judge, and
    its description says so.

    Attributes:
        judge_id: "<kind>:<model>-<hash>", of model, address, question, temperature and, where coherence comes from rules,
            those rules: any change makes another judge.
        schema_mode: the form of its answers, "" before the probe.
    """

    retried_reasons = frozenset({TRANSPORT})

    def __init__(
        self,
        model: str,
        client: JudgeClient,
        question: Question = STANDARD,
        *,
        max_tokens: int = 512,
        temperature: float | None = 0.0,
    ):
        """Set up; nothing is sent.

        Args:
            question: a rubric or a guard; what it fixes is not taken from here.
            max_tokens: of the judge's answer, its thoughts included.
            temperature: 0; None leaves it to the endpoint, for models that take no other than their own.
        """
        self.model, self.client, self.question, self.kind = model, client, question, question.kind
        self.rates_harm_only = question.only_harmful
        self._max_tokens = question.fixed.get("max_tokens", max_tokens)
        self._temperature = question.fixed.get("temperature", temperature)
        self._token_key = "max_tokens"
        self.schema_mode = ""
        identity = [question.sha256(), *([] if question.fixed else [temperature])]
        identity += [] if question.scores_coherence else [coherence_sha256()]
        name = model if question.name == STANDARD.name else f"{model}/{question.name}"
        self.judge_id = f"{self.kind}:{name}-{json_sha256([model, public_url(client.base_url), *identity])[:8]}"

    def describe(self) -> dict[str, Any]:
        """What is recorded with a run: everything that decides the verdicts, and no credentials."""
        urls, by_rules = self.client.urls, f"by rules: heuristic:coherence-{coherence_sha256()}"
        return {
            "kind": self.kind,
            "model": self.model,
            "base_url": urls[0],
            **({"replicas": urls} if len(urls) > 1 else {}),
            "max_tokens": self._max_tokens,
            **({} if self.question.scores_coherence else {"coherence": by_rules}),
            "versions": {**package_versions(), "openai": metadata.version("openai")},
            **self.question.describe(),
            **({"schema_mode": self.schema_mode} if len(self.question.forms) > 1 else {}),
            "temperature": self._temperature,
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
        if self.rates_harm_only and item.prompt_set != "harmful":
            return self._unscored(item, NOT_MEASURED, f"{self.question.name} rates harm, not compliance")
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
            answer = self.question.read(completion.text, self.schema_mode)
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

    async def _ask(self, prompt: str, response: str) -> Completion:
        """Put one response before the model."""
        body = self.question.ask(prompt, response, self.schema_mode)
        if self._temperature is not None:
            body["temperature"] = self._temperature
        return await self.client.complete(model=self.model, **{self._token_key: self._max_tokens}, **body)

    async def _probe(self) -> None:
        """Find out whether the endpoint can judge, and in which form. Raises: JudgeEndpointError."""
        where = f"{'guard' if self.kind == 'guard' else 'judge'} {self.model} at {public_url(self.client.base_url)}"
        failures = []
        for form in self.question.forms:
            self.schema_mode = form
            try:
                completion = await self._ask_in_its_dialect()
                self.question.read(completion.text, form)
                return
            except TransportFailure as err:
                raise JudgeEndpointError(f"{where} cannot be reached: {err}") from err
            except UnreadableAnswer as err:
                failures.append(f"{form} {err}: {completion.text[:80]!r}".strip())
            except Refused as err:
                failures.append(f"{form} {err}".strip())
        raise JudgeEndpointError(f"{where} {self.question.unusable(failures)}")

    async def _ask_in_its_dialect(self) -> Completion:
        """Ask the probe's item; an endpoint that renamed `max_tokens` is asked again in its own words."""
        try:
            return await self._ask(*_PROBE)
        except Refused as err:
            if "temperature" in err.message and self._temperature is not None and not self.question.fixed:
                raise JudgeEndpointError(
                    f"judge {self.model} does not take temperature {self._temperature:g} ({err}); "
                    "pass --judge-temperature none to use its own, or choose another judge"
                ) from err
            if "max_completion_tokens" not in err.message or self._token_key == "max_completion_tokens":
                raise
            self._token_key = "max_completion_tokens"
            return await self._ask(*_PROBE)
