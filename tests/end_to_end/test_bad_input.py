"""Every command on input that it cannot use: one clear line, exit code 1 (2 for usage), nothing written, nothing started."""

import errno
import json
import os
import re
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from eval.cli import COMMANDS
from eval.cli import main as refusal
from eval.generation import engines
from eval.records.run import Run
from surgery.model import models
from surgery.organisms.release import write_organism
from surgery.residual.subspace import random_subspace
from surgery.residual.vectors import RefusalVectors
from vllm_refusal.engine import doctor, engine
from vllm_refusal.engine.engine import Response
from vllm_refusal.server import launch as server
from vllm_refusal.settings.module_files import load_module

N_LAYERS, D_MODEL = 8, 128
Outcome = namedtuple("Outcome", "code line stdout")


class Started(Exception):
    """An engine, a server or the loading of weights was reached."""


def vectors(info, n_layers=N_LAYERS, d_model=D_MODEL):
    made = torch.randn(n_layers, d_model, generator=torch.Generator().manual_seed(0))
    return RefusalVectors(made, header={"model": info.to_json()} if info else {})


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder of good and bad input; commands run inside it."""
    folder = tmp_path_factory.mktemp("inputs")
    for name in ("single", "plain"):
        write_organism(name, folder / name)
    _write_models(folder)
    _write_prompts(folder)
    info, other = models.describe_model(folder / "single"), models.describe_model(folder / "plain")
    vectors(info).save(folder / "rvs.safetensors")
    vectors(other).save(folder / "rvs-plain.safetensors")
    vectors(None, d_model=64).save(folder / "rvs-narrow.safetensors")
    vectors(None, n_layers=4).save(folder / "rvs-short.safetensors")
    random_subspace(D_MODEL, 2, seed=0).save(folder / "sub.safetensors")
    save_file({"vectors": torch.full((N_LAYERS, D_MODEL), torch.nan)}, folder / "rvs-nan.safetensors")
    (folder / "torn.safetensors").write_bytes((folder / "rvs.safetensors").read_bytes()[:2000])
    (folder / "empty").mkdir()
    return folder


def _write_models(folder):
    for name, spoil in {
        "no-template": lambda path: (path / "chat_template.jinja").unlink(),
        "no-tokenizer": lambda path: (path / "tokenizer.json").unlink(),
        "no-weights": lambda path: (path / "model.safetensors").unlink(),
        "torn": lambda path: os.truncate(path / "model.safetensors", 100_000),
        "gpt2": lambda path: _replace(path / "config.json", '"LlamaForCausalLM"', '"GPT2LMHeadModel"'),
        "not-json": lambda path: (path / "config.json").write_text('{"model_type": "llama"'),
    }.items():
        shutil.copytree(folder / "single", folder / name)
        spoil(folder / name)


def _replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def _write_prompts(folder):
    good = json.dumps({"id": "a", "prompt": "How do I open a tin?", "harmful": "How?", "safe": "Why?"}) + "\n"
    for name, text in {
        "good": good,
        "blank": "\n\n",
        "torn-line": good + '{"id": \n',
        "no-key": good + '{"id": "b"}\n',
        "list": good + "[1]\n",
        "twice": good + "\n" + good,
        "long": json.dumps({"id": "long", "prompt": "very " * 2000}) + "\n",
    }.items():
        (folder / f"{name}.jsonl").write_text(text)
    (folder / "latin.jsonl").write_bytes(good.encode() + b'{"id": "b", "prompt": "\xff"}\n')


@pytest.fixture
def offline(inputs, monkeypatch):
    """Work inside the inputs, without a network, where reaching an engine or a model's weights is an error."""

    def started(*arguments, **options):
        raise Started

    def engine_started(info, modules, options, adapters):
        for name, spec in modules.items():
            load_module(name, spec, info)  # what the engine does first
        raise Started

    monkeypatch.chdir(inputs)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for module, name in ((doctor, "Engine"), (server, "run_server"), (models, "load_model")):
        monkeypatch.setattr(module, name, started)
    monkeypatch.setattr(engines, "Engine", engine_started)


