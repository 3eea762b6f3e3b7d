"""Where requests enter vLLM: settings are loaded, our keys checked and resolved, cache keys kept apart.

The front end resolves a request's keys, so that a fault is the client's 400 or 404. The engine core resolves them again,
behind every front end, those that know nothing of us included: what it resolves is what is applied.
"""

import functools
import json
from typing import Any

from vllm_refusal.model.proof import proving
from vllm_refusal.settings.capture import RESOLVED as CAPTURE_RESOLVED
from vllm_refusal.settings.capture import asks_for_capture, resolve_capture
from vllm_refusal.settings.modules import NONE, AblationConfig
from vllm_refusal.settings.request import (
    NAME,
    RESOLVED,
    Intervention,
    RequestError,
    ablation_of,
    digest_of,
    make_intervention,
    resolve,
)

_installed = False


def install() -> None:
    """Wrap vLLM's input processor (front end), request construction and engine core, once per process."""
    global _installed
    if _installed:
        return
    from vllm.v1.engine.core import EngineCore
    from vllm.v1.engine.input_processor import InputProcessor

    InputProcessor.__init__ = _loading_settings(InputProcessor.__init__)
    InputProcessor.process_inputs = _resolving_keys(InputProcessor.process_inputs)
    EngineCore._initialize_kv_caches = _loading_settings_in_core(EngineCore._initialize_kv_caches)
    EngineCore.preprocess_add_request = _admitting(EngineCore.preprocess_add_request)
    EngineCore.collective_rpc = _following_modules(EngineCore.collective_rpc)
    EngineCore.count_ablation_requests = count_ablation_requests
    _installed = True


