"""Running a server: its health, its metrics, load, faults and signals."""

import itertools
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import httpx
import openai
import pytest
from served import (
    MAX_NUM_SEQS,
    REFUSAL,
    START_SECONDS,
    ask,
    children_of,
    environment,
    free_port,
    root,
    samples,
    text,
)

pytestmark = pytest.mark.server


def test_health_names_the_ablations_and_stays_a_plain_200(server, rvs):
    from surgery.files.artifacts import file_sha256

    reply = httpx.get(f"{root(server)}/health", timeout=60)
    digest = file_sha256(rvs)
    ablations = [{"name": name, "sha256": digest} for name in ("refusal", "late")]
    assert reply.status_code == 200 and reply.json() == {"status": "ok", "ablations": ablations, "default": "none"}
    started = [line for line in server[2].read_text().splitlines() if "effect proven" in line]
    assert all(digest in line for line in started[:2]) and len(started) >= 2


def test_metrics_count_requests_tokens_and_refusals_by_ablation(server, client):
    before = samples(server)
    replies = [ask(client, model="late", n=2, temperature=1), ask(client, model="late"), ask(client)]
    for arguments in ({"model": "no-such-1"}, {"extra_body": {"vllm_xargs": {"ablation": "no-such-2"}}}):
        with pytest.raises(openai.NotFoundError):
            ask(client, **arguments)
    after = samples(server)

    def more(name):
        return after[name] - before[name]

    assert more('requests_total{ablation="late"}') == 2 and more('requests_total{ablation="none"}') == 1
    assert more('requests_total{ablation="refusal"}') == 0
    generated = [reply.usage.completion_tokens for reply in replies]
    assert more('generation_tokens_total{ablation="late"}') == generated[0] + generated[1]
    assert more('generation_tokens_total{ablation="none"}') == generated[2]
    n_prompt = replies[2].usage.prompt_tokens
    assert more('prompt_tokens_total{ablation="late"}') == 3 * n_prompt
    # what was sampled last is never computed; prompts may come from the prefix cache in part
    computed = generated[0] + generated[1] - 3
    one_step_ahead = 3  # a batch may be under way when an end token is seen
    assert computed < more("intervened_tokens_total") <= computed + 3 * n_prompt + one_step_ahead
    assert more('refused_requests_total{reason="unknown_model"}') == 1
    assert more('refused_requests_total{reason="unknown_ablation"}') == 1
    assert after["slots"] == MAX_NUM_SEQS and after["slots_in_use"] == 0
    assert set(after) == set(before) and not any("no-such" in name for name in after)


def test_more_distinct_interventions_than_slots_wait_and_are_each_answered_as_alone(client):
    settings = [{"ablation": "late", "ablation_alpha": 0.1 * step} for step in range(1, 4 * MAX_NUM_SEQS + 1)]

    def answer(keys):
        return text(ask(client, max_tokens=12, extra_body={"vllm_xargs": keys}))

    with ThreadPoolExecutor(len(settings)) as pool:
        together = list(pool.map(answer, settings))
    assert len(set(together)) > 1
    assert together == [answer(keys) for keys in settings]


BAD = (
    ({"model": "no-such"}, 404),
    ({"extra_body": {"vllm_xargs": {"ablation": "no-such"}}}, 404),
    ({"model": "late", "extra_body": {"vllm_xargs": {"ablation_layers": "5-99"}}}, 400),
    ({"max_tokens": 100_000}, 400),
)