def run(command):
    """Run one command line as bin/refusal does."""
    words = command.split() if isinstance(command, str) else command
    found = CliRunner().invoke(refusal, words, prog_name="refusal")
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return Outcome(found.exit_code, found.stderr.strip(), found.stdout)


def listing(folder="."):
    return {str(path): path.stat().st_mtime_ns for path in Path(folder).rglob("*")}


EXTRACT = "extract single --pairs good.jsonl -o out"
GENERATE = "generate single --prompts good.jsonl -o out"
SWEEP = "sweep single --rvs rvs.safetensors --prompts good.jsonl -o out"
ORTHOGONALIZE = "orthogonalize single sub.safetensors -o out"
SERVE = "serve single --ablation x=sub.safetensors"

MODELS = {
    "nobody/nothing": "nobody/nothing.*HF_HUB_OFFLINE",
    "./nothing": "nothing: no such folder",
    "empty": "not a model folder",
    "sub.safetensors": "is a file",
    "no-weights": "has no weights",
    "torn": "cut short or damaged",
    "not-json": "config.json: cannot be read",
    "gpt2": "GPT2LMHeadModel.*supported: .*Llama",
}
CHAT_MODELS = {"no-template": "no chat template", "no-tokenizer": "tokenizer cannot be loaded.*tokenizer.json"}
PROMPTS = {
    "nothing": "nothing.jsonl: no such file",
    "blank": "blank.jsonl: no prompts",
    "torn-line": "line 2: not JSON",
    "no-key": "line 2: expected a non-empty text",
    "list": "line 2: expected a JSON object or a text, found list",
    "twice": "line 3: id 'a' is already used in twice.jsonl, line 1",
    "latin": "line 2: not UTF-8",
}
VECTOR_FILES = {
    "nothing": "no such file",
    "torn": "not a readable safetensors file",
    "empty": "is a folder",
    "rvs-nan": "not finite",
    "rvs-narrow": "64.*128",
    "rvs-short": "RVs of 4 layers.* 8|vectors .4, 128. but",
    "rvs-plain": "fingerprint [0-9a-f]{12}.*d_model 128.*fingerprint [0-9a-f]{12}.*--allow-other-model",
}
OUTPUTS = {
    "missing/out": "folder missing does not exist",
    "good.jsonl": "--force",
    "/proc/out": "cannot write /proc/out|are free",
    "good.jsonl/out": "good.jsonl",
}


def _cases():
    for model, words in MODELS.items():
        yield f"extract {model} --pairs good.jsonl -o out", words
        yield f"orthogonalize {model} sub.safetensors -o out", words
        yield f"generate {model} --prompts good.jsonl --ablation x=sub.safetensors -o out", words
        yield f"sweep {model} --rvs rvs.safetensors --prompts good.jsonl --allow-other-model -o out", words
        yield f"serve {model} --ablation x=sub.safetensors", words
        yield f"doctor {model}", words
    for model, words in CHAT_MODELS.items():
        yield f"extract {model} --pairs good.jsonl -o out", words
        yield f"generate {model} --prompts good.jsonl -o out", words
        yield f"sweep {model} --rvs rvs.safetensors --prompts good.jsonl --allow-other-model -o out", words
        yield f"doctor {model}", words
    for name, words in PROMPTS.items():
        yield f"extract single --pairs {name}.jsonl -o out", words
        yield f"generate single --prompts {name}.jsonl -o out", words
        yield f"generate single --prompts good.jsonl --safe-prompts {name}.jsonl -o out", words
        yield f"sweep single --rvs rvs.safetensors --prompts {name}.jsonl -o out", words
    for name, words in VECTOR_FILES.items():
        file = name if name == "empty" else f"{name}.safetensors"
        yield f"orthogonalize single {file} --source-layer 3 -o out", words
        yield f"sweep single --rvs {file} --prompts good.jsonl -o out", words
        yield f"{GENERATE} --ablation x={file},source_layer=3", f"ablation 'x'.*({words})"
        yield f"serve single --ablation x={file},source_layer=3", f"ablation 'x'.*({words})"
    for output, words in OUTPUTS.items():
        yield f"extract single --pairs good.jsonl -o {output}", words
        yield f"subspace rvs.safetensors --layers 1-3 -o {output}", words
        yield f"orthogonalize single sub.safetensors -o {output}", words
        if output != "missing/out":  # folders of runs, reports and organisms are made with their parents
            yield f"generate single --prompts good.jsonl -o {output}", words
            yield f"organism single -o {output}", words
    for option, command in {
        "--layers 7-9 -o out": "subspace rvs.safetensors",
        "--source-layer 8": f"{ORTHOGONALIZE.replace('sub', 'rvs')}",
        "--layers 8": ORTHOGONALIZE,
        "--source-layers 6-8": SWEEP,
        "--subspace 8": SWEEP,
        "--ablation x=sub.safetensors,layers=3,8": GENERATE,
        "--ablation x=rvs.safetensors,source_layer=8": GENERATE,
        "--ablation y=sub.safetensors,layers=8": SERVE,
        "--ablation y=rvs.safetensors,source_layers=7-8": SERVE,
    }.items():
        yield f"{command} {option}", "layer 8.* is outside the model: it has 8 layers, 0..7"
    for alpha in ("nan", "inf"):
        yield f"{ORTHOGONALIZE} --alpha {alpha}", "finite number"
        yield f"{SWEEP} --alphas 1,{alpha}", "finite number"
        yield f"{GENERATE} --ablation x=sub.safetensors,alpha={alpha}", "finite number"
        yield f"{SERVE},alpha={alpha}", "finite number"
        yield f"{GENERATE} --temperature {alpha}", "temperature must be a finite number"
    yield f"{SWEEP} --alphas much", "expected numbers such as"
    yield f"{GENERATE} --ablation x=sub.safetensors,alpha=much", "alpha must be a number"


