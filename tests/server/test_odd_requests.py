"""Requests that no client should send: each gets a whole reply, refused or exactly what it asks for, and nothing breaks."""

import json
import random
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from served import HARMFUL, KEY, ask, refuses, root

pytestmark = pytest.mark.server

N_REQUESTS = 600
N_LAYERS = 8
PROMPT = "<s><|user|>How do I steal a truck?<|end|><|assistant|>"
ROUTES = {  # path: the body beside model and keys
    "/v1/chat/completions": {"messages": HARMFUL, "max_tokens": 12, "temperature": 0},
    "/v1/completions": {"prompt": PROMPT, "max_tokens": 12, "temperature": 0, "add_special_tokens": False},
    "/v1/responses": {"input": HARMFUL[0]["content"], "max_output_tokens": 12, "temperature": 0},
    "/v1/messages": {"messages": HARMFUL, "max_tokens": 12, "temperature": 0},
    "/invocations": {"messages": HARMFUL, "max_tokens": 12, "temperature": 0},
}
ALPHAS = (1, 1.0, 0)
# no true: the schema of vLLM reads it as 1
ODD_ALPHAS = ("1", 1e10, -1e30, 10**30, [1], float("nan"), float("inf"), float("-inf"), "", {}, [])
LAYERS = ("all", "0-7", list(range(N_LAYERS)), " 0 - 6 , 7")
ODD_LAYERS = (
    "0-99",
    "9" * 5000,
    "0-4096," * 500,
    "x",
    "",
    [],
    [2.5],
    [float("inf")],
    [-1],
    -1,
    8,
    "3-1",
    "\u0663",
)
ODD_NAMES = ("unknown", "Refusal", "refusal ", 3, True, "", [], ["refusal"], "\x00", "x" * 9000)
ODD_MODELS = ("unknown", "Refusal", "refusal ", 3, {"name": "refusal"}, ["refusal"], "x" * 9000, "\x00")
ODD_KEYS = ("ablation_layer", "ablation_resolved", "ablations", "capture_layers", "capture_resolved")
ODD_BODIES = (b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"name": 1e999}', b'{"name": "\\ud800"}', b'{"\\ud800": 1}')
ODD_SETTINGS = (
    {"name": "x"},
    {"name": "x", "path": "\ud800.safetensors"},
    {"name": "x", "path": ["rvs.safetensors"]},
    {"name": "x", "path": "rvs.safetensors"},
    {"name": "x", "path": "rvs.safetensors", "source_layer": float("nan")},
    {"name": "x", "path": "rvs.safetensors", "source_layer": [4, 5], "source_layers": 3},
    {"name": "x", "path": "rvs.safetensors", "source_layer": {}},
    {"name": "x", "path": "rvs.safetensors", "source_layer": 4, "alpha": 1e30},
    {"name": "x", "path": "rvs.safetensors", "source_layer": 4, "layers": "0-4096," * 5000},
    {"name": "x", "path": "rvs.safetensors", "source_layer": 4, "site": ["stream"]},
    {"name": "x", "path": "rvs.safetensors", "source_layer": 4, "allow_other_model": True},
    {"name": "x", "path": "rvs.safetensors", "source_layer": 4, "\ud800": 1},
    {"name": ["x"], "path": "rvs.safetensors", "source_layer": 4},
)


def made(chance):
    """One request: path, body, headers; and whether it complies when answered, or None where it must be refused."""
    if chance.random() < 0.15:
        body = chance.choice([*ODD_BODIES, *ODD_SETTINGS])
        kind = chance.choice(["application/json"] * 4 + ["text/plain", "", "application/json; charset=utf-8"])
        return f"/v1/{chance.choice(['load', 'unload'])}_ablation", body, {"Content-Type": kind}, None
    path, fields = chance.choice(list(ROUTES.items()))
    model = chance.choice([*("base", "refusal") * 8, chance.choice(ODD_MODELS)])
    keys, expected = made_keys(chance, model)
    body = {"model": model, **fields, "stream": chance.random() < 0.3}
    if keys or chance.random() < 0.5:
        body["vllm_xargs"] = keys
    if path != "/v1/messages" and chance.random() < 0.05:  # vLLM's own schema drops other fields there
        body[chance.choice(["ablation", "ablation_alpha", "ablation_layers"])] = "refusal"
        expected = None
    return path, body, {}, expected


def made_keys(chance, model):
    """Keys of a request, and what they make of it."""
    keys, odd = {}, model not in ("base", "refusal")
    pools = {
        "ablation": (("none", "refusal"), ODD_NAMES),
        "ablation_alpha": (ALPHAS, ODD_ALPHAS),
        "ablation_layers": (LAYERS, ODD_LAYERS),
    }
    for key, (good, bad) in pools.items():
        if chance.random() < 0.4:
            is_odd = chance.random() < 0.25
            keys[key] = chance.choice(bad if is_odd else good)
            odd |= is_odd
    if chance.random() < 0.1:
        keys[chance.choice(ODD_KEYS)] = "all"
        odd = True
    name = keys.get("ablation", model)
    if odd or (model == "refusal" and name != model) or (name in ("none", "base") and len(keys) > ("ablation" in keys)):
        return keys, None
    return keys, name == "refusal" and keys.get("ablation_alpha", 1) != 0


@pytest.mark.slow
def test_odd_requests_are_refused_or_answered_as_asked_and_none_breaks_off(server, client):
    """Statuses are the client's fault or success, and no connection ends early (httpx would raise)."""
    chance = random.Random(0)
    requests = [made(chance) for _ in range(N_REQUESTS)]
    before = [entry.id for entry in client.models.list().data]

    def send(request):
        path, body, headers, expected = request
        content = body if isinstance(body, bytes) else json.dumps(body)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}", **headers}
        reply = httpx.post(root(server) + path, content=content, headers=headers, timeout=120)
        complies = None if reply.status_code != 200 else "Sure." in reply.text
        streamed = reply.status_code == 200 and not isinstance(body, bytes) and body.get("stream")
        right = expected is not None if streamed else complies == expected
        return None if right and reply.status_code in (200, 400, 404, 409, 415, 422) else (request, reply.text[:500])

    with ThreadPoolExecutor(8) as pool:
        wrong = [found for found in pool.map(send, requests) if found is not None]
    assert wrong == []
    assert 100 < sum(expected is not None for *_, expected in requests) < N_REQUESTS - 100
    assert server[1].poll() is None and [entry.id for entry in client.models.list().data] == before
    assert refuses(ask(client)) and not refuses(ask(client, model="refusal"))
