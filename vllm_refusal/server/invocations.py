"""/invocations, the SageMaker route: vLLM takes the model from a header there and drops the one in the body."""

import json
from collections.abc import Mapping
from typing import Any

from vllm_refusal.server.body_limit import read_body, replaying

HEADER = b"x-amzn-sagemaker-adapter-identifier"


class NamedInvocations:
    """ASGI middleware: the body's `model` counts where the header names none, so that no ablation is passed over."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        """Add the header to requests that need it; everything else goes through as it came."""
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        if scope["type"] != "http" or path.rstrip("/") != "/invocations" or HEADER in dict(scope["headers"]):
            await self.app(scope, receive, send)
            return
        messages = await read_body(receive) or []  # None only where there is a bound
        model = model_of(b"".join(message.get("body", b"") for message in messages))
        if model is not None:
            scope = {**scope, "headers": [*scope["headers"], (HEADER, model.encode("latin-1", "replace"))]}
        await self.app(scope, replaying(messages, receive), send)


def model_of(body: bytes) -> str | None:
    """The `model` of a JSON body; None where there is none, or the body is not what vLLM will accept."""
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):  # vLLM answers that with its own 400
        return None
    model = parsed.get("model") if isinstance(parsed, dict) else None
    return model if isinstance(model, str) and model else None
