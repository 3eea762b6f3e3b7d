"""Named ablations as models of the OpenAI-compatible server: listed, selected by `model=`, echoed in replies."""

import functools
import os
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from http import HTTPStatus
from typing import Any, NamedTuple

from surgery.console.errors import RefusalError
from vllm_refusal.compatibility.wrapping import wrap
from vllm_refusal.server.chat_date import told
from vllm_refusal.settings.capture import resolve_capture
from vllm_refusal.settings.modules import KEY, AblationConfig, AblationModule
from vllm_refusal.settings.request import ALPHA, LAYERS, NAME, RequestError, UnknownAblationError, resolve


class SelectionError(RequestError):
    """A route cannot apply the ablation that a request asks of it; counted under `reason`."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


class _Selection(NamedTuple):
    """What the HTTP request of this context has been granted: a model's name to echo, keys that the engine must get."""

    model: str | None = None
    keys: Mapping[str, Any] = {}


_NOTHING = _Selection()
_selected: ContextVar[_Selection] = ContextVar("vllm_refusal_selected", default=_NOTHING)


@functools.cache
def install() -> None:
    """Teach vLLM's serving classes the engine's ablations; once per process, before the server is built."""
    for place, wrapper in wrapped().items():
        wrap(place, wrapper)
    _keep_unknown_fields()
    _guard_routes()


def wrapped() -> dict[str, Callable[[Any], Any]]:
    """The methods of vLLM that are wrapped, by place, with their wrappers.

    A name is resolved in `_check_model` alone. Nothing else accepts it, and the engine refuses a request that arrives
    without the keys set there: a route that passes over one of them fails and never answers plainly.
    """
    models = "vllm.entrypoints.openai.models.serving:OpenAIServingModels"
    return {
        "vllm.entrypoints.serve.engine.serving:BaseServing._check_model": _selecting_ablation,
        f"{models}.is_base_model": _accepting_selected,
        f"{models}.model_name": _echoing_selected,
        "vllm.v1.engine.async_llm:AsyncLLM.add_request": _refusing_lost_keys,
        f"{models}.show_available_models": _listing_ablations,
        f"{models}._check_load_lora_adapter_request": _keeping_names_apart,
    }


def _guard_routes() -> None:
    """The API key covers every route that runs the model; vLLM leaves those outside its own prefixes open."""
    prefixes = ("/invocations", "/generative_scoring")
    wrap("vllm.entrypoints.serve.middleware.authenticate:GUARDED_PREFIX", lambda stock: (*stock, *prefixes))


def _keep_unknown_fields() -> None:
    """The request of /inference/v1/generate drops fields that it does not know, a misplaced vllm_xargs among them.

    To be called before vLLM's routes are imported: they read the schema then.
    """
    from vllm.entrypoints.scale_out.token_in_token_out.protocol import GenerateRequest

    GenerateRequest.model_config["extra"] = "allow"
    GenerateRequest.model_rebuild(force=True)


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
            setattr(card, KEY, module_details(module))
            listed.data.append(card)
        for card in listed.data:
            if told() is not None and card.parent is None:
                card.date = told()
            if card.root and os.path.isabs(card.root):  # where the operator keeps files is no client's business
                card.root = os.path.basename(card.root.rstrip("/"))
        return listed

    return show_available_models


def module_details(module: AblationModule) -> dict[str, Any]:
    """The `ablation` object of an entry in /v1/models: what a request that names only the model gets.

    `sha256` is the file's, which may hold a vector for each layer; `basis_sha256` is of what is removed.
    """
    return {
        "sha256": module.file_sha256,
        "basis_sha256": module.sha256,
        "rank": module.rank,
        "layers": list(module.layers),
        "alpha": module.alpha,
        "site": module.site,
    }


def _keeping_names_apart(original: Any) -> Any:
    """An adapter cannot take an ablation's name, under which it would never be reached."""

    @functools.wraps(original)
    async def _check_load_lora_adapter_request(self: Any, request: Any) -> Any:
        from vllm.entrypoints.serve import create_error_response

        if request.lora_name in _ablations(self):
            message = f"adapter {request.lora_name!r}: an ablation of this server has that name; choose another"
            return create_error_response(message, status_code=HTTPStatus.BAD_REQUEST)
        return await original(self, request)

    return _check_load_lora_adapter_request


def _accepting_selected(original: Any) -> Any:
    @functools.wraps(original)
    def is_base_model(self: Any, model_name: str) -> bool:
        return original(self, model_name) or (model_name is not None and model_name == _selected.get().model)

    return is_base_model


def _echoing_selected(original: Any) -> Any:
    @functools.wraps(original)
    def model_name(self: Any, lora_request: Any = None) -> str:
        return _selected.get().model or original(self, lora_request)

    return model_name


