"""The variants as a server has them (refusal serve): its model, and the ablations that it lists."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from eval.cost.benchmark.tasks import BenchmarkError
from eval.endpoints.address import checked_urls
from eval.endpoints.completions import NEUTRAL, SILENT_SECONDS, ask_models, complete
from eval.endpoints.pool import Pool
from eval.endpoints.replica import Fault, Replica
from eval.endpoints.served_models import Needs, ServedModels, ServersError
from eval.plan.conditions import Condition
from surgery.model.models import ModelInfo, load_tokenizer
from surgery.residual.layers import format_layers
from vllm_refusal.settings.modules import AblationModule
from vllm_refusal.settings.request import ALPHA, LAYERS, NAME

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vllm_refusal.engine.distributions import TextScores

CONCURRENCY = 32
ATTEMPTS = 6


class Server:
    """One OpenAI-compatible server of vLLM's, asked in token ids.

    Attributes:
        served: what it says it serves.
    """

    def __init__(self, url: str, api_key: str = "", served_model: str | None = None, concurrency: int | None = None):
        """Ask what it serves.

        Args:
            url: e.g. "http://localhost:8000/v1".
            served_model: name of the unedited model there; None for the only one.
            concurrency: requests in flight.
        Raises: ServersError when it cannot be reached, refuses the key or serves something else.
        """
        (url,) = checked_urls([url], "--base-url", ServersError)
        most = concurrency or CONCURRENCY
        self._pool = Pool(
            [Replica(url, api_key, concurrency=(most, most), timeout=SILENT_SECONDS)], max_attempts=ATTEMPTS
        )
        self.served = asyncio.run(self._listed(served_model))
        if self.served.max_model_len is None:
            raise ServersError(f"{url}: does not say how long its requests may be; expected a server of vLLM")

    def complete_all(self, bodies: Sequence[Mapping[str, Any]]) -> list[Any]:
        """The first choice of each completion, in the order of the requests. Raises: ServersError."""
        return asyncio.run(self._completed(bodies))

    async def _listed(self, served_model: str | None) -> ServedModels:
        async with self._pool:
            (replica,) = self._pool.replicas
            try:
                return await ask_models(replica, served_model)
            except Fault as fault:  # nobody there: said at once
                raise ServersError(f"{replica.url}: {fault}") from fault

    async def _completed(self, bodies: Sequence[Mapping[str, Any]]) -> list[Any]:
        async def one(body: Mapping[str, Any]) -> Any:
            try:
                choice, _ = await self._pool.ask(lambda replica: complete(replica, body))
            except Fault as fault:
                raise ServersError(f"{fault.url} failed {fault.n_attempts} times, the last: {fault}") from fault
            return choice

        try:
            async with self._pool, asyncio.TaskGroup() as tasks:
                asked = [tasks.create_task(one(body)) for body in bodies]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        return [task.result() for task in asked]


class ServedAnswerer:
    """One model of a server."""

    def __init__(self, server: Server, fields: Mapping[str, Any]):
        """Args: fields: of every request: "model" and, as vLLM's "vllm_xargs", what is ablated."""
        self.max_length = server.served.max_model_len or 0
        self._server, self._fields = server, {**fields, **NEUTRAL}

    def score(self, texts: "Sequence[list[int]]") -> "list[TextScores]":
        """See `Answerer.score`."""
        asked = {**self._fields, "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
        choices = self._server.complete_all([{**asked, "prompt": token_ids} for token_ids in texts])
        return [_scores(choice, token_ids) for choice, token_ids in zip(choices, texts, strict=True)]

    def answer(self, prompts: Sequence[list[int]], sampling: Mapping[str, Any]) -> list[str]:
        """See `Answerer.answer`."""
        asked = {**self._fields, "seed": 0, **sampling}
        choices = self._server.complete_all([{**asked, "prompt": token_ids} for token_ids in prompts])
        return [choice["text"] for choice in choices]

    def next_token_logprobs(self, prompts: Mapping[str, list[int]]) -> "Iterator[tuple[str, NDArray[np.float32]]]":
        """Nothing for no prompts. Raises: BenchmarkError for any: servers give out a few log probabilities a token."""
        if prompts:
            raise BenchmarkError("a server gives out no whole distributions; use --backend vllm or hf")
        return iter(())


class ServedBackend:
    """A server's model and ablations. Its weights cannot be seen from here, so there are no other variants."""

    name, has_distributions = "served", False

    def __init__(self, server: Server, info: ModelInfo):
        self._server, self._info = server, info
        self._fields: dict[str, Mapping[str, Any]] = {}

    @property
    def versions(self) -> list[str]:
        """What can be told of a server that scores depend on: which of its models answers, and where it cuts."""
        return [self.name, self._server.served.base, str(self._server.served.max_model_len)]

    def use_own(self, names: Sequence[str]) -> list[Condition]:
        """Variants of the server's own ablations, with its strengths and layers; of all of them without names.

        Raises: BenchmarkError for one that it does not list, or does not say what is removed by.
        """
        served = self._server.served.ablations
        missing = [name for name in names if name not in served]
        if missing:
            raise BenchmarkError(f"--ablation {missing[0]}: the server lists {', '.join(served) or 'no ablation'}")
        return [self._own(name, served[name]) for name in names or served]

    def use_files(self, modules: Mapping[str, AblationModule], settings: Mapping[str, Mapping[str, Any]]) -> None:
        """Have the server answer for ablations of files. Raises: ServersError when it does not have one of them."""
        needs = Needs(modules, settings)
        self._server.served.check(needs)
        self._fields |= {name: self._server.served.asks_for({NAME: name}, needs) for name in modules}

    @contextmanager
    def loaded(self, variant: Condition, date: str | None = None) -> Iterator[Any]:
        """The variant as a model of lm-evaluation-harness. Documents are rendered here: the server's date is never asked."""
        from eval.cost.benchmark.token_model import TokenModel

        fields = self._fields.get(variant.id) or self._server.served.asks_for({}, Needs({}, {}))
        yield TokenModel(ServedAnswerer(self._server, fields), load_tokenizer(self._info, date))

    def close(self) -> None:
        """Nothing is kept."""

    def _own(self, name: str, details: Mapping[str, Any]) -> Condition:
        try:
            alpha, layers = float(details["alpha"]), tuple(details["layers"])
            identity = f"{details['basis_sha256']}:{alpha:g}:{layers}:{details['site']}"
        except (KeyError, TypeError, ValueError) as err:
            raise BenchmarkError(f"--ablation {name}: the server does not say what is removed by it ({err})") from err
        self._fields[name] = {"model": name, "vllm_xargs": {ALPHA: alpha, LAYERS: format_layers(layers)}}
        return Condition(name, "named", name, alpha, source=identity)


def _scores(choice: Any, token_ids: Sequence[int]) -> "TextScores":
    """Raises: ServersError when other tokens were scored than those sent."""
    import numpy as np

    from vllm_refusal.engine.distributions import TextScores

    try:
        found = [step[str(token)] for token, step in zip(token_ids[1:], choice["prompt_logprobs"][1:], strict=True)]
        logprobs, ranks = [item["logprob"] for item in found], [item["rank"] for item in found]
    except (TypeError, KeyError, ValueError) as err:
        raise ServersError(
            f"the server scored other tokens than it was sent, or none ({type(err).__name__}); it must take token ids "
            "and prompt_logprobs as /v1/completions of vLLM does"
        ) from err
    return TextScores(np.asarray(logprobs, dtype=np.float64), np.asarray(ranks) == 1)
