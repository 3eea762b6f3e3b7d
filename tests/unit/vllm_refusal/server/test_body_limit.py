"""The size of a body: refused by what its header says or by what arrives, and handed on unchanged below the limit."""

import asyncio

import pytest

from vllm_refusal.server.body_limit import BodyLimit

LIMIT = 10


def sent_through(chunks, headers=(), limit=LIMIT, kind="http"):
    """Returns: status and what the app behind the limit read (None where it was not asked), and chunks left unread."""
    waiting = [
        {"type": "http.request", "body": chunk, "more_body": index < len(chunks) - 1}
        for index, chunk in enumerate(chunks)
    ]
    found = {"status": None, "read": None}

    async def receive():
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    async def send(message):
        if message["type"] == "http.response.start":
            found["status"] = message["status"]

    async def app(scope, receive, send):
        found["read"] = b""
        while (message := await receive())["type"] != "http.disconnect":
            found["read"] += message["body"]
        await send({"type": "http.response.start", "status": 200})

    scope = {"type": kind, "headers": [(name.encode(), str(value).encode()) for name, value in headers]}
    asyncio.run(BodyLimit(app, limit)(scope, receive, send))
    return found["status"], found["read"], len(waiting)


def test_a_body_is_refused_by_its_declared_size_before_any_of_it_is_read():
    assert sent_through([b"x" * 11], [("content-length", 11)]) == (413, None, 1)
    assert sent_through([b"x" * 10], [("content-length", 10)]) == (200, b"x" * 10, 0)


def test_a_body_in_chunks_is_read_no_further_than_the_limit():
    chunked = [("transfer-encoding", "chunked")]
    assert sent_through([b"x" * 4] * 100, chunked) == (413, None, 97)
    assert sent_through([b"abc", b"def", b"ghij"], chunked) == (200, b"abcdefghij", 0)


@pytest.mark.parametrize("kind", ["http", "websocket", "lifespan"])
def test_what_has_no_body_passes(kind):
    assert sent_through([], kind=kind) == (200, b"", 0)