OTHERS = [
    (f"{ORTHOGONALIZE} --alpha 0", "alpha 0 would leave every weight"),
    (f"{SWEEP} --alphas 0", "alpha 0 is no intervention"),
    (f"{SWEEP} --alphas 1,1", "asked for twice"),
    (f"{SWEEP} --subspace 1-3 --subspace 1,2,3", "asked for twice"),
    (f"{GENERATE} --ablation x=sub.safetensors,alpha=0", "alpha 0 is no intervention"),
    (f"{GENERATE} --ablation none=sub.safetensors", "that word means no intervention"),
    (f"{GENERATE} --ablation x=sub.safetensors --ablation x=sub.safetensors", "x is given twice"),
    (f"{GENERATE} --ablation x=sub.safetensors,alpha=1,alpha=2", "a key is given twice"),
    (f"{GENERATE} --ablation x=sub.safetensors,allow_other_model=perhaps", "true or false"),
    (f"{GENERATE} --ablation x=sub.safetensors,site=logits", "site must be one of"),
    (f"{GENERATE} --ablation x=rvs.safetensors", "source_layer"),
    (f"{GENERATE} --ablation x=rvs.safetensors,source_layer=3,source_layers=4", "not both"),
    (f"{GENERATE} --ablation x=sub.safetensors,source_layer=3", "is a subspace already"),
    (f"{GENERATE} --checkpoint single", "not an edited checkpoint"),
    (f"{GENERATE} --force -o empty/../single", "not a run folder"),
    ("generate single --prompts good.jsonl -o single", "already exists.*--force"),
    ("organism single -o single", "already exists.*--force"),
    ("organism single -o good.jsonl --force", "is not an organism's folder"),
    ("orthogonalize single sub.safetensors -o single --force", "is not an edited checkpoint"),
    ("orthogonalize single sub.safetensors -o single/inside", "overlaps the model's own folder"),
    ("subspace sub.safetensors --layers 1 -o out", "expected a file of kind refusal_vectors, found 'subspace'"),
    ("show single/model.safetensors", "neither `basis` nor `vectors`.* more"),
    ("verify single", "not an edited checkpoint"),
    ("judge nothing", "not a run folder"),
    ("judge single", "not a run folder"),
    ("report nothing -o out", "not a run folder"),
    ("serve single --ablation x=sub.safetensors --default-ablation y", "'y' is not among the modules: x"),
    ("serve single --default-ablation y", "'y' is not among the modules: none"),
    ("serve single --additional-config nonsense", "not JSON"),
]


