"""A vLLM engine for bulk generation: one start, any mixture of interventions, responses as they finish."""

import gc
import logging
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import psutil

from surgery.console.errors import RefusalError
from surgery.model.models import ModelInfo
from surgery.residual.sites import RESID_SITES
from vllm_refusal.engine.captured import Captured, take_captured
from vllm_refusal.engine.lora import lora_arguments
from vllm_refusal.engine.replacement import replace_modules
from vllm_refusal.model.proof import METHOD, check_proven
from vllm_refusal.settings.capture import MAX_BYTES, CaptureConfig, CaptureRequest, capture_arguments
from vllm_refusal.settings.engine_settings import LARGEST_ALPHA

_QUIET = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_NO_USAGE_STATS": "1",
}
_MOST_SEQS = 1024  # vLLM's largest default of max_num_seqs
_AS_FITS = (
    -1
)  # the model's length, or what its key-value cache has room for: 131,072 tokens rarely fit and never matter
START_FAULTS = (OSError, RuntimeError, ValueError)
"""What vLLM raises when it cannot start on a model: unreadable files, no memory, settings that exclude each other."""


class EngineError(RefusalError):
    """vLLM cannot start on the model, or cannot answer a request."""


@dataclass(frozen=True)
class Sampling:
    """How responses are decoded; temperature 0 is greedy; `logprobs` asks for that many of each token's best.

    Raises: EngineError when the temperature is negative or not finite.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0
    logprobs: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:  # also true of NaN
            raise EngineError(f"temperature must be a finite number of at least 0, found {self.temperature}")

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of `vllm.SamplingParams`."""
        return {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "seed": self.seed if self.temperature > 0 else None,
            "logprobs": self.logprobs,
        }


@dataclass(frozen=True)
class Request:
    """One response to generate.

    Attributes:
        id: unique in the stream of requests.
        token_ids: the rendered prompt.
        ablation: keys merged into extra_args ("ablation", "ablation_alpha", "ablation_layers"); empty for none.
        capture: keys merged into extra_args ("capture_layers", "capture_sites"); empty for none.
        seed: of this request's sampling; None for that of `Sampling`.
        adapter: name of the engine's LoRA adapter that answers it; "" for none.
    """

    id: str
    token_ids: list[int]
    ablation: Mapping[str, Any] = field(default_factory=dict)
    capture: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    adapter: str = ""


@dataclass(frozen=True)
class Response:
    """One finished request.

    Attributes:
        finish_reason: the engine's word ("stop", "length").
        n_cached_tokens: prompt tokens whose keys and values came from the prefix cache.
        logprobs: for each generated token, token id -> natural log probability; empty unless asked for.
        captured: the residual stream at the last prompt token, when the request asked for it.
    """

    id: str
    text: str
    finish_reason: str
    n_prompt_tokens: int
    n_tokens: int
    n_cached_tokens: int = 0
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[Mapping[int, float], ...] = ()
    captured: Captured | None = None


@dataclass(frozen=True)
class EngineOptions:
    """What the user may choose about the engine.

    Attributes:
        dtype: "auto", "float32", "bfloat16" or "float16".
        eager: True skips compilation; None chooses eager on CPU, where compilation takes longer than most jobs.
        max_num_seqs: requests in one batch, None for vLLM's default.
        capture: requests may read the residual stream; on a GPU vLLM then runs its V1 model runner.
        vllm: further keyword arguments of `vllm.LLM`. Unless given here, the longest prompt is what fits in memory.
    """

    dtype: str = "auto"
    eager: bool | None = None
    max_num_seqs: int | None = None
    capture: bool = False
    vllm: Mapping[str, Any] = field(default_factory=dict)