def _refusing_lost_keys(original: Any) -> Any:
    @functools.wraps(original)
    async def add_request(self: Any, request_id: str, prompt: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
        from vllm.exceptions import VLLMValidationError

        found = getattr(params, "extra_args", None) or {}
        lost = [key for key, value in _selected.get().keys.items() if key not in found or found[key] != value]
        if lost:
            message = f"{', '.join(lost)} lost on the way to the engine; this route cannot apply an ablation"
            raise VLLMValidationError(message, parameter="model")
        return await original(self, request_id, prompt, params, *args, **kwargs)

    return add_request


def _selecting_ablation(original: Any) -> Any:
    """Turn `model="NAME"` into the request's ablation, before anything else reads the request."""

    @functools.wraps(original)
    async def _check_model(self: Any, request: Any) -> Any:
        _selected.set(_NOTHING)
        try:
            _selected.set(_select(self.models, request))
        except RefusalError as err:
            return _refused(self, err)
        response = await original(self, request)
        if response is not None:
            _count_refused(self.models, "unknown_model")
            if response.error.code == HTTPStatus.NOT_FOUND:
                response.error.message = _unknown_model(self.models, request.model)
        return response

    return _check_model


def _select(models: Any, request: Any) -> _Selection:
    """Check all that a request asks of us, and give it the keys of the ablation that its model's name stands for.

    Raises: RefusalError.
    """
    model = request.model if request.model in _ablations(models) else None
    keys = _keys(request) if model is None else {NAME: model, **_keys(request)}
    if model is not None and keys[NAME] != model:
        message = f"model {model!r} selects one ablation and vllm_xargs {keys[NAME]!r} another; name it once"
        raise SelectionError("conflict", message)
    fault = _fault(request, keys.get(NAME))
    if fault is not None:
        raise SelectionError(*fault)
    resolve_capture("", keys, None)
    if hasattr(models, "input_processor"):
        resolve(keys, models.input_processor.ablation)
    if model is not None and _takes_keys(request):
        _set_keys(request, dict(keys))
    return _Selection(model, {key: value for key, value in keys.items() if key in (NAME, ALPHA, LAYERS)})


def _refused(serving: Any, err: RefusalError) -> Any:
    """The error that a client gets: 404 for a name that is not loaded, else 400."""
    selecting = isinstance(err, SelectionError)
    _count_refused(serving.models, err.reason if isinstance(err, SelectionError) else err)
    unknown = isinstance(err, UnknownAblationError)
    return serving.create_error_response(
        str(err),
        err_type="NotFoundError" if unknown else "BadRequestError",
        param="model" if selecting else "vllm_xargs",
        status_code=HTTPStatus.NOT_FOUND if unknown else HTTPStatus.BAD_REQUEST,
    )


def _unknown_model(models: Any, asked: str) -> str:
    names = [path.name for path in models.base_model_paths]
    names += [*models.lora_requests, *_ablations(models)]
    return f"The model `{asked}` does not exist. Valid names: {', '.join(names)}."


def _fault(request: Any, asked: Any) -> tuple[str, str] | None:
    """Why this request cannot have the ablation it asks for: never answered without it. (reason, message), or None."""
    misplaced = _misplaced_keys(request)
    if misplaced:
        where = "sampling_params.extra_args" if _generates_from_tokens(request) else "vllm_xargs"
        return "bad_keys", f"{', '.join(misplaced)} would be ignored there; give them in {where}"
    if asked is None:
        return None
    if getattr(request, "use_beam_search", False):
        return "beam_search", f"beam search cannot apply ablation {asked!r}; use sampling or greedy decoding"
    if not _takes_keys(request) and not _only_tokenizes(request):
        what = "use chat, completions or responses, or the base model"
        return "route", f"this route cannot apply ablation {asked!r}; {what}"
    return None


def _keys(request: Any) -> Mapping[str, Any]:
    """The request's extra keys: vllm_xargs, or where vLLM's own sampling parameters are sent, their extra_args."""
    found = request.sampling_params.extra_args if _generates_from_tokens(request) else _xargs(request)
    return found or {}


def _set_keys(request: Any, keys: dict[str, Any]) -> None:
    if _generates_from_tokens(request):
        request.sampling_params.extra_args = keys
    else:
        request.vllm_xargs = keys


def _xargs(request: Any) -> Mapping[str, Any]:
    found = getattr(request, "vllm_xargs", None)
    return found if isinstance(found, Mapping) else {}


def _takes_keys(request: Any) -> bool:
    """Whether the route hands the keys on; on others vLLM keeps vllm_xargs as an extra and answers without it.

    A batch of chats does not declare the field, but makes each of its requests from all fields that it has.
    """
    declared = getattr(type(request), "model_fields", ())
    known = "vllm_xargs" in declared or hasattr(request, "to_chat_completion_request")
    return known or _generates_from_tokens(request)


def _generates_from_tokens(request: Any) -> bool:
    """Whether this is a request of /inference/v1/generate."""
    return "sampling_params" in getattr(type(request), "model_fields", ())


def _misplaced_keys(request: Any) -> list[str]:
    """Our keys where no route looks for them: beside the request's own fields, or in vllm_xargs of token requests."""
    beside = set(getattr(request, "model_extra", None) or {})
    if _generates_from_tokens(request):
        beside |= set(_xargs(request))
    return sorted(beside & {NAME, ALPHA, LAYERS})


def _count_refused(models: Any, fault: RefusalError | str) -> None:
    metrics = getattr(getattr(models, "input_processor", None), "ablation_metrics", None)
    if metrics is not None:
        metrics.count_refused(fault)


def _only_tokenizes(request: Any) -> bool:
    return type(request).__name__ in ("TokenizeChatRequest", "TokenizeCompletionRequest", "DetokenizeRequest")
