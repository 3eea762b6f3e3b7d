"""What `refusal doctor --url` concludes from a server's answers."""

from types import SimpleNamespace

import pytest

from vllm_refusal.engine.doctor import _server_finding


def finding(*, ablated, again):
    """The finding where the plain answer is -1.0 at first, then `again`, and the ablated one is `ablated`."""
    answers = {"base": iter([-1.0, again]), "refusal": iter([ablated])}

    def create(model, **_):
        logprobs = SimpleNamespace(top_logprobs=[{" a": next(answers[model])}])
        return SimpleNamespace(choices=[SimpleNamespace(logprobs=logprobs)])

    client = SimpleNamespace(completions=SimpleNamespace(create=create))
    return _server_finding(client, SimpleNamespace(id="refusal", parent="base"))


@pytest.mark.parametrize(
    ("ablated", "again", "ok"),
    [(-1.3, -1.0, True), (-1.3, -1.001, True), (-1.0, -1.0, False), (-1.00001, -1.0, False), (-1.003, -1.001, False)],
)
def test_an_effect_must_stand_out_from_what_other_traffic_does(ablated, again, ok):
    assert finding(ablated=ablated, again=again).ok == ok
