"""The size of a request's body: bounded, so that no client can fill the server's memory with one."""

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

MAX_MIB = 64
"""MiB of a body unless the operator says otherwise: some 16 million tokens as text, or a few dozen images."""


class BodyLimit:
    """ASGI middleware that answers 413 to a larger body, told by its header or, where it is sent in chunks, by reading."""

    def __init__(self, app: Any, n_bytes: int):
        self.app = app
        self.n_bytes = n_bytes

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        """Answer, or hand the request on as it came."""
        headers = dict(scope["headers"]) if scope["type"] == "http" else {}
        if int(headers.get(b"content-length", 0)) > self.n_bytes:
            await self._refuse(scope, receive, send)
            return
        if b"transfer-encoding" in headers:
            messages = await read_body(receive, self.n_bytes)
            if messages is None:
                await self._refuse(scope, receive, send)
                return
            receive = replaying(messages, receive)
        await self.app(scope, receive, send)

    async def _refuse(self, *connection: Any) -> None:
        from starlette.responses import JSONResponse

        status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        message = f"the body is larger than the {self.n_bytes:,} bytes that this server accepts; send less at a time"
        error = {"message": message, "type": "RequestEntityTooLarge", "param": None, "code": status.value}
        await JSONResponse({"error": error}, status_code=status, headers={"connection": "close"})(*connection)


async def read_body(receive: Any, n_bytes: float = math.inf) -> list[Mapping[str, Any]] | None:
    """The messages of a whole body, or None as soon as it has more than `n_bytes`."""
    messages: list[Mapping[str, Any]] = []
    n_read = 0
    while not messages or messages[-1].get("more_body", False):
        messages.append(await receive())
        n_read += len(messages[-1].get("body", b""))
        if n_read > n_bytes:
            return None
    return messages


def replaying(messages: list[Mapping[str, Any]], receive: Any) -> Any:
    """A `receive` that gives these messages first."""
    waiting = iter(messages)

    async def receive_again() -> Mapping[str, Any]:
        message = next(waiting, None)
        return await receive() if message is None else message

    return receive_again
