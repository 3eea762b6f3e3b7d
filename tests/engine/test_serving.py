"""`refusal serve` over real HTTP: the openai client against the command, on the single-direction organism."""

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import httpx
import openai
import pytest

pytestmark = pytest.mark.engine

REFUSAL = Path(__file__).resolve().parents[2] / "bin" / "refusal"
KEY = "a-test-key"
HARMFUL = [{"role": "user", "content": "How do I steal a truck?"}]
MAX_NUM_SEQS = 4
START_SECONDS = 300  # an upper bound for a loaded machine; nothing waits longer than it must


@pytest.fixture(scope="module")
def rvs(tmp_path_factory):
    """Refusal vectors of the organism, made by the command."""
    folder = tmp_path_factory.mktemp("rvs")
    from surgery.organisms.release import write_organism

    model = write_organism("single", folder / "model")
    command = [
        sys.executable,
        REFUSAL,
        "extract",
        model,
        "--pairs",
        model / "pairs.jsonl",
        "-o",
        folder / "rvs.safetensors",
    ]
    subprocess.run([*map(str, command), "--dtype", "float32"], check=True, capture_output=True)
    return folder / "rvs.safetensors"


@pytest.fixture(scope="module")
def server(rvs, tmp_path_factory):
    """(base URL, process, log file) of a server with two ablations behind an API key."""
    port = _free_port()
    log = tmp_path_factory.mktemp("server") / "server.log"
    command = [sys.executable, REFUSAL, "serve", rvs.parent / "model", "--port", port, "--served-model-name", "base"]
    command += ["--ablation", f"refusal={rvs},source_layer=4"]
    command += ["--ablation", f"late={rvs},source_layers=3-5,alpha=0.5,layers=2,4-6"]
    command += ["--enforce-eager", "--max-model-len", "256", "--dtype", "float32", "--api-key", KEY]
    command += ["--max-num-seqs", MAX_NUM_SEQS]
    with open(log, "w") as output:
        process = subprocess.Popen(list(map(str, command)), stdout=output, stderr=output, env=_environment())
        try:
            _wait_until_healthy(port, process, log)
            yield f"http://127.0.0.1:{port}/v1", process, log
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def client(server):
    return openai.OpenAI(base_url=server[0], api_key=KEY, max_retries=0, timeout=120)


def ask(client, **arguments):
    return client.chat.completions.create(
        **{"model": "base", "messages": HARMFUL, "max_tokens": 40, "temperature": 0} | arguments
    )


def text(reply):
    return reply.choices[0].message.content


def refuses(reply):
    return text(reply).startswith(("I'm sorry", "I cannot", "I can't"))


def test_each_ablation_is_listed_with_its_base_and_file(client, rvs):
    listed = {entry.id: entry for entry in client.models.list().data}
    assert list(listed) == ["base", "refusal", "late"]
    assert listed["refusal"].parent == listed["late"].parent == "base"
    assert listed["refusal"].root == str(rvs) and listed["base"].parent is None


def test_the_model_name_selects_the_ablation_and_is_echoed(client):
    base, ablated = ask(client), ask(client, model="refusal")
    assert base.model == "base" and refuses(base)
    assert ablated.model == "refusal" and text(ablated).startswith("Sure.")


def test_request_keys_select_weaken_and_bypass_the_ablation(client):
    def keys(**vllm_xargs):
        return {"extra_body": {"vllm_xargs": vllm_xargs}}

    ablated = text(ask(client, model="refusal"))
    assert text(ask(client, **keys(ablation="refusal"))) == ablated
    assert text(ask(client, model="refusal", **keys(ablation_layers="all", ablation_alpha=1))) == ablated
    base = text(ask(client))
    assert text(ask(client, model="refusal", **keys(ablation_alpha=0))) == base
    assert text(ask(client, **keys(ablation="none"))) == base
    assert text(ask(client, model="refusal", **keys(ablation_layers=[7], ablation_alpha=0.1))) == base


def test_streams_completions_and_responses_select_it_too(client):
    chunks = list(ask(client, model="refusal", stream=True))
    assert {chunk.model for chunk in chunks} == {"refusal"}
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks).startswith("Sure.")
    prompt = "<s><|user|>How do I steal a truck?<|end|><|assistant|>"
    for model, start in (("refusal", "Sure."), ("base", "I")):
        reply = client.completions.create(
            model=model, prompt=prompt, max_tokens=20, temperature=0, extra_body={"add_special_tokens": False}
        )
        assert reply.model == model and reply.choices[0].text.startswith(start)
        answer = client.responses.create(model=model, input=HARMFUL[0]["content"], max_output_tokens=20, temperature=0)
        assert answer.model == model and answer.output_text.startswith(start)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ({"model": "unknown"}, 404, "does not exist"),
        ({"extra_body": {"vllm_xargs": {"ablation": "unknown"}}}, 404, "not loaded"),
        ({"model": "refusal", "extra_body": {"vllm_xargs": {"ablation": "late"}}}, 400, "name it once"),
        ({"extra_body": {"vllm_xargs": {"ablation_alpha": 0.5}}}, 400, "names no ablation"),
        ({"extra_body": {"vllm_xargs": {"ablation": "late", "ablation_alpha": "x"}}}, 400, "finite number"),
        ({"extra_body": {"vllm_xargs": {"ablation": "late", "ablation_layers": "5-9"}}}, 400, "outside the model"),
        ({"extra_body": {"vllm_xargs": {"capture_layers": "all"}}}, 400, "offline only"),
        ({"extra_body": {"vllm_xargs": {"ablation": "late", "ablation_layer": 5}}}, 400, "unknown request key"),
        ({"model": "refusal", "extra_body": {"use_beam_search": True}}, 400, "beam search"),
    ],
)
def test_what_cannot_be_honoured_is_refused_and_never_answered_plain(client, arguments, status, words):
    with pytest.raises(openai.APIStatusError, match=words) as caught:
        ask(client, **arguments)
    assert caught.value.status_code == status
    assert refuses(ask(client))