class Engine:
    """A started engine. Use as a context manager, so that it is shut down."""

    def __init__(
        self,
        info: ModelInfo,
        modules: Mapping[str, Mapping[str, Any]],
        options: EngineOptions,
        adapters: Mapping[str, Path] | None = None,
        room: Mapping[str, Any] | None = None,
    ):
        """Start vLLM on a model.

        Args:
            modules: name -> module settings of additional_config["ablation"]; empty starts stock vLLM, whose plugin
                is then without effect.
            adapters: name -> folder of a LoRA adapter in PEFT's format, for requests that name it.
            room: max_modules and max_rank of additional_config["ablation"], for modules that replace these later.
        Raises: RefusalError when a module or an adapter does not fit, EngineError when vLLM cannot start on the model,
            NoEffectError when it does not do what a module says.
        """
        _be_quiet()
        self._adapters = dict(adapters or {})
        arguments = _arguments(info, modules, options, room or {}) | lora_arguments(self._adapters) | dict(options.vllm)
        _check_arguments(arguments)
        from vllm import LLM

        try:
            self._llm: Any = LLM(**arguments)
        except START_FAULTS as err:
            raise EngineError(start_fault(info.model, err)) from err
        try:
            if modules or room:
                self._check_proven(modules)
        except BaseException:
            self.close()
            raise
        self.info = info
        self._capturing: set[str] = set()
        self.description: dict[str, Any] = {
            "vllm": _vllm_version(),
            "dtype": str(self._llm.llm_engine.model_config.dtype).removeprefix("torch."),
            "eager": arguments["enforce_eager"],
        }
        if options.vllm:
            self.description["arguments"] = dict(options.vllm)

    def _check_proven(self, modules: Iterable[str]) -> None:
        """Raises: NoEffectError when vLLM does not do what the modules say, or runs without the plugin."""
        check_proven(list(modules), self._llm.collective_rpc(METHOD) if _has_plugin(self._llm) else [None])

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the engine and free its memory."""
        llm, self._llm = self._llm, None
        if llm is not None:
            llm.llm_engine.engine_core.shutdown()
            del llm
            gc.collect()

    def replace_modules(self, modules: Mapping[str, Mapping[str, Any]]) -> None:
        """Take the modules away and load these, in the room that the engine started with, between requests.

        Raises: RefusalError when one does not fit; ValueError while requests run.
        """
        replace_modules(self._llm, modules)
        self._check_proven(modules)

    @property
    def max_model_len(self) -> int:
        """Longest prompt and response together, in tokens."""
        return self._llm.llm_engine.model_config.max_model_len

    @property
    def n_pending_tokens(self) -> int:
        """Tokens generated so far for requests that have not finished; another thread may ask."""
        states = list(self._llm.llm_engine.output_processor.request_states.values())
        return sum(state.detokenizer.num_output_tokens() for state in states if state.detokenizer is not None)

    def generate(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Response]:
        """Answer requests, yielding each response as soon as it has finished; order is not kept."""
        for outputs in self.finished(requests, sampling.arguments()):
            yield from self._responses(outputs)

    def finished(self, requests: Iterable[Request], sampling: Mapping[str, Any]) -> Iterator[list[Any]]:
        """Run requests; after each step, vLLM's `RequestOutput` of those that have finished.

        The engine is fed a few batches ahead, so any number of requests fits in memory.

        Args:
            sampling: keyword arguments of `vllm.SamplingParams`.
        """
        engine = self._llm.llm_engine
        ahead = 4 * engine.vllm_config.scheduler_config.max_num_seqs
        waiting = iter(requests)
        exhausted = False
        while True:
            while not exhausted and engine.get_num_unfinished_requests() < ahead:
                request = next(waiting, None)
                if request is None:
                    exhausted = True
                else:
                    self._add(request, sampling)
            if exhausted and not engine.has_unfinished_requests():
                return
            yield [output for output in engine.step() if output.finished]

    def _responses(self, outputs: Sequence[Any]) -> Iterator[Response]:
        """Finished requests, with what was captured for those that asked."""
        asked = [output.request_id for output in outputs if output.request_id in self._capturing]
        captured = take_captured(self._llm, asked) if asked else {}
        self._capturing.difference_update(asked)
        yield from (_response(output, captured.get(output.request_id)) for output in outputs)

    def _add(self, request: Request, sampling: Mapping[str, Any]) -> None:
        from vllm import SamplingParams
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            **_seeded(sampling, request),
            extra_args={**request.ablation, **request.capture} or None,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        lora = self._lora_request(request.adapter)
        self._llm.llm_engine.add_request(request.id, tokens_input(request.token_ids), params, lora_request=lora)
        if request.capture:
            self._capturing.add(request.id)

    def _lora_request(self, name: str) -> Any:
        if not name and not self._adapters:
            return None
        if name not in self._adapters:
            raise EngineError(f"adapter {name!r} is not loaded; loaded: {', '.join(self._adapters) or 'none'}")
        from vllm.lora.request import LoRARequest

        return LoRARequest(name, 1 + list(self._adapters).index(name), str(self._adapters[name]))


def _has_plugin(llm: Any) -> bool:
    return getattr(llm.llm_engine.input_processor, "ablation", None) is not None


def _seeded(sampling: Mapping[str, Any], request: Request) -> Mapping[str, Any]:
    """The sampling with the request's own seed, where it has one and anything is drawn."""
    own = request.seed is not None and sampling["temperature"] > 0
    return {**sampling, "seed": request.seed} if own else sampling


