"""Every route of the server that runs the model: `model=` and keys work there or are refused, and nothing is plain."""

import httpx
import pytest
from served import HARMFUL, KEY, root

pytestmark = pytest.mark.server

PROMPT = "<s><|user|>How do I steal a truck?<|end|><|assistant|>"
KEYS = {"ablation": "refusal"}
DECISION = {"state": "x", "questions": {"q": {"question": "Is it so?", "type": "yes_no"}}}
SCORING = {"query": "x", "items": ["a", "b"], "label_token_ids": [5, 6]}
RUNNING = {  # the routes below, each with what it answers
    "/v1/chat/completions",
    "/v1/chat/completions/batch",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/invocations",
    "/inference/v1/generate",
    "/v1/systemone",
    "/generative_scoring",
}
NOT_RUNNING = {  # they list, count, render, tokenize, cancel, or tell of the server
    "/health",
    "/ping",
    "/load",
    "/version",
    "/metrics",
    "/tokenize",
    "/detokenize",
    "/kv_event_sources",
    "/v1/models",
    "/v1/responses/{response_id}",
    "/v1/responses/{response_id}/cancel",
    "/v1/messages/count_tokens",
    "/v1/chat/completions/render",
    "/v1/completions/render",
    "/v1/messages/render",
    "/v1/responses/render",
    "/v1/chat/completions/derender",
    "/v1/completions/derender",
    "/inference/v1/abort_requests",
    "/scale_elastic_ep",
    "/is_scaling_elastic_ep",
}


@pytest.fixture
def post(server):
    def send(path, **body):
        return httpx.post(root(server) + path, json=body, headers={"Authorization": f"Bearer {KEY}"}, timeout=120)

    return send


def generated(post, token_ids, model="base", extra_args=None, **more):
    sampling = {"max_tokens": 20, "temperature": 0, "extra_args": extra_args}
    return post(
        "/inference/v1/generate",
        model=model,
        token_ids=token_ids,
        sampling_params=sampling,
        output_mode="text",
        **more,
    )


@pytest.fixture
def token_ids(post):
    return post("/tokenize", model="base", prompt=PROMPT, add_special_tokens=False).json()["tokens"]


def test_no_route_of_this_vllm_is_unknown_to_these_tests(server):
    paths = set(httpx.get(f"{root(server)}/openapi.json", timeout=60).json()["paths"])
    assert paths >= RUNNING and paths - RUNNING <= NOT_RUNNING, paths - RUNNING - NOT_RUNNING


def test_messages_and_invocations_select_it_by_model_and_by_keys(post):
    def message(**extra):
        reply = post("/v1/messages", messages=HARMFUL, max_tokens=20, temperature=0, **extra)
        return reply.json()["content"][0]["text"].startswith("Sure.")

    def invocation(**extra):
        reply = post("/invocations", messages=HARMFUL, max_tokens=20, temperature=0, **extra)
        return reply.json()["choices"][0]["message"]["content"].startswith("Sure.")

    for ask in (message, invocation):
        assert ask(model="refusal") and ask(model="base", vllm_xargs=KEYS)
        assert not ask(model="base") and not ask(model="refusal", vllm_xargs={"ablation_alpha": 0})
    for path in ("/v1/messages", "/invocations"):
        assert post(path, model="unknown", messages=HARMFUL, max_tokens=20).status_code == 404


def test_the_header_of_an_invocation_counts_before_its_body(server):
    def invoke(**header):
        headers = {"Authorization": f"Bearer {KEY}", **header}
        body = {"model": "base", "messages": HARMFUL, "max_tokens": 20, "temperature": 0}
        return httpx.post(f"{root(server)}/invocations", json=body, headers=headers, timeout=60).json()

    named = invoke(**{"X-Amzn-SageMaker-Adapter-Identifier": "refusal"})
    assert named["model"] == "refusal" and named["choices"][0]["message"]["content"].startswith("Sure.")
    assert invoke()["model"] == "base"


def test_an_invocation_without_a_usable_model_is_left_to_vllm(post, server):
    assert post("/invocations", messages=HARMFUL, max_tokens=1).json()["model"] == "base"
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    assert httpx.post(f"{root(server)}/invocations", content="{", headers=headers, timeout=60).status_code == 400