@pytest.mark.parametrize(("command", "words"), [*_cases(), *OTHERS])
def test_a_fault_is_one_line_with_exit_code_1_and_nothing_is_started_or_written(offline, command, words):
    before = listing()
    found = run(command)
    assert found.code == 1 and found.stdout == ""
    assert found.line.startswith("Error: ") and "\n" not in found.line
    assert re.search(words, found.line), found.line
    assert listing() == before


@pytest.mark.parametrize(
    "command",
    [
        EXTRACT,
        GENERATE,
        SWEEP,
        SERVE,
        "doctor single",
        f"{GENERATE} --ablation x=rvs-plain.safetensors,source_layer=3 --allow-other-model",
        "sweep single --rvs rvs-plain.safetensors --prompts good.jsonl --allow-other-model -o out",
    ],
)
def test_good_input_passes_the_same_checks_and_a_failed_start_leaves_nothing(offline, command):
    before = listing()
    with pytest.raises(Started):
        run(command)
    assert listing() == before


@pytest.mark.parametrize(
    "command",
    [
        "extract single --pairs good.jsonl",
        f"{EXTRACT} --dtype int8",
        f"{ORTHOGONALIZE} --alpha much",
        f"{GENERATE} --max-tokens 0",
        f"{GENERATE} --limit 0",
        f"{SWEEP} --random -1",
        "organism quadruple -o out",
        "organism single --seed 3 -o out",
        "report -o out",
        f"{SERVE} --port 99999",
        "doctor single --url http://127.0.0.1:9/v1",
        "doctor --url nonsense",
        "judge run --judge-model m --judge-temperature nan",
        "nonsense",
    ],
)
def test_wrong_usage_has_exit_code_2_and_names_the_fault(offline, command):
    found = run(command)
    assert found.code == 2 and "Error: " in found.line and found.stdout == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_with_an_example_and_shares_the_names_of_options(name):
    text = run(f"{name} --help").stdout
    assert f"Usage: refusal {name} " in text and "Example" in text and f"  refusal {name}" in text
    options = {option for parameter in refusal.get_command(None, name).params for option in parameter.opts}
    if "-o" in options:
        assert {"--output", "--force"} <= options
    if name in ("extract", "orthogonalize", "generate", "sweep", "serve", "doctor"):
        assert "--revision" in options
    if name in ("orthogonalize", "generate", "sweep", "serve"):
        assert "--allow-other-model" in options


class FakeEngine:
    """Answers each request with its id, as the engine would one after another; `fail_after` raises in between."""

    description = {}
    max_model_len = 512
    fail_after, fault = None, KeyboardInterrupt

    def __init__(self, *arguments):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        pass

    def generate(self, requests, sampling):
        for number, request in enumerate(requests):
            if number == self.fail_after:
                raise self.fault
            yield Response(request.id, "an answer", "stop", len(request.token_ids), 2)


@pytest.fixture
def answering(offline, monkeypatch, tmp_path):
    """Commands with the fake engine; returns the run folder and a sweep that writes it."""
    monkeypatch.setattr(engines, "Engine", FakeEngine)
    out = tmp_path / "run"
    command = ["sweep", "single", "--rvs", "rvs.safetensors", "--prompts", "single/prompts.jsonl", "-o", str(out)]
    return out, [*command, "--limit", "4", "--source-layers", "1-3", "--random", "1"]