def _loading_settings(original: Any) -> Any:
    """A bad module stops the engine before it serves."""

    @functools.wraps(original)
    def __init__(self: Any, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
        from vllm_refusal.settings.capture import load_capture
        from vllm_refusal.settings.loading import load_config

        self.ablation, self.capture = load_config(vllm_config), load_capture(vllm_config)
        _forget_what_the_core_refuses()
        if self.ablation is not None:
            _refuse_beam_search(self.ablation.default)
        if self.capture is not None:
            _refuse_online_capture()
        original(self, vllm_config, *args, **kwargs)

    return __init__


@functools.cache
def _refuse_beam_search(default: str | None) -> None:
    """Beam search drops a request's extra keys, so one that asks for an ablation would be answered without it."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest

    for request_class in (ChatCompletionRequest, CompletionRequest):
        request_class.to_beam_search_params = refusing_ablation(request_class.to_beam_search_params, default)


def refusing_ablation(original: Any, default: str | None) -> Any:
    """`to_beam_search_params` that refuses every key of ours, but "none" where the engine has no default anyway."""

    @functools.wraps(original)
    def to_beam_search_params(self: Any, *args: Any, **kwargs: Any) -> Any:
        from vllm.exceptions import VLLMValidationError

        asked = {key: value for key, value in (self.vllm_xargs or {}).items() if key.startswith(NAME)}
        if asked and not (asked == {NAME: NONE} and default is None):
            what = f"ablation {asked[NAME]!r}" if NAME in asked else ", ".join(asked)
            message = f"beam search cannot apply {what}; use sampling or greedy decoding"
            raise VLLMValidationError(message, parameter="vllm_xargs")
        return original(self, *args, **kwargs)

    return to_beam_search_params


@functools.cache
def _refuse_online_capture() -> None:
    """Only an offline caller can fetch activations from the workers; a server would gather them for nobody."""
    from vllm.v1.engine.async_llm import AsyncLLM

    AsyncLLM.add_request = _refusing_capture(AsyncLLM.add_request)


def _refusing_capture(original: Any) -> Any:
    @functools.wraps(original)
    async def add_request(self: Any, request_id: str, prompt: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
        from vllm.exceptions import VLLMValidationError

        if asks_for_capture(getattr(params, "extra_args", None)):
            message = "capture is offline only (vllm.LLM): no reply over HTTP carries activations"
            raise VLLMValidationError(message, parameter="vllm_xargs")
        return await original(self, request_id, prompt, params, *args, **kwargs)

    return add_request


def _resolving_keys(original: Any) -> Any:
    """What the client's keys amount to is added, on the engine's own copy, as resolved records for the workers."""

    @functools.wraps(original)
    def process_inputs(self: Any, request_id: str, prompt: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
        resolved = _resolve_or_refuse(request_id, params, proving.get() or self.ablation, self.capture)
        request = original(self, request_id, prompt, params, *args, **kwargs)
        if self.ablation is not None:
            _refuse_what_is_not_finite(request.prompt_embeds)
        if resolved and request.resumable:
            _refuse_streamed_prompt()
        if resolved:
            request.sampling_params.extra_args = {**(request.sampling_params.extra_args or {}), **resolved}
        return request

    return process_inputs


def _refuse_what_is_not_finite(prompt_embeds: Any) -> None:
    """Not finite, they would stay in the keys and values of a block and reach whoever is given it next."""
    from vllm.exceptions import VLLMValidationError

    if prompt_embeds is not None and not prompt_embeds.isfinite().all():
        raise VLLMValidationError("prompt_embeds hold numbers that are not finite", parameter="prompt_embeds")


def _refuse_streamed_prompt() -> None:
    """The parts of a streamed prompt have sampling parameters each, but one slot and one cache key between them."""
    from vllm.exceptions import VLLMValidationError

    message = "a streamed prompt cannot carry an ablation or a capture; send the prompt whole, or name ablation 'none'"
    raise VLLMValidationError(message, parameter="extra_args")


def _resolve_or_refuse(request_id: str, params: Any, ablation: Any, capture: Any) -> dict[str, Any]:
    """The request's records by key; a fault is the client's: 404 for an unknown name over HTTP, else 400."""
    from vllm.exceptions import VLLMNotFoundError, VLLMValidationError

    from surgery.console.errors import RefusalError
    from vllm_refusal.settings.request import UnknownAblationError

    if not hasattr(params, "extra_args"):  # pooling requests; an engine for them does not start with these settings
        return {}
    try:
        found = {
            RESOLVED: resolve(params.extra_args, ablation),
            CAPTURE_RESOLVED: resolve_capture(request_id, params.extra_args, capture),
        }
        return {key: record.to_wire() for key, record in found.items() if record is not None}
    except UnknownAblationError as err:
        raise VLLMNotFoundError(str(err)) from err
    except RefusalError as err:
        raise VLLMValidationError(str(err), parameter="vllm_xargs") from err


def refuse_unloaded(request: Any, config: AblationConfig) -> None:
    """Refuse a request whose ablation was unloaded, or replaced, after its keys were resolved.

    Raises: VLLMNotFoundError.
    """
    from vllm.exceptions import VLLMNotFoundError

    from vllm_refusal.settings.request import UnknownAblationError

    name = ablation_of(request)
    if name == NONE:
        return
    carried = Intervention.from_wire(request.sampling_params.extra_args[RESOLVED])
    if name not in config.modules or make_intervention(config, name, carried.alpha, carried.layers) != carried:
        fault = UnknownAblationError(f"ablation {name!r} was unloaded while the request arrived")
        raise VLLMNotFoundError(str(fault)) from fault  # counted by its cause, as a name that was never loaded


def count_ablation_requests(core: Any, name: str) -> int:
    """Requests of an engine core under an ablation, waiting, running or preempted. A method of vLLM's EngineCore."""
    return sum(ablation_of(request) == name for request in core.scheduler.requests.values())


def _loading_settings_in_core(original: Any) -> Any:
    """A step of the core's own start: in a process of its own it loads plugins only after `__init__` has begun."""

    @functools.wraps(original)
    def _initialize_kv_caches(self: Any, vllm_config: Any) -> Any:
        from vllm_refusal.settings.loading import load_config

        self.ablation = load_config(vllm_config)
        return original(self, vllm_config)

    return _initialize_kv_caches


@functools.cache
def _forget_what_the_core_refuses() -> None:
    """Where the core is in the front end's process, nobody else ends a request that it refuses."""
    from vllm.v1.engine.llm_engine import LLMEngine

    LLMEngine.add_request = _forgetting_refused(LLMEngine.add_request)


def _forgetting_refused(original: Any) -> Any:
    @functools.wraps(original)
    def add_request(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(self, *args, **kwargs)
        except Exception:
            core = getattr(self.engine_core, "engine_core", None)
            if core is not None:
                waiting = self.output_processor.request_states.items()
                lost = [(name, state.parent_req) for name, state in waiting if name not in core.scheduler.requests]
                names = {name if parent is None else parent.request_id for name, parent in lost}
                self.abort_request(list(names), internal=True)
            raise

    return add_request


def _admitting(original: Any) -> Any:
    """An exception here ends this request alone: a core in a process of its own answers it with an error."""

    @functools.wraps(original)
    def preprocess_add_request(self: Any, request: Any) -> Any:
        admit(request, self.ablation)
        return original(self, request)

    return preprocess_add_request


def admit(request: Any, config: AblationConfig | None) -> None:
    """Resolve a request's keys in the engine core, and keep its cached blocks apart from those under other interventions.

    Args:
        request: vLLM's EngineCoreRequest; its extra_args get the record that the workers read, or lose it.
        config: the engine's modules, None when it was started without.
    Raises: RequestError, UnknownAblationError, LayerRangeError, AlphaError: the request cannot be honoured.
    """
    params = request.sampling_params
    if params is None:  # a pooling request; an engine for them does not start with these settings
        return
    asked = {key: value for key, value in (params.extra_args or {}).items() if key != RESOLVED}
    _check_capture_was_resolved(asked)
    intervention = resolve(asked, config)
    if intervention is not None:
        if request.resumable:
            _refuse_streamed_prompt()
        asked[RESOLVED] = intervention.to_wire()
    _check_same(params.extra_args or {}, asked)
    params.extra_args = asked or None
    if config is not None:
        _refuse_what_is_not_finite(request.prompt_embeds)
        request.cache_salt = json.dumps([request.cache_salt, digest_of(asked)])


def _check_capture_was_resolved(extra_args: Any) -> None:
    if asks_for_capture(extra_args) and CAPTURE_RESOLVED not in extra_args:
        raise RequestError("capture was not resolved by the front end; ask for it through vllm.LLM")


def _check_same(carried: Any, found: Any) -> None:
    """A record of the front end's must be what the core finds: else the module was unloaded or replaced in between."""
    if RESOLVED in carried and digest_of(carried) != digest_of(found):
        raise RequestError("the request's ablation was resolved to something else by the front end; ask again")


def _following_modules(original: Any) -> Any:
    """The core admits for the modules that its workers have been told to load and unload."""

    @functools.wraps(original)
    def collective_rpc(self: Any, method: Any, timeout: Any = None, args: tuple = (), kwargs: Any = None) -> Any:
        from vllm_refusal.settings.loading import load_another

        answers = original(self, method, timeout, args, kwargs)
        if method == "load_ablation" and not any(answer["fault"] for answer in answers):
            self.ablation = self.ablation.with_module(load_another(args[0], dict(args[1]), self.vllm_config))
        elif method == "unload_ablation":
            self.ablation = self.ablation.without(args[0])
        return answers

    return collective_rpc