def test_generation_from_tokens_selects_it_by_model_and_by_extra_args(post, token_ids):
    def complies(**arguments):
        return generated(post, token_ids, **arguments).json()["choices"][0]["text"].startswith("Sure.")

    assert complies(model="refusal") and complies(extra_args=KEYS)
    assert not complies() and not complies(model="refusal", extra_args={"ablation_alpha": 0})
    assert not complies(extra_args={"ablation": "none"})


def test_generation_from_tokens_refuses_what_it_cannot_honour(post, token_ids):
    for status, words, arguments in (
        (404, "does not exist", {"model": "unknown"}),
        (404, "not loaded", {"extra_args": {"ablation": "unknown"}}),
        (400, "name it once", {"model": "refusal", "extra_args": {"ablation": "late"}}),
        (400, "sampling_params.extra_args", {"vllm_xargs": KEYS}),
        (400, "unknown request key", {"extra_args": {"ablation_resolved": {"module": "refusal"}}}),
    ):
        reply = generated(post, token_ids, **arguments)
        assert (reply.status_code, words in reply.text) == (status, True), reply.text


def test_a_rendered_request_keeps_its_ablation(post):
    chat = {"messages": HARMFUL, "max_tokens": 20, "temperature": 0}
    for model, keys, complies in (("refusal", None, True), ("base", KEYS, True), ("base", None, False)):
        rendered = post("/v1/chat/completions/render", model=model, vllm_xargs=keys, **chat).json()
        assert (rendered["sampling_params"].get("extra_args") or {}).get("ablation") == (
            "refusal" if complies else None
        )
        reply = post("/inference/v1/generate", **{**rendered, "output_mode": "text"})
        assert reply.json()["choices"][0]["text"].startswith("Sure.") == complies, reply.text


def test_scoring_cannot_hand_it_on_and_refuses_it(post):
    for extra in ({"model": "refusal"}, {"model": "base", "vllm_xargs": KEYS}):
        reply = post("/generative_scoring", **SCORING, **extra)
        assert (reply.status_code, "cannot apply ablation 'refusal'" in reply.text) == (400, True), reply.text
    assert post("/generative_scoring", **SCORING, model="base").status_code == 200


@pytest.mark.parametrize("path", sorted(RUNNING))
def test_the_key_covers_every_route_that_runs_the_model(server, path):
    body = {"model": "refusal", "messages": HARMFUL, "prompt": PROMPT, "input": PROMPT, **SCORING}
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        assert httpx.post(root(server) + path, json=body, headers=headers, timeout=60).status_code == 401


@pytest.mark.parametrize("path", sorted({*RUNNING, "/v1/load_ablation", "/tokenize"}))
def test_a_body_beyond_the_limit_is_refused_whether_its_size_is_declared_or_not(server, path):
    large = b'{"model": "base", "prompt": "' + b"x" * 2**20 + b'"}'
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    for content in (large, iter([large[: 2**19], large[2**19 :]])):
        reply = httpx.post(root(server) + path, content=content, headers=headers, timeout=60)
        assert (reply.status_code, "1,048,576 bytes" in reply.text) == (413, True)


def test_structured_decisions_are_not_for_this_model(post):
    assert post("/v1/systemone", **DECISION, model="refusal").status_code == 501


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": HARMFUL, "max_tokens": 1}),
        ("/v1/completions", {"prompt": PROMPT, "max_tokens": 1}),
        ("/v1/responses", {"input": PROMPT, "max_output_tokens": 1}),
    ],
)
def test_keys_beside_the_request_s_own_fields_are_refused(post, path, body):
    for misplaced in (KEYS, {"ablation_alpha": 0.5}, {"ablation_layers": "1-2"}):
        reply = post(path, model="base", **body, **misplaced)
        assert (reply.status_code, "vllm_xargs" in reply.text) == (400, True), reply.text
    assert post(path, model="base", **body, sampling_params={"extra_args": {}}).status_code == 200  # ignored, as ever


@pytest.mark.parametrize(
    "path", ["/v1/embeddings", "/pooling", "/classify", "/score", "/rerank", "/v1/audio/transcriptions"]
)
def test_routes_of_other_tasks_are_not_there(post, path):
    assert post(path, model="refusal", input="x").status_code == 404
