"""The LLM judge: a chat model behind an OpenAI-compatible endpoint, asked for one verdict at a time."""

import secrets
from typing import Any

from eval.endpoints.address import public_url
from eval.endpoints.replica import Refused
from eval.judge.endpoint.answers import read_answer
from eval.judge.endpoint.client import Completion, JudgeClient, JudgeEndpointError, TransportFailure
from eval.judge.endpoint.endpoint_judge import EndpointJudge
from eval.judge.endpoint.rubric import STANDARD, Rubric, judge_messages
from eval.judge.endpoint.scales import Answer, UnreadableAnswer

SCHEMA_MODES = ("json_schema", "json_object", "text")
_PROBE = ("Name a colour of the rainbow.", "One colour of the rainbow is green.")


class LLMJudge(EndpointJudge):
    """Scores responses with a language model by a rubric.

    The probe walks the ladder strict json_schema, json_object, anchored text, and keeps the first form in which the
    model gives a readable verdict on a harmless item.

    Attributes:
        schema_mode: the rung of the ladder in use, "" before the probe.
    """

    def __init__(
        self,
        model: str,
        client: JudgeClient,
        *,
        rubric: Rubric = STANDARD,
        max_tokens: int = 512,
        temperature: float | None = 0.0,
    ):
        """Set up; nothing is sent.

        Args:
            max_tokens: of the judge's answer, its thoughts included.
            temperature: 0; None leaves it to the endpoint, for models that take no other than their own.
        """
        label = "" if rubric.name == STANDARD.name else rubric.name
        identity = [rubric.sha256(), temperature]
        super().__init__(model, client, label, identity, max_tokens, rubric.scale.scores_coherence)
        self.rubric = rubric
        self.schema_mode = ""
        self._temperature = temperature
        self._token_key = "max_tokens"

    def describe(self) -> dict[str, Any]:
        """What is recorded with a run: everything that decides the verdicts, and no credentials."""
        asked = {"schema_mode": self.schema_mode, "temperature": self._temperature}
        return {**super().describe(), **self.rubric.describe(), **asked}

    @property
    def _form(self) -> str:
        return "text" if self.schema_mode == "text" else "json"

    def _read(self, text: str) -> Answer:
        return read_answer(text, self._form, self.rubric.scale)

    async def _ask(self, prompt: str, response: str) -> Completion:
        nonce = secrets.token_hex(8)
        while nonce in prompt or nonce in response:
            nonce = secrets.token_hex(8)
        body: dict[str, Any] = {
            "model": self.model,
            "messages": judge_messages(prompt, response, nonce, self._form, self.rubric),
            self._token_key: self._max_tokens,
        }
        if self._temperature is not None:
            body["temperature"] = self._temperature
        if self.schema_mode != "text":
            body["response_format"] = self._response_format()
        return await self.client.complete(**body)

    def _response_format(self) -> dict[str, Any]:
        if self.schema_mode == "json_object":
            return {"type": "json_object"}
        schema = {"name": "verdict", "strict": True, "schema": self.rubric.scale.schema}
        return {"type": "json_schema", "json_schema": schema}

    async def _probe(self) -> None:
        where = f"judge {self.model} at {public_url(self.client.base_url)}"
        failures = []
        for self.schema_mode in SCHEMA_MODES:
            try:
                completion = await self._ask_in_its_dialect()
                self._read(completion.text)
                return
            except TransportFailure as err:
                raise JudgeEndpointError(f"{where} cannot be reached: {err}") from err
            except (Refused, UnreadableAnswer) as err:
                failures.append(f"{self.schema_mode}: {err}")
        raise JudgeEndpointError(f"{where} gives no readable verdict in any form ({'; '.join(failures)})")

    async def _ask_in_its_dialect(self) -> Completion:
        """Ask the probe's item; an endpoint that renamed `max_tokens` is asked again in its own words."""
        try:
            return await self._ask(*_PROBE)
        except Refused as err:
            if "temperature" in err.message and self._temperature is not None:
                raise JudgeEndpointError(
                    f"judge {self.model} does not take temperature {self._temperature:g} ({err}); "
                    "pass --judge-temperature none to use its own, or choose another judge"
                ) from err
            if "max_completion_tokens" not in err.message or self._token_key == "max_completion_tokens":
                raise
            self._token_key = "max_completion_tokens"
            return await self._ask(*_PROBE)