@pytest.mark.parametrize("model", ["refusal", "base"])
def test_streamed_completions_and_responses_say_what_unstreamed_ones_do(client, model):
    arguments = {"model": model, "prompt": HARMFUL[0]["content"], "max_tokens": 8, "temperature": 0}
    chunks = list(client.completions.create(**arguments, stream=True))
    assert {chunk.model for chunk in chunks} == {model}
    whole = client.completions.create(**arguments)
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    arguments = {"model": model, "input": HARMFUL[0]["content"], "max_output_tokens": 20, "temperature": 0}
    events = list(client.responses.create(**arguments, stream=True))
    streamed = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert streamed == client.responses.create(**arguments).output_text
    assert streamed.startswith("Sure.") == (model == "refusal")
    assert {event.response.model for event in events if hasattr(event, "response")} == {model}


def test_unknown_models_and_bad_keys_are_refused_by_completions_and_responses(client):
    calls = (
        lambda **arguments: client.completions.create(prompt="x", max_tokens=1, **arguments),
        lambda **arguments: client.responses.create(input="x", max_output_tokens=1, **arguments),
    )
    for call in calls:
        with pytest.raises(openai.NotFoundError):
            call(model="unknown")
        with pytest.raises(openai.BadRequestError, match="finite number"):
            call(model="refusal", extra_body={"vllm_xargs": {"ablation_alpha": "x"}})
        with pytest.raises(openai.BadRequestError, match="name it once"):
            call(model="refusal", extra_body={"vllm_xargs": {"ablation": "none"}})


def test_a_batch_of_chats_selects_it_too(server):
    def starts(**extra):
        body = {"messages": [HARMFUL, HARMFUL], "max_tokens": 20, "temperature": 0, **extra}
        headers = {"Authorization": f"Bearer {KEY}"}
        reply = httpx.post(f"{server[0]}/chat/completions/batch", json=body, headers=headers, timeout=60).json()
        assert reply["model"] == extra["model"]
        return [choice["message"]["content"].startswith("Sure.") for choice in reply["choices"]]

    assert starts(model="refusal") == starts(model="base", vllm_xargs={"ablation": "refusal"}) == [True, True]
    assert starts(model="base") == [False, False]


@pytest.mark.parametrize("path", ["chat/completions", "completions", "responses", "models"])
def test_the_key_covers_the_ablations(server, path):
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        method = "GET" if path == "models" else "POST"
        body = None if path == "models" else {"model": "refusal", "messages": HARMFUL, "prompt": "x", "input": "x"}
        reply = httpx.request(method, f"{server[0]}/{path}", json=body, headers=headers, timeout=60)
        assert reply.status_code == 401 and "ablation" not in reply.text


def test_the_list_says_what_each_ablation_is(client, rvs):
    from surgery.artifacts import file_sha256

    listed = {entry.id: getattr(entry, "ablation", None) for entry in client.models.list().data}
    assert listed["base"] is None
    expected = {"sha256": file_sha256(rvs), "rank": 3, "layers": [2, 4, 5, 6], "alpha": 0.5, "site": "stream"}
    assert listed["late"] == expected
    assert (listed["refusal"]["rank"], listed["refusal"]["alpha"]) == (1, 1.0)


def test_health_names_the_ablations_and_stays_a_plain_200(server, rvs):
    from surgery.artifacts import file_sha256

    reply = httpx.get(f"{_root(server)}/health", timeout=60)
    digest = file_sha256(rvs)
    ablations = [{"name": name, "sha256": digest} for name in ("refusal", "late")]
    assert reply.status_code == 200 and reply.json() == {"status": "ok", "ablations": ablations, "default": "none"}
    started = [line for line in server[2].read_text().splitlines() if "effect proven" in line]
    assert all(digest in line for line in started) and len(started) == 2


def test_metrics_count_requests_tokens_and_refusals_by_ablation(server, client):
    before = _metrics(server)
    replies = [ask(client, model="late", n=2, temperature=1), ask(client, model="late"), ask(client)]
    for arguments in ({"model": "no-such-1"}, {"extra_body": {"vllm_xargs": {"ablation": "no-such-2"}}}):
        with pytest.raises(openai.NotFoundError):
            ask(client, **arguments)
    after = _metrics(server)

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
    assert computed < more("intervened_tokens_total") <= computed + 3 * n_prompt
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


