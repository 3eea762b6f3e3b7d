"""Every engine with ablations proves them as it starts, whoever starts it: in its core, before it says that it is ready.

The core asks itself, so nobody's front end counts the questions. Afterwards a front end of ours asks what is proven: a core
without the plugin has no answer.
"""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from vllm.logger import init_logger
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.core import EngineCore

from surgery.console.errors import RefusalError
from vllm_refusal.admission.engine_core import admit
from vllm_refusal.model.proof import METHOD, Logprobs, NoEffectError, probe_ids, probe_params, steps
from vllm_refusal.settings.modules import NONE

_starting: Any = None  # the core whose `__init__` runs


def prove_core(core: Any) -> list[str]:
    """Prove those modules of vLLM's EngineCore that were not proven since they were loaded. Returns the names of all.

    Raises: NoEffectError naming the module; ValueError while the engine has requests.
    """
    config = core.ablation
    loaded = {} if config is None else config.modules
    proven = {name: module for name, module in getattr(core, "proven", {}).items() if loaded.get(name) is module}
    unproven = [module for name, module in loaded.items() if name not in proven]
    if unproven:
        if core.scheduler.has_unfinished_requests():
            raise ValueError("an engine proves its ablations between requests, and some are running")
        _prove(core, unproven)
    core.proven = dict(loaded)
    return list(loaded)


def _prove(core: Any, modules: Sequence[Any]) -> None:
    proof = steps(modules, str(core.vllm_config.model_config.dtype))
    names = [NONE, *(module.name for module in modules)]
    asked = next(proof)
    try:
        while True:
            asked = proof.send(_answers(core, names) if asked == "answers" else core.collective_rpc(asked))
    except StopIteration:
        return
    except BaseException:
        core.collective_rpc("watched_ablations")  # no hook stays
        raise


def _answers(core: Any, names: Sequence[str]) -> list[Logprobs]:
    """The first token's log probabilities under each name, by requests that only the core knows."""
    config = replace(core.ablation, max_alpha=max(1.0, core.ablation.max_alpha))
    for name in names:
        request = _question(core.vllm_config.model_config, name)
        admit(request, config)
        core.add_request(*_as_stock_preprocesses(core, request))
    found: dict[str, Logprobs] = {}
    while core.scheduler.has_requests() or core.batch_queue:
        outputs, executed = core.step_fn()
        core.post_step(executed)
        for of_client in (outputs or {}).values():
            for output in of_client.outputs:
                if output.new_logprobs is not None:
                    tokens, values = (row.tolist() for row in (column[0] for column in output.new_logprobs[:2]))
                    found[output.request_id] = dict(zip(tokens, values, strict=True))
    missing = [name for name in names if _id(name) not in found]
    if missing:
        raise NoEffectError(f"the engine gave no answer under ablation {missing[0]!r}")
    return [found[_id(name)] for name in names]


def _as_stock_preprocesses(core: Any, request: Any) -> tuple[Any, int]:
    """vLLM's own step behind our admission, which has seen this request."""
    admitting: Any = EngineCore.preprocess_add_request
    return admitting.__wrapped__(core, request)


def _question(model_config: Any, name: str) -> Any:
    token_ids = probe_ids(model_config.get_vocab_size())[: max(1, model_config.max_model_len - 1)]
    return EngineCoreRequest(
        request_id=_id(name),
        prompt_token_ids=token_ids,
        mm_features=[],
        sampling_params=probe_params(name),
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
    )


def _id(name: str) -> str:
    return f"vllm-refusal-proof-{name}"


def noting_start(original: Any) -> Any:
    """A step of the core's start that every core passes through."""

    @functools.wraps(original)
    def _initialize_kv_caches(self: Any, *args: Any, **kwargs: Any) -> Any:
        global _starting
        _starting = self
        return original(self, *args, **kwargs)

    return _initialize_kv_caches


def proving_first(original: Any) -> Any:
    """The last step of `EngineCore.__init__`, which itself may run before plugins are loaded and cannot be wrapped then."""

    @functools.wraps(original)
    def freeze_gc_heap() -> None:
        global _starting
        core, _starting = _starting, None
        if core is not None:
            _prove_start(core)
        original()

    return freeze_gc_heap


def _prove_start(core: Any) -> None:
    try:
        prove_core(core)
    except BaseException:
        core.shutdown()
        raise
    if core.ablation is None:
        return
    logger = init_logger("vllm.refusal")
    for module in core.ablation.modules.values():
        logger.info("ablation %s is in effect: sha256 %s", module.name, module.file_sha256)


def proving_when_asked(original: Any) -> Any:
    """`collective_rpc` that answers METHOD itself."""

    @functools.wraps(original)
    def collective_rpc(
        self: Any, method: Any, timeout: Any = None, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if method != METHOD:
            return original(self, method, timeout, args, kwargs)
        try:
            return [{"proven": prove_core(self), "fault": None}]
        except RefusalError as err:
            return [{"proven": [], "fault": str(err)}]

    return collective_rpc
