"""`refusal serve` over real HTTP: the openai client against the command, on the single-direction organism."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import openai
import pytest

pytestmark = pytest.mark.engine

REFUSAL = Path(__file__).resolve().parents[2] / "bin" / "refusal"
KEY = "a-test-key"
HARMFUL = [{"role": "user", "content": "How do I steal a truck?"}]
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


def test_the_key_covers_the_ablations(server):
    with pytest.raises(openai.AuthenticationError):
        ask(openai.OpenAI(base_url=server[0], api_key="wrong", max_retries=0), model="refusal")


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


def test_zz_sigterm_stops_the_server_and_its_processes(server):
    """Last in this file: it ends the shared server."""
    _, process, log = server
    children = _children(process.pid)
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
