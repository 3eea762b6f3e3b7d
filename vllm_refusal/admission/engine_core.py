"""The engine core's half of admission: a request's keys are resolved again, and its cached blocks kept apart."""

import functools
import json
from collections.abc import Mapping
from typing import Any

from vllm_refusal.admission import refusals
from vllm_refusal.settings.capture import RESOLVED as CAPTURE_RESOLVED
from vllm_refusal.settings.capture import asks_for_capture
from vllm_refusal.settings.engine_settings import load_another, load_config
from vllm_refusal.settings.modules import AblationConfig
from vllm_refusal.settings.request import RESOLVED, RequestError, ablation_of, digest_of, resolve


def loading_settings(original: Any) -> Any:
    """A step of the core's own start: in a process of its own it loads plugins only after `__init__` has begun."""

    @functools.wraps(original)
    def _initialize_kv_caches(self: Any, vllm_config: Any) -> Any:
        self.ablation = load_config(vllm_config)
        return original(self, vllm_config)

    return _initialize_kv_caches


def admitting(original: Any) -> Any:
    """An exception here ends this request alone: a core in a process of its own answers it with an error."""

    @functools.wraps(original)
    def preprocess_add_request(self: Any, request: Any) -> Any:
        admit(request, self.ablation)
        return original(self, request)

    return preprocess_add_request


def following_modules(original: Any) -> Any:
    """The core admits for the modules that its workers have been told to load and unload."""

    @functools.wraps(original)
    def collective_rpc(
        self: Any, method: Any, timeout: Any = None, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        answers = original(self, method, timeout, args, kwargs)
        if method == "load_ablation" and not any(answer["fault"] for answer in answers):
            self.ablation = self.ablation.with_module(load_another(args[0], dict(args[1]), self.vllm_config))
        elif method == "unload_ablation":
            self.ablation = self.ablation.without(args[0])
        return answers

    return collective_rpc


def count_ablation_requests(core: Any, name: str) -> int:
    """Requests of an engine core under an ablation, waiting, running or preempted. A method of vLLM's EngineCore."""
    return sum(ablation_of(request) == name for request in core.scheduler.requests.values())


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
    carried = params.extra_args or {}
    asked = {key: value for key, value in carried.items() if key != RESOLVED}
    if asks_for_capture(asked) and CAPTURE_RESOLVED not in asked:
        raise RequestError("capture was not resolved by the front end; ask for it through vllm.LLM")
    intervention = resolve(asked, config)
    if intervention is not None:
        refusals.refuse_streamed_prompt(request)
        asked[RESOLVED] = intervention.to_wire()
    _check_same(carried, asked)
    params.extra_args = asked or None
    if config is not None:
        refusals.refuse_what_is_not_finite(request.prompt_embeds)
        request.cache_salt = json.dumps([request.cache_salt, digest_of(asked)])


def _check_same(carried: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """A record of the front end's must be what the core finds: else the module was unloaded or replaced in between."""
    if RESOLVED in carried and digest_of(carried) != digest_of(found):
        raise RequestError("the request's ablation was resolved to something else by the front end; ask again")
