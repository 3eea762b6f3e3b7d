"""The end of the shared server: after every other test of this folder."""

import signal

import pytest
from served import ask

pytestmark = pytest.mark.server


def test_sigterm_with_a_shutdown_timeout_lets_running_requests_end(server, client):
    arguments = {"model": "refusal", "max_tokens": 150, "extra_body": {"ignore_eos": True}}
    with ask(client, stream=True, stream_options={"include_usage": True}, **arguments) as stream:
        begun = [next(iter(stream))]
        server[1].send_signal(signal.SIGTERM)
        *_, last = [*begun, *stream]
    assert last.usage.completion_tokens == 150
    assert server[1].wait(timeout=60) == 0, server[2].read_text()[-2000:]
