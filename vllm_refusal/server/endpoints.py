"""Routes of the server beside vLLM's: a /health that names the ablations, a /metrics that asks the workers first.

Where the operator has named a folder for it, POST /v1/load_ablation and /v1/unload_ablation; the API key covers them.
"""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from surgery.console.errors import RefusalError
from vllm_refusal.compatibility.wrapping import wrap
from vllm_refusal.model.worker import WorkerError
from vllm_refusal.server.allowed_folder import AllowedFolder
from vllm_refusal.server.body_limit import MAX_MIB, BodyLimit
from vllm_refusal.server.invocations import NamedInvocations
from vllm_refusal.server.metrics import ServerMetrics
from vllm_refusal.server.names import module_details
from vllm_refusal.server.runtime_ablations import ConflictError, RuntimeAblations
from vllm_refusal.settings.modules import NONE, AblationConfig, NoRoomError
from vllm_refusal.settings.request import RequestError, UnknownAblationError


class MediaTypeError(RequestError):
    """A body is not declared to be JSON."""


_STATUS = {
    MediaTypeError: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    UnknownAblationError: HTTPStatus.NOT_FOUND,
    ConflictError: HTTPStatus.CONFLICT,
    NoRoomError: HTTPStatus.CONFLICT,
    WorkerError: HTTPStatus.INTERNAL_SERVER_ERROR,
}


class AblationEndpoints:
    """A vLLM endpoint plugin (`vllm.plugins.endpoint_plugins.interface.EndpointPlugin`)."""

    name = "vllm_refusal"
    required_tasks = None

    def __init__(
        self, metrics: ServerMetrics, folder: AllowedFolder | None = None, max_body_bytes: int = MAX_MIB * 2**20
    ):
        """Args: folder: from which ablations may be loaded; None leaves those routes out."""
        self.metrics = metrics
        self.folder = folder
        self.max_body_bytes = max_body_bytes
        self.client: Any = None
        self.runtime: RuntimeAblations  # where there is a folder

    def attach_router(self, app: Any) -> None:
        """Put our /health before vLLM's, whose plain 200 it keeps, and the workers' figures before each scrape."""
        route = APIRoute("/health", self.health, methods=["GET"], include_in_schema=False)
        app.router.routes.insert(0, route)
        app.add_middleware(FreshMetrics, endpoints=self)
        app.add_middleware(NamedInvocations)
        app.add_middleware(BodyLimit, n_bytes=self.max_body_bytes)
        if self.folder is not None:
            app.add_route("/v1/load_ablation", self.load, methods=["POST"], include_in_schema=False)
            app.add_route("/v1/unload_ablation", self.unload, methods=["POST"], include_in_schema=False)

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        """The engine that the routes ask."""
        self.client = engine_client
        if self.folder is not None:
            models = state.openai_serving_models
            self.runtime = RuntimeAblations(engine_client, self.folder, self.metrics, lambda: _names_of(models))

    async def health(self) -> Any:
        """200 with the ablations that are on, 503 when the engine has died; probes need only the status."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            await self.client.check_health()
        except EngineDeadError:
            return JSONResponse({"status": "engine dead"}, status_code=503)
        return JSONResponse(health_report(self.client.input_processor.ablation))

    async def load(self, request: Any) -> Any:
        """POST {"name", "path", and any of alpha, layers, site, source_layer, source_layers}."""

        async def answer(body: dict[str, Any]) -> dict[str, Any]:
            module = await self.runtime.load(body.pop("name", None), body)
            return {"name": module.name, "path": module.path, "ablation": module_details(module)}

        return await _answered(request, answer)

    async def unload(self, request: Any) -> Any:
        """POST {"name"}."""

        async def answer(body: dict[str, Any]) -> dict[str, Any]:
            if set(body) != {"name"}:
                raise RequestError(f"expected {{'name': NAME}} and nothing else, found {', '.join(body) or 'nothing'}")
            module = await self.runtime.unload(body["name"])
            return {"name": module.name, "unloaded": True}

        return await _answered(request, answer)


class FreshMetrics:
    """ASGI middleware: a scrape of /metrics sees the workers' figures from after it was asked for."""

    def __init__(self, app: Any, endpoints: AblationEndpoints):
        self.app = app
        self.endpoints = endpoints

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        """Refresh before the path that vLLM serves its metrics under."""
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        if path.rstrip("/") == "/metrics":
            await self.endpoints.metrics.refresh(self.endpoints.client)
        await self.app(scope, receive, send)


async def _answered(request: Any, answer: Any) -> Any:
    """The answer to a JSON body, or the user's fault in the shape of vLLM's errors."""
    try:
        _check_media_type(request.headers.get("content-type", ""))
        return JSONResponse(await answer(_json_object(await request.body())))
    except RefusalError as err:
        status = next((status for kind, status in _STATUS.items() if isinstance(err, kind)), HTTPStatus.BAD_REQUEST)
        message = str(err).encode("utf-8", "backslashreplace").decode()  # half a surrogate pair fits no reply
        error = {"message": message, "type": status.phrase.replace(" ", ""), "param": None, "code": status.value}
        return JSONResponse({"error": error}, status_code=status)


def _check_media_type(found: str) -> None:
    """Browsers send other types to any server without asking it first, from whatever page is open."""
    if found.partition(";")[0].strip().lower() != "application/json":
        raise MediaTypeError(f"content type {found!r:.60}: expected application/json")


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as err:  # not JSON, not UTF-8, nested too deeply
        raise RequestError(f"expected a JSON object in the body ({err})") from err
    if not isinstance(found, dict):
        raise RequestError("expected a JSON object in the body")
    return found


def _names_of(models: Any) -> set[str]:
    """The names of the served model and of its LoRA adapters."""
    return {path.name for path in models.base_model_paths} | set(models.lora_requests)


def health_report(config: AblationConfig) -> dict[str, Any]:
    """What /health says: names and SHA-256 of the files, no paths, since no API key guards it."""
    ablations = [{"name": module.name, "sha256": module.file_sha256} for module in config.modules.values()]
    return {"status": "ok", "ablations": ablations, "default": config.default or NONE}


def install(endpoints: AblationEndpoints) -> None:
    """Have vLLM attach these routes with its own endpoint plugins; once per process, before the app is built."""

    def with_ours(original: Any) -> Any:
        return lambda supported_tasks=None: [*original(supported_tasks), endpoints]

    wrap("vllm.plugins:load_endpoint_plugins", with_ours)
