"""The front end's half of admission: settings are loaded as it starts, a request's keys checked and resolved."""

import functools
from typing import Any

from vllm.exceptions import VLLMNotFoundError, VLLMValidationError

from surgery.console.errors import RefusalError
from vllm_refusal.admission import refusals
from vllm_refusal.compatibility.wrapping import wrap
from vllm_refusal.model.proof import proving
from vllm_refusal.settings.capture import RESOLVED as CAPTURE_RESOLVED
from vllm_refusal.settings.capture import CaptureConfig, load_capture, resolve_capture
from vllm_refusal.settings.engine_settings import load_config
from vllm_refusal.settings.modules import AblationConfig
from vllm_refusal.settings.request import RESOLVED, UnknownAblationError, resolve


def loading_settings(original: Any) -> Any:
    """`InputProcessor.__init__` that reads the engine's settings: a bad module stops the engine before it serves."""

    @functools.wraps(original)
    def __init__(self: Any, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
        self.ablation, self.capture = load_config(vllm_config), load_capture(vllm_config)
        _forget_what_the_core_refuses()
        if self.ablation is not None:
            refusals.refuse_beam_search(self.ablation.default)
        if self.capture is not None:
            refusals.refuse_online_capture()
        original(self, vllm_config, *args, **kwargs)

    return __init__


def resolving_keys(original: Any) -> Any:
    """`process_inputs` that adds what the client's keys amount to, on the engine's own copy, as records for the workers."""

    @functools.wraps(original)
    def process_inputs(self: Any, request_id: str, prompt: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
        resolved = _resolved(request_id, params, proving.get() or self.ablation, self.capture)
        request = original(self, request_id, prompt, params, *args, **kwargs)
        if self.ablation is not None:
            refusals.refuse_what_is_not_finite(request.prompt_embeds)
        if resolved:
            refusals.refuse_streamed_prompt(request)
            request.sampling_params.extra_args = {**(request.sampling_params.extra_args or {}), **resolved}
        return request

    return process_inputs


def _resolved(
    request_id: str, params: Any, ablation: AblationConfig | None, capture: CaptureConfig | None
) -> dict[str, Any]:
    """The request's records by key; a fault is the client's: 404 for an unknown name over HTTP, else 400."""
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


@functools.cache
def _forget_what_the_core_refuses() -> None:
    """Where the core is in the front end's process, nobody else ends a request that it refuses."""
    wrap("vllm.v1.engine.llm_engine:LLMEngine.add_request", _forgetting_refused)


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