@pytest.mark.slow
def test_a_mixed_load_leaves_answers_slots_and_memory_as_they_were(server, client):
    """600 requests, 32 at a time: ablations, strengths, lengths, streams, aborted streams, bad among good."""
    chance = random.Random(0)
    names, strengths, lengths = (None, "refusal", "late"), (0.3, 0.5, 1.0, 1.5), (3, 8, 16)
    good = [_keys(*choice) for choice in itertools.product(names, strengths, lengths)]
    alone = {str(keys): text(ask(client, **keys)) for keys in good}

    def one(kind_and_keys):
        kind, keys = kind_and_keys
        if kind == "bad":
            with pytest.raises(openai.APIStatusError) as caught:
                ask(client, **keys[0])
            return caught.value.status_code == keys[1]
        if kind == "whole":
            return text(ask(client, **keys)) == alone[str(keys)]
        with ask(client, stream=True, **keys) as stream:
            if kind == "aborted":
                return next(iter(stream)) is not None
            found = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
        return found == alone[str(keys)]

    def load(n_requests):
        kinds = chance.choices(("whole", "stream", "aborted", "bad"), (4, 3, 2, 1), k=n_requests)
        work = [(kind, chance.choice(BAD if kind == "bad" else good)) for kind in kinds]
        with ThreadPoolExecutor(32) as pool:
            assert all(pool.map(one, work))

    load(200)
    before = _resident_bytes(server)
    load(400)
    assert _resident_bytes(server) - before < 32 * 2**20  # 400 requests; the engine's own buffers are in place by now
    deadline = time.monotonic() + 30
    while samples(server)["slots_in_use"] and time.monotonic() < deadline:
        time.sleep(0.2)  # an aborted request is known to be gone a step later
    assert samples(server)["slots_in_use"] == 0


def _keys(name, alpha, n_tokens):
    chosen = {} if name is None else {"vllm_xargs": {"ablation": name, "ablation_alpha": alpha}}
    return {"max_tokens": n_tokens, "extra_body": chosen}


def _resident_bytes(server):
    import psutil

    process = psutil.Process(server[1].pid)
    return sum(part.memory_info().rss for part in (process, *process.children(recursive=True)))


class _Engine:
    """What /health and /metrics ask of an engine."""

    def __init__(self, config, fault=None):
        self.fault = fault
        self.input_processor = SimpleNamespace(ablation=config)
        self.engine_core = self

    async def check_health(self):
        if self.fault is not None:
            raise self.fault

    async def call_utility_all_async(self, *call):
        if self.fault is not None:
            raise self.fault
        return [[{"n_slots_in_use": 3, "n_intervened_tokens": 10}]]


@pytest.mark.parametrize("dead", [False, True])
def test_a_dead_engine_is_unhealthy_and_its_slots_unknown(dead):
    import asyncio
    import math

    from fastapi import FastAPI
    from prometheus_client import CollectorRegistry
    from starlette.testclient import TestClient
    from vllm.v1.engine.exceptions import EngineDeadError

    from vllm_refusal.server.endpoints import AblationEndpoints
    from vllm_refusal.server.metrics import ServerMetrics
    from vllm_refusal.settings.modules import AblationConfig

    config, registry, app = AblationConfig({}, None, 2, 8, 4), CollectorRegistry(), FastAPI()
    endpoints = AblationEndpoints(ServerMetrics(config, registry))
    app.get("/health")(lambda: None)  # the server's own, which ours comes before
    endpoints.attach_router(app)
    asyncio.run(endpoints.init_state(_Engine(config, EngineDeadError() if dead else None), SimpleNamespace(), None))
    client = TestClient(app)
    reply = client.get("/health")
    assert (reply.status_code, reply.json()["status"]) == ((503, "engine dead") if dead else (200, "ok"))
    client.get("/metrics")
    in_use = registry.get_sample_value("vllm_refusal:slots_in_use")
    assert math.isnan(in_use) if dead else in_use == 3


def is_engine(child):
    """Not one of the short processes by which vLLM looks at the machine while it is imported."""
    try:
        command = Path(f"/proc/{child}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return b"spawn_main" in command or b"EngineCore" in command


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_start_up_ends_every_process(rvs, number):
    command = [sys.executable, REFUSAL, "serve", rvs.parent / "model", "--port", free_port(), "--enforce-eager"]
    process = subprocess.Popen(
        list(map(str, command)), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment()
    )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not any(map(is_engine, children_of(process.pid))) and time.monotonic() < deadline:
            time.sleep(0.1)
        children = children_of(process.pid)
        assert any(map(is_engine, children)), "the engine's process never appeared"
        time.sleep(1)  # the main thread now waits for it
        process.send_signal(number)
        assert process.wait(timeout=60) == 128 + number
        assert [child for child in children if Path(f"/proc/{child}").exists()] == []
    finally:
        process.kill()