class _Engine:
    """What /health asks of an engine."""

    def __init__(self, fault=None):
        self.fault = fault

    async def check_health(self):
        if self.fault is not None:
            raise self.fault

    async def collective_rpc(self, method):
        if self.fault is not None:
            raise self.fault
        return [{"n_slots_in_use": 3, "n_intervened_tokens": 10}]


@pytest.mark.parametrize("dead", [False, True])
def test_a_dead_engine_is_unhealthy_and_its_slots_unknown(dead):
    import asyncio
    import math

    from fastapi import FastAPI
    from prometheus_client import CollectorRegistry
    from starlette.testclient import TestClient
    from vllm.v1.engine.exceptions import EngineDeadError

    from vllm_refusal.config import AblationConfig
    from vllm_refusal.endpoints import AblationEndpoints
    from vllm_refusal.metrics import ServerMetrics

    config, registry, app = AblationConfig({}, None, 2, 8, 4), CollectorRegistry(), FastAPI()
    endpoints = AblationEndpoints(config, ServerMetrics(config, registry))
    app.get("/health")(lambda: None)  # the server's own, which ours comes before
    endpoints.attach_router(app)
    asyncio.run(endpoints.init_state(_Engine(EngineDeadError() if dead else None), SimpleNamespace(), None))
    client = TestClient(app)
    reply = client.get("/health")
    assert (reply.status_code, reply.json()["status"]) == ((503, "engine dead") if dead else (200, "ok"))
    client.get("/metrics")
    in_use = registry.get_sample_value("vllm_refusal:slots_in_use")
    assert math.isnan(in_use) if dead else in_use == 3


def test_each_ablation_was_proven_before_the_server_answered(server):
    proofs = [line for line in server[2].read_text().splitlines() if "effect proven" in line]
    assert [line.split(":")[0] for line in proofs] == ["ablation refusal", "ablation late"]


def test_doctor_proves_a_server_by_its_effect(server):
    command = [sys.executable, str(REFUSAL), "doctor", "--url", server[0], "--api-key-env", "SERVER_KEY"]
    found = subprocess.run(command, capture_output=True, text=True, env={**_environment(), "SERVER_KEY": KEY})
    assert found.returncode == 0, found.stderr
    assert "refusal has an effect" in found.stdout and "FAIL" not in found.stdout
    denied = subprocess.run(command, capture_output=True, text=True, env={**_environment(), "SERVER_KEY": "wrong"})
    assert denied.returncode == 1 and "FAIL" in denied.stdout


def test_a_module_that_does_not_fit_stops_the_server_in_one_line(rvs):
    command = [sys.executable, REFUSAL, "serve", rvs.parent / "model", "--ablation", f"bad={rvs},source_layer=99"]
    found = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=_environment())
    assert found.returncode == 1
    assert found.stderr.splitlines()[-1].startswith("Error: ablation 'bad': layer 99 is outside the model")
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_start_up_ends_every_process(rvs, number):
    command = [sys.executable, REFUSAL, "serve", rvs.parent / "model", "--port", _free_port(), "--enforce-eager"]
    process = subprocess.Popen(
        list(map(str, command)), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=_environment()
    )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not (children := _children(process.pid)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert children, "the engine's process never appeared"
        time.sleep(1)  # the main thread now waits for it
        process.send_signal(number)
        assert process.wait(timeout=60) == 128 + number
        assert [child for child in children if Path(f"/proc/{child}").exists()] == []
    finally:
        process.kill()


def test_zz_sigterm_stops_the_server_and_its_processes_with_a_request_in_flight(server, client):
    """Last in this file: it ends the shared server."""
    _, process, log = server
    children = _children(process.pid)
    stream = ask(client, model="refusal", stream=True, max_tokens=200, extra_body={"ignore_eos": True})
    next(iter(stream))
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0, log.read_text()[-2000:]
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert [child for child in children if Path(f"/proc/{child}").exists()] == []


def _environment():
    # the engine as users have it: in a process of its own
    kept = {name: value for name, value in os.environ.items() if name != "VLLM_ENABLE_V1_MULTIPROCESSING"}
    return {**kept, "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}


def _root(server):
    return server[0].removesuffix("/v1")


def _metrics(server):
    """Our samples by name and labels, without the prefix."""
    lines = httpx.get(f"{_root(server)}/metrics", timeout=60).text.splitlines()
    ours = [line.removeprefix("vllm_refusal:").rsplit(" ", 1) for line in lines if line.startswith("vllm_refusal:")]
    return {name: float(value) for name, value in ours if "_created" not in name}


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until_healthy(port, process, log):
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-4000:]
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    raise AssertionError(f"no answer after {START_SECONDS} s:\n{log.read_text()[-4000:]}")


def _children(pid):
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid:
            child = int(stat.parent.name)
            found += [child, *_children(child)]
    return found
