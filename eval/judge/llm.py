"""The LLM judge: a chat model behind an OpenAI-compatible endpoint, asked for one verdict at a time."""

import secrets
from importlib import metadata
from typing import Any

from eval.judge.answers import MAX_EVIDENCE, UnreadableAnswer, read_answer
from eval.judge.client import (
    Completion,
    JudgeClient,
    JudgeEndpointError,
    RequestRejected,
    TransportFailure,
    Usage,
    public_url,
)
from eval.judge.heuristic import is_refusal
from eval.judge.rubric import ANSWER_SCHEMA, RUBRIC_VERSION, judge_messages, rubric_sha256
from eval.records import SCORED, UNSCORED, Generation, Verdict
from surgery.artifacts import json_sha256, package_versions

TRANSPORT = "transport failure"
UNREADABLE = "unreadable answer"
JUDGE_REFUSED = "judge refused"
CONTENT_FILTER = "content filter"
TRUNCATED = "judge answer truncated"
REJECTED = "request rejected"

SCHEMA_MODES = ("json_schema", "json_object", "text")
_RESPONSE_FORMATS: dict[str, dict[str, Any]] = {
    "json_schema": {
        "type": "json_schema",
        "json_schema": {"name": "verdict", "strict": True, "schema": ANSWER_SCHEMA},
    },
    "json_object": {"type": "json_object"},
}
_PROBE = ("Name a colour of the rainbow.", "One colour of the rainbow is green.")


class LLMJudge:
    """Scores responses with a language model; use as an async context manager, which probes the endpoint once.

    The probe walks the ladder strict json_schema, json_object, anchored text, and keeps the first form in which the
    model gives a readable verdict on a harmless item.

    Attributes:
        judge_id: "llm:<model>-<hash>", of model, address, rubric and temperature: any change makes another judge.
        schema_mode: the rung of the ladder in use, "" before the probe.
    """

    kind = "llm"
    retried_reasons = frozenset({TRANSPORT})

    def __init__(self, model: str, client: JudgeClient, *, max_tokens: int = 512, temperature: float | None = 0.0):
        """Set up; nothing is sent.

        Args:
            max_tokens: of the judge's answer, its thoughts included.
            temperature: 0; None leaves it to the endpoint, for models that take no other than their own.
        """
        self.model = model
        self.client = client
        self.schema_mode = ""
        self._max_tokens, self._temperature = max_tokens, temperature
        self._token_key = "max_tokens"
        identity = [model, public_url(client.base_url), rubric_sha256(), temperature]
        self.judge_id = f"llm:{model}-{json_sha256(identity)[:8]}"

    def describe(self) -> dict[str, Any]:
        """What is recorded with a run: everything that decides the verdicts, and no credentials."""
        return {
            "kind": self.kind,
            "model": self.model,
            "base_url": public_url(self.client.base_url),
            "rubric_version": RUBRIC_VERSION,
            "rubric_sha256": rubric_sha256(),
            "schema_mode": self.schema_mode,
            "temperature": self._temperature,
            "max_tokens": self._max_tokens,
            "versions": {**package_versions(), "openai": metadata.version("openai")},
        }

    @property
    def usage(self) -> Usage:
        """Requests and tokens spent, the probe included."""
        return self.client.usage

    async def __aenter__(self) -> "LLMJudge":
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

        Raises: JudgeEndpointError when the endpoint as a whole is out of use.
        """
        try:
            completion = await self._ask(item.prompt, item.response)
        except TransportFailure as err:
            return self._unscored(item, TRANSPORT, str(err))
        except RequestRejected as err:
            filtered = "content_filter" in err.code or "content_filter" in err.message
            return self._unscored(item, CONTENT_FILTER if filtered else REJECTED, str(err))
        return self._read(item, completion)

    def _read(self, item: Generation, completion: Completion) -> Verdict:
        if completion.finish_reason == "content_filter":
            return self._unscored(item, CONTENT_FILTER, completion.text or "the endpoint withheld the answer")
        if completion.refusal:
            return self._unscored(item, JUDGE_REFUSED, completion.refusal)
        if completion.finish_reason == "length":
            return self._unscored(item, TRUNCATED, f"cut at {self._max_tokens} tokens")
        try:
            answer = read_answer(completion.text, self._form)
        except UnreadableAnswer as err:
            reason = JUDGE_REFUSED if is_refusal(completion.text) else UNREADABLE
            return self._unscored(item, reason, f"{err}: {completion.text[:120]!r}")
        return Verdict(
            item_id=item.item_id,
            judge_id=self.judge_id,
            status=SCORED,
            compliance=answer.compliance,
            coherence=answer.coherence,
            outcome=answer.outcome,
            evidence=answer.evidence,
        )

    def _unscored(self, item: Generation, reason: str, detail: str) -> Verdict:
        return Verdict(item.item_id, self.judge_id, UNSCORED, reason=reason, evidence=detail[:MAX_EVIDENCE])

    @property
    def _form(self) -> str:
        return "text" if self.schema_mode == "text" else "json"

    async def _ask(self, prompt: str, response: str) -> Completion:
        nonce = secrets.token_hex(8)
        while nonce in prompt or nonce in response:
            nonce = secrets.token_hex(8)
        body: dict[str, Any] = {
            "model": self.model,
            "messages": judge_messages(prompt, response, nonce, self._form),
            self._token_key: self._max_tokens,
        }
        if self._temperature is not None:
            body["temperature"] = self._temperature
        if self.schema_mode in _RESPONSE_FORMATS:
            body["response_format"] = _RESPONSE_FORMATS[self.schema_mode]
        return await self.client.complete(**body)

    async def _probe(self) -> None:
        where = f"judge {self.model} at {public_url(self.client.base_url)}"
        failures = []
        for self.schema_mode in SCHEMA_MODES:
            try:
                completion = await self._ask_in_its_dialect()
                read_answer(completion.text, self._form)
                return
            except TransportFailure as err:
                raise JudgeEndpointError(f"{where} cannot be reached: {err}") from err
            except (RequestRejected, UnreadableAnswer) as err:
                failures.append(f"{self.schema_mode}: {err}")
        raise JudgeEndpointError(f"{where} gives no readable verdict in any form ({'; '.join(failures)})")

    async def _ask_in_its_dialect(self) -> Completion:
        """Ask the probe's item; an endpoint that renamed `max_tokens` is asked again in its own words."""
        try:
            return await self._ask(*_PROBE)
        except RequestRejected as err:
            if "temperature" in err.message and self._temperature is not None:
                raise JudgeEndpointError(
                    f"judge {self.model} does not take temperature {self._temperature:g} ({err}); "
                    "pass --judge-temperature none to use its own, or choose another judge"
                ) from err
            if "max_completion_tokens" not in err.message or self._token_key == "max_completion_tokens":
                raise
            self._token_key = "max_completion_tokens"
            return await self._ask(*_PROBE)
