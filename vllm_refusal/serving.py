"""Named ablations as models of the OpenAI-compatible server: listed, selected by `model=`, echoed in replies."""

import functools
from collections.abc import Mapping
from contextvars import ContextVar
from http import HTTPStatus
from typing import Any

from vllm_refusal.config import AblationConfig
from vllm_refusal.request import NAME

_asked_model: ContextVar[str | None] = ContextVar("vllm_refusal_asked_model", default=None)
_installed = False


def install() -> None:
    """Teach vLLM's serving classes the engine's ablations; once per process, before the server is built."""
    global _installed
    if _installed:
        return
    from vllm.entrypoints.openai.models.serving import OpenAIServingModels
    from vllm.entrypoints.serve.engine.serving import BaseServing

    OpenAIServingModels.show_available_models = _listing_ablations(OpenAIServingModels.show_available_models)
    OpenAIServingModels.is_base_model = _accepting_ablations(OpenAIServingModels.is_base_model)
    OpenAIServingModels.model_name = _echoing_model(OpenAIServingModels.model_name)
    BaseServing._check_model = _selecting_ablation(BaseServing._check_model)
    _installed = True


def _ablations(models: Any) -> Mapping[str, Any]:
    config: AblationConfig | None = getattr(getattr(models, "input_processor", None), "ablation", None)
    return {} if config is None else config.modules


def _listing_ablations(original: Any) -> Any:
    @functools.wraps(original)
    async def show_available_models(self: Any) -> Any:
        from vllm.entrypoints.serve.engine.protocol import ModelCard, ModelPermission

        listed = await original(self)
        base = self.base_model_paths[0].name
        for module in _ablations(self).values():
            card = ModelCard(id=module.name, root=module.path, parent=base, permission=[ModelPermission()])
            card.max_model_len = self.model_config.max_model_len
            listed.data.append(card)
        return listed

    return show_available_models


def _accepting_ablations(original: Any) -> Any:
    @functools.wraps(original)
    def is_base_model(self: Any, model_name: str) -> bool:
        return original(self, model_name) or model_name in _ablations(self)

    return is_base_model


def _echoing_model(original: Any) -> Any:
    @functools.wraps(original)
    def model_name(self: Any, lora_request: Any = None) -> str:
        return _asked_model.get() or original(self, lora_request)

    return model_name


def _selecting_ablation(original: Any) -> Any:
    """Turn `model="NAME"` into the request's ablation, before anything else reads the request."""

    @functools.wraps(original)
    async def _check_model(self: Any, request: Any) -> Any:
        _asked_model.set(None)
        asked = _asked_ablation(self.models, request)
        fault = _fault(request, asked)
        if fault is not None:
            return self.create_error_response(fault, param="model", status_code=HTTPStatus.BAD_REQUEST)
        if request.model in _ablations(self.models):
            _asked_model.set(request.model)
            if hasattr(request, "vllm_xargs"):
                request.vllm_xargs = {**(request.vllm_xargs or {}), NAME: request.model}
        return await original(self, request)

    return _check_model


def _asked_ablation(models: Any, request: Any) -> str | None:
    if request.model in _ablations(models):
        return request.model
    return (getattr(request, "vllm_xargs", None) or {}).get(NAME)


def _fault(request: Any, asked: str | None) -> str | None:
    """Why this request cannot have the ablation it asks for: never answered without it."""
    if asked is None:
        return None
    in_keys = (getattr(request, "vllm_xargs", None) or {}).get(NAME, asked)
    if in_keys != asked:
        return f"model {asked!r} selects one ablation and vllm_xargs {in_keys!r} another; name it once"
    if getattr(request, "use_beam_search", False):
        return f"beam search cannot apply ablation {asked!r}; use sampling or greedy decoding"
    if not hasattr(request, "vllm_xargs") and not _only_tokenizes(request):
        return f"this route cannot apply ablation {asked!r}; use chat, completions or responses, or the base model"
    return None


def _only_tokenizes(request: Any) -> bool:
    return type(request).__name__ in ("TokenizeChatRequest", "TokenizeCompletionRequest", "DetokenizeRequest")
