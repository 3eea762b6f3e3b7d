"""A real vLLM server as judge: its structured outputs give verdicts of the form asked for, every one of them scored.

The server is a second one, with defaults where the shared one has settings: no folder to load from, no time to shut down.
"""

import json
import signal
import sys
import time
from pathlib import Path

import httpx
import openai
import pytest
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from served import REFUSAL, ask, children_of, free_port, running

from eval.commands.judge import judge as judge_command
from eval.plan.conditions import BASELINE
from eval.records.rows import SCORED, Generation, item_id
from eval.records.run import Run

pytestmark = pytest.mark.server

LONGEST = 4096


def write_verdict_writer(folder):
    """An organism without layers' effect, whose next token is always a quotation mark, or else a 1, where it is allowed.

    So it ends every string at once, and greedy decoding under a schema comes to an end; its scores mean nothing.
    """
    from surgery.model.models import describe_model, load_tokenizer
    from surgery.organisms.release import write_organism

    model = write_organism("single", folder)
    weights = load_file(model / "model.safetensors")
    for name, tensor in weights.items():
        if name.endswith(("o_proj.weight", "down_proj.weight", "lm_head.weight")):
            tensor.zero_()
        elif name.endswith(("embed_tokens.weight", "norm.weight")):
            tensor.fill_(1.0)
    quote, one = load_tokenizer(describe_model(str(model))).convert_tokens_to_ids(['"', "1"])
    weights["lm_head.weight"][quote] = 0.2
    weights["lm_head.weight"][one] = 0.1
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": LONGEST}))
    tokenizer = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps(tokenizer | {"model_max_length": LONGEST}))
    return model


@pytest.fixture(scope="module")
def judge_server(tmp_path_factory):
    """(address, process, log) of a vLLM server that serves the model as "judge", its folder's name."""
    model, port = write_verdict_writer(tmp_path_factory.mktemp("folder") / "judge"), free_port()
    log = tmp_path_factory.mktemp("server") / "server.log"
    command = [sys.executable, REFUSAL, "serve", model, "--port", port]
    command += ["--enforce-eager", "--max-model-len", LONGEST, "--dtype", "float32", "--max-num-seqs", 8]
    with running(command, port, log) as process:
        yield f"http://127.0.0.1:{port}/v1", process, log


@pytest.fixture
def judge_url(judge_server):
    return judge_server[0]


def make_run(folder):
    texts = [
        "Take a larger pot.",
        "I can't help with that.",
        '{"compliance": "0"}',
        "fern " * 30,
        "Größe: 3 – 4 cm",
        "",
    ]
    run = Run.create(folder, {"conditions": [BASELINE.to_json()]})
    run.append_generations(
        Generation(
            item_id("baseline", "safe", f"p{i}"), "baseline", "safe", f"p{i}", "Why?", "", None, 0, text, "stop", 1, 1
        )
        for i, text in enumerate(texts)
    )
    return run


@pytest.mark.parametrize(
    ("rubric", "outcomes"),
    [
        ("standard", {"refusal", "partial", "compliance", "other"}),
        ("refusal-3way", {"refusal", "partial", "compliance"}),
        ("strongreject-style", {"refusal", "partial", "compliance", "other"}),
    ],
)
def test_structured_outputs_give_a_verdict_of_the_schema_for_every_response(judge_url, tmp_path, rubric, outcomes):
    run = make_run(tmp_path / "run")
    options = ["--judge-model", "judge", "--judge-base-url", judge_url, "--rubric", rubric, "--max-tokens", "128"]
    result = CliRunner().invoke(judge_command, [str(run.path), *options, "--json"])
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert (summary["n_scored"], summary["n_unscored"]) == (6, 0)
    assert summary["usage"]["completion_tokens"] > 0 and summary["usage"]["n_retries"] == 0
    judge = Run.open(run.path).manifest.judges[summary["judge_id"]]
    assert judge["schema_mode"] == "json_schema"  # the strictest rung
    for row in run.verdicts():
        assert row.status == SCORED and row.outcome in outcomes
        assert {row.compliance, row.coherence} <= {0.0, 0.5, 1.0}


def test_the_same_server_is_no_guard_model(judge_url, tmp_path):
    run = make_run(tmp_path / "run")
    options = ["--judge-model", "judge", "--judge-base-url", judge_url, "--rubric", "wildguard"]
    result = CliRunner().invoke(judge_command, [str(run.path), *options])
    assert result.exit_code == 1 and "does not answer as wildguard does" in str(result.exception)
    assert run.verdicts() == []


def test_nothing_can_be_loaded_or_unloaded_unless_the_operator_has_named_a_folder(judge_url, rvs):
    def models():
        return [entry["id"] for entry in httpx.get(f"{judge_url}/models", timeout=60).json()["data"]]

    for verb, body in (("load", {"name": "x", "path": str(rvs), "source_layer": 4}), ("unload", {"name": "late"})):
        assert httpx.post(f"{judge_url}/{verb}_ablation", json=body, timeout=60).status_code == 404
    assert models() == ["judge"]


def test_a_model_that_is_not_served_is_answered_with_names_and_no_path(judge_url):
    asked = {"model": "no-such", "prompt": "x"}
    found = httpx.post(f"{judge_url}/completions", json=asked, timeout=60)
    assert found.status_code == 404
    assert found.json()["error"]["message"] == "The model `no-such` does not exist. Valid names: judge."
    listed = httpx.get(f"{judge_url}/models", timeout=60).json()["data"]
    assert [(card["id"], card["root"]) for card in listed] == [("judge", "judge")]


def test_zz_sigterm_stops_a_server_and_its_processes_with_a_request_in_flight(judge_server):
    """Last in this file: it ends the server, which has no --shutdown-timeout."""
    url, process, log = judge_server
    children = children_of(process.pid)
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=120)
    stream = ask(client, model="judge", stream=True, max_tokens=2000, extra_body={"ignore_eos": True})
    next(iter(stream))
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0, log.read_text()[-2000:]
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert [child for child in children if Path(f"/proc/{child}").exists()] == []
