"""What vLLM would answer without what was asked of it, refused: beam search, capture online, streamed prompts, late names."""

import functools
from typing import Any

from vllm.exceptions import VLLMNotFoundError, VLLMValidationError

from vllm_refusal.compatibility.wrapping import wrap
from vllm_refusal.settings.capture import asks_for_capture
from vllm_refusal.settings.modules import NONE, AblationConfig
from vllm_refusal.settings.request import (
    NAME,
    RESOLVED,
    Intervention,
    UnknownAblationError,
    ablation_of,
    make_intervention,
)


@functools.cache
def refuse_beam_search(default: str | None) -> None:
    """Beam search drops a request's extra keys, so one that asks for an ablation would be answered without it."""
    for place in ("chat_completion.protocol:ChatCompletionRequest", "completion.protocol:CompletionRequest"):
        wrapper = functools.partial(refusing_ablation, default=default)
        wrap(f"vllm.entrypoints.openai.{place}.to_beam_search_params", wrapper)


def refusing_ablation(original: Any, default: str | None) -> Any:
    """`to_beam_search_params` that refuses every key of ours, but "none" where the engine has no default anyway."""

    @functools.wraps(original)
    def to_beam_search_params(self: Any, *args: Any, **kwargs: Any) -> Any:
        asked = {key: value for key, value in (self.vllm_xargs or {}).items() if key.startswith(NAME)}
        if asked and not (asked == {NAME: NONE} and default is None):
            what = f"ablation {asked[NAME]!r}" if NAME in asked else ", ".join(asked)
            message = f"beam search cannot apply {what}; use sampling or greedy decoding"
            raise VLLMValidationError(message, parameter="vllm_xargs")
        return original(self, *args, **kwargs)

    return to_beam_search_params


@functools.cache
def refuse_online_capture() -> None:
    """Only an offline caller can fetch activations from the workers; a server would gather them for nobody."""
    wrap("vllm.v1.engine.async_llm:AsyncLLM.add_request", _refusing_capture)


def _refusing_capture(original: Any) -> Any:
    @functools.wraps(original)
    async def add_request(self: Any, request_id: str, prompt: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
        if asks_for_capture(getattr(params, "extra_args", None)):
            message = "capture is offline only (vllm.LLM): no reply over HTTP carries activations"
            raise VLLMValidationError(message, parameter="vllm_xargs")
        return await original(self, request_id, prompt, params, *args, **kwargs)

    return add_request


def refuse_what_is_not_finite(prompt_embeds: Any) -> None:
    """Not finite, they would stay in the keys and values of a block and reach whoever is given it next."""
    if prompt_embeds is not None and not prompt_embeds.isfinite().all():
        raise VLLMValidationError("prompt_embeds hold numbers that are not finite", parameter="prompt_embeds")


def refuse_streamed_prompt(request: Any) -> None:
    """The parts of a streamed prompt have sampling parameters each, but one slot and one cache key between them."""
    if request.resumable:
        message = (
            "a streamed prompt cannot carry an ablation or a capture; send the prompt whole, or name ablation 'none'"
        )
        raise VLLMValidationError(message, parameter="extra_args")


def refuse_unloaded(request: Any, config: AblationConfig) -> None:
    """Refuse a request whose ablation was unloaded, or replaced, after its keys were resolved.

    Raises: VLLMNotFoundError.
    """
    name = ablation_of(request)
    if name == NONE:
        return
    carried = Intervention.from_wire(request.sampling_params.extra_args[RESOLVED])
    if name not in config.modules or make_intervention(config, name, carried.alpha, carried.layers) != carried:
        fault = UnknownAblationError(f"ablation {name!r} was unloaded while the request arrived")
        raise VLLMNotFoundError(str(fault)) from fault  # counted by its cause, as a name that was never loaded
