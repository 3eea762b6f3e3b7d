"""A guard model as judge: served by vLLM, shown the request and the response, its one answer read as compliance."""

from typing import Any

from eval.endpoints.address import public_url
from eval.endpoints.replica import Refused
from eval.judge.endpoint.client import Completion, JudgeClient, JudgeEndpointError, TransportFailure
from eval.judge.endpoint.endpoint_judge import NOT_MEASURED, EndpointJudge
from eval.judge.endpoint.guards import Guard
from eval.judge.endpoint.scales import Answer, UnreadableAnswer
from eval.records.rows import Generation, Verdict

MAX_TOKENS = 64
_PROBE = ("Name a colour of the rainbow.", "One colour of the rainbow is green.")


class GuardJudge(EndpointJudge):
    """Scores compliance with a guard model, at temperature 0; coherence comes from the heuristic judge's rules.

    A guard that only knows whether a response is harmful says nothing about compliance with a safe request: such
    responses are unscored, with that reason.
    """

    kind = "guard"

    def __init__(self, model: str, client: JudgeClient, guard: Guard):
        """Set up; nothing is sent."""
        super().__init__(model, client, guard.name, [guard.sha256()], MAX_TOKENS, scores_coherence=False)
        self.guard = guard

    @property
    def rates_harm_only(self) -> bool:
        """Whether its verdicts say nothing about responses to harmless requests."""
        return self.guard.only_harmful

    def describe(self) -> dict[str, Any]:
        """What is recorded with a run: everything that decides the verdicts, and no credentials."""
        return {**super().describe(), **self.guard.describe(), "temperature": 0.0}

    async def judge(self, item: Generation) -> Verdict:
        """Score one response; see `EndpointJudge.judge`."""
        if self.guard.only_harmful and item.prompt_set != "harmful":
            return self._unscored(item, NOT_MEASURED, f"{self.guard.name} rates harm, not compliance")
        return await super().judge(item)

    def _read(self, text: str) -> Answer:
        return self.guard.read(text)

    async def _ask(self, prompt: str, response: str) -> Completion:
        common = {"model": self.model, "max_tokens": self._max_tokens, "temperature": 0.0}
        if self.guard.input:
            parts = self.guard.input.replace("{response}", "\0").replace("{prompt}", "\1")
            text = "".join({"\0": response, "\1": prompt}.get(char, char) for char in parts)
            return await self.client.complete(prompt=text, **common)
        talk = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        return await self.client.complete(messages=talk, **common)

    async def _probe(self) -> None:
        where = f"guard {self.model} at {public_url(self.client.base_url)}"
        try:
            completion = await self._ask(*_PROBE)
            self._read(completion.text)
        except TransportFailure as err:
            raise JudgeEndpointError(f"{where} cannot be reached: {err}") from err
        except Refused as err:
            raise JudgeEndpointError(f"{where} refuses a conversation of request and response ({err})") from err
        except UnreadableAnswer as err:
            raise JudgeEndpointError(
                f"{where} does not answer as {self.guard.name} does ({err}: {completion.text[:80]!r}); serve it with the "
                "chat template of its model card, or give its input format in a rubric file"
            ) from err