def contents(out):
    return {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def n_rows(out):
    return len((out / "generations.jsonl").read_text().splitlines())


def test_an_interrupted_sweep_keeps_what_was_answered_and_is_resumed(answering, monkeypatch):
    out, command = answering
    monkeypatch.setattr(FakeEngine, "fail_after", 7)
    found = run(command)
    assert found.code == 130 and "interrupted: 7 responses are kept" in found.line and "Traceback" not in found.line
    assert n_rows(out) == 7
    monkeypatch.setattr(FakeEngine, "fail_after", None)
    assert "13 new responses" in run(command).stdout and n_rows(out) == 20
    assert "0 new responses" in run(command).stdout


def test_a_sweep_interrupted_before_its_first_answer_leaves_nothing(answering, monkeypatch):
    out, command = answering
    monkeypatch.setattr(FakeEngine, "fail_after", 0)
    assert run(command).code == 130
    assert not out.exists() and list(out.parent.iterdir()) == []


def test_a_second_process_and_another_comparison_are_refused_and_change_nothing(answering):
    out, command = answering
    run(command)
    before = contents(out)
    with Run.open(out).writing():
        for words in (command, [*command, "--force"], ["judge", str(out)]):
            found = run(words)
            assert found.code == 1 and "another process is writing this run" in found.line
    for extra, difference in (
        ("--limit=2", "the prompts"),
        ("--subspace=1-2", "the conditions"),
        ("--seed=1", "the dec"),
    ):
        found = run([*command, extra])
        assert found.code == 1 and f"another comparison ({difference}" in found.line and "--force" in found.line
    assert contents(out) == before


def test_a_prompt_that_is_too_long_is_named_before_anything_is_answered(answering):
    out, _ = answering
    found = run(["generate", "single", "--prompts", "long.jsonl", "-o", str(out)])
    assert found.code == 1 and "prompt 'long' (harmful) has" in found.line and "at most 512" in found.line
    assert not out.exists()


def test_a_run_is_judged_before_it_is_reported_and_answered_before_it_is_judged(answering, tmp_path):
    out, command = answering
    run(command)
    report = ["report", str(out), "-o", str(tmp_path / "report")]
    found = run(report)
    assert found.code == 1 and f"judge it first: refusal judge {out}" in found.line
    assert not (tmp_path / "report").exists()
    found = run(["judge", str(out), "--json"])
    assert found.code == 0 and json.loads(found.stdout)["n_scored"] == 20
    assert run(report).code == 0
    assert "already exists" in run(report).line
    (out / "generations.jsonl").unlink()
    assert "no responses to judge" in run(["judge", str(out)]).line


def full_disk(*arguments, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("command", "where"),
    [
        ("subspace rvs.safetensors --layers 1-3 -o {out}", "pathlib.Path.write_bytes"),
        ("orthogonalize single sub.safetensors -o {out}", "surgery.files.shards.HashedFile.write"),
        ("organism single -o {out}", "shutil.copyfile"),
        ("generate single --prompts good.jsonl -o {out}", "pathlib.Path.write_text"),
    ],
)
def test_a_full_disk_is_one_line_and_leaves_nothing(offline, monkeypatch, tmp_path, command, where):
    monkeypatch.setattr(where, full_disk)
    found = run(command.format(out=tmp_path / "out"))
    assert found.code == 1 and "No space left on device" in found.line and "\n" not in found.line
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_during_a_sweep_keeps_what_was_answered(answering, monkeypatch):
    out, command = answering
    monkeypatch.setattr(FakeEngine, "fail_after", 5)
    run(command)
    monkeypatch.setattr(FakeEngine, "fail_after", None)
    with monkeypatch.context() as patch:
        patch.setattr("surgery.files.rowfile.os.fsync", full_disk)
        found = run(command)
    assert found.code == 1 and "No space left" in found.line and "repeat the command" in found.line
    assert run(command).code == 0 and len(Run.open(out).generations()) == 20


def test_a_vllm_that_cannot_start_is_one_line(offline, monkeypatch):
    monkeypatch.setattr(engines, "Engine", engine.Engine)
    monkeypatch.setattr("vllm.LLM", _no_memory)
    before = listing()
    found = run(GENERATE)
    assert found.code == 1
    assert found.line == "Error: vLLM could not start on single: ValueError: No memory for the cache. Use less."
    assert listing() == before


def _no_memory(**arguments):
    raise ValueError("No memory for the cache.\n  Use less.")


def test_an_address_in_use_is_one_line(monkeypatch):
    import asyncio
    from types import SimpleNamespace

    def in_use(*arguments, **options):
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))

    monkeypatch.setattr("vllm.entrypoints.launchers.launcher.setup_server", in_use)
    with pytest.raises(server.ServerError, match="cannot listen on 127.0.0.1:80.*another --host or --port"):
        asyncio.run(server._serve(SimpleNamespace(host="127.0.0.1", port=80, model="m"), None, 2**20))