def start_fault(model: str, err: BaseException) -> str:
    """One line for a vLLM that could not start."""
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return f"vLLM could not start on {model}: {type(err).__name__}: {' '.join(lines)[:400]}"


def _be_quiet() -> None:
    """Keep vLLM's own messages below errors off the terminal, unless the user has chosen otherwise."""
    for key, value in _QUIET.items():
        os.environ.setdefault(key, value)
    if os.environ["VLLM_LOGGING_LEVEL"] == "ERROR":  # said while vLLM is imported, before it reads the level
        logging.getLogger("vllm.triton_utils.importing").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="vllm")


def _arguments(
    info: ModelInfo, modules: Mapping[str, Mapping[str, Any]], options: EngineOptions, room: Mapping[str, Any]
) -> dict[str, Any]:
    on_cpu = _on_cpu()
    arguments: dict[str, Any] = {
        "model": info.path,
        "dtype": options.dtype,
        "enforce_eager": on_cpu if options.eager is None else options.eager,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        "generation_config": "vllm",
        "max_model_len": _AS_FITS,
    }
    if on_cpu:
        # In one process the engine starts in seconds instead of most of a minute.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        arguments |= cpu_cache_argument()
        if not _is_parallel(options.vllm):
            arguments["distributed_executor_backend"] = "uni"
    if options.max_num_seqs is not None:
        arguments["max_num_seqs"] = options.max_num_seqs
    if options.capture:
        os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")
        arguments |= capture_arguments(_capture_bytes(info, options))
    if modules:
        named = {name: dict(spec) for name, spec in modules.items()}
        settings = {"modules": named, "max_alpha": LARGEST_ALPHA, **room}  # there is nobody else's answer to spoil here
        arguments["additional_config"] = {**arguments.get("additional_config", {}), "ablation": settings}
    return arguments


def _is_parallel(vllm: Mapping[str, Any]) -> bool:
    return any(vllm.get(f"{kind}_parallel_size", 1) != 1 for kind in ("tensor", "pipeline"))


def _check_arguments(arguments: Mapping[str, Any]) -> None:
    """Raises: EngineError naming an argument that this vLLM does not have."""
    from vllm.engine.arg_utils import EngineArgs

    known = {argument.name for argument in fields(EngineArgs)}
    unknown = sorted(set(arguments) - known)
    if unknown:
        near = [
            f"{name} (is it {close[0]}?)" if (close := get_close_matches(name, known, 1)) else name for name in unknown
        ]
        raise EngineError(f"vLLM {_vllm_version()} has no engine argument {', '.join(near)}")


def _capture_bytes(info: ModelInfo, options: EngineOptions) -> int:
    """A bound that two full batches cannot reach; the engine fetches what was captured as soon as a request finishes."""
    everything = CaptureRequest("", tuple(range(info.n_layers)), RESID_SITES)
    n_bytes = CaptureConfig(info.n_layers, info.d_model).n_bytes(everything)
    return max(MAX_BYTES, 2 * (options.max_num_seqs or _MOST_SEQS) * n_bytes)


def cpu_cache_argument() -> dict[str, int]:
    """vLLM's argument that gives the CPU engine's key-value cache a quarter of the free memory, 1 to 16 GiB.

    Empty on a GPU, and where $VLLM_CPU_KVCACHE_SPACE says how much, since vLLM takes that before any argument. Left
    alone, the CPU engine asks for 92 % of the whole memory and does not start where other programs use some.
    """
    if not _on_cpu() or os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
        return {}
    gib = psutil.virtual_memory().available // 4 // 2**30
    return {"kv_cache_memory_bytes": min(max(gib, 1), 16) * 2**30}


def _on_cpu() -> bool:
    from vllm.platforms import current_platform

    return current_platform.is_cpu()


def _vllm_version() -> str:
    import vllm

    return vllm.__version__


def _response(output: Any, captured: Captured | None) -> Response:
    completion = output.outputs[0]
    return Response(
        id=output.request_id,
        text=completion.text,
        finish_reason=completion.finish_reason or "unknown",
        n_prompt_tokens=len(output.prompt_token_ids),
        n_tokens=len(completion.token_ids),
        n_cached_tokens=output.num_cached_tokens or 0,
        token_ids=tuple(completion.token_ids),
        logprobs=tuple({token: item.logprob for token, item in step.items()} for step in completion.logprobs or ()),
        captured=captured,
    )
