"""The offline commands: the whole thread on a tiny model, and one clear line for every fault."""

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner
from tiny_models import PAIRS, write_model

from eval.cli import Commands, main
from surgery.console.errors import (
    AlphaError,
    ArtifactError,
    LayerRangeError,
    MismatchError,
    ModelError,
    OutputExistsError,
    PromptFileError,
)
from surgery.residual.subspace import Subspace
from surgery.residual.vectors import RefusalVectors
from surgery.weights.manifest import read_manifest

ROOT = Path(__file__).parents[4]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "m", "Qwen2ForCausalLM", torch.bfloat16, n_layers=4)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    path.write_text("".join(json.dumps({"id": p.id, "harmful": p.harmful, "safe": p.safe}) + "\n" for p in PAIRS))
    return path


@pytest.fixture(scope="module")
def rvs(model, pairs, tmp_path_factory):
    path = tmp_path_factory.mktemp("rvs") / "rvs.safetensors"
    assert run("extract", model, "--pairs", pairs, "-o", path).exit_code == 0
    return path


def run(name: str, *arguments) -> object:
    """Run one command; usage errors give exit code 2, user faults are raised for bin/refusal to print."""
    return CliRunner().invoke(main.get_command(None, name), [str(argument) for argument in arguments])


def fault(name: str, *arguments) -> Exception:
    """The user fault that a command raises, checked to be one line."""
    result = run(name, *arguments)
    assert result.exit_code == 1 and "\n" not in str(result.exception)
    return result.exception


def test_extract_writes_vectors_and_prints_their_table(rvs, model):
    loaded = RefusalVectors.load(rvs)
    assert (loaded.n_layers, loaded.d_model, loaded.n_pairs) == (4, 32, 4)
    assert loaded.header["dtype"] == "bfloat16" and loaded.header["model"]["model"] == str(model)
    table = run("show", rvs).stdout
    assert [line.split()[0] for line in table.splitlines() if line.startswith("    ")] == ["0", "1", "2", "3"]
    assert "in-sample" in table


def test_show_prints_json_for_programs(rvs, tmp_path):
    found = json.loads(run("show", rvs, "--json").stdout)
    assert found["kind"] == "refusal_vectors" and len(found["cosine"]) == 4
    sub = tmp_path / "sub.safetensors"
    run("subspace", rvs, "--layers", "1-2", "-o", sub)
    found = json.loads(run("show", sub, "--json").stdout)
    assert (found["kind"], found["rank"], found["source_layers"]) == ("subspace", 2, [1, 2])


def test_extract_in_float32_differs_from_bfloat16_only_by_rounding(rvs, model, pairs, tmp_path):
    run("extract", model, "--pairs", pairs, "--dtype", "float32", "-o", tmp_path / "f32.safetensors")
    wide, narrow = RefusalVectors.load(tmp_path / "f32.safetensors").vectors, RefusalVectors.load(rvs).vectors
    assert not torch.equal(wide, narrow)
    # bf16 keeps 8 bits: a few per cent after four layers, and a difference of means of like size
    assert torch.nn.functional.cosine_similarity(wide, narrow).min() > 0.98


def test_the_thread_from_vectors_to_a_verified_checkpoint(rvs, model, tmp_path):
    sub, out = tmp_path / "sub.safetensors", tmp_path / "edited"
    assert run("subspace", rvs, "--layers", "1-3", "-o", sub).exit_code == 0
    assert Subspace.load(sub).source_layers == (1, 2, 3)
    made = run("orthogonalize", model, sub, "--alpha", "1.5", "--embeddings", "-o", out)
    assert made.exit_code == 0 and "9 tensors edited" in made.stdout and f"verified {out}" in made.stdout
    manifest = read_manifest(out)
    assert manifest["basis"]["source_layers"] == [1, 2, 3] and manifest["source"]["path"] == str(sub)
    checked = run("verify", out)
    assert checked.exit_code == 0 and "alpha 1.5 demands 0.5" in checked.stdout
    assert "edited checkpoint" in run("show", out).stdout


@pytest.mark.parametrize("option", ["--source-layer", "--source-layers"])
def test_orthogonalize_takes_vectors_with_their_layers(rvs, model, tmp_path, option):
    assert run("orthogonalize", model, rvs, option, "2", "--no-verify", "-o", tmp_path / "out").exit_code == 0
    assert read_manifest(tmp_path / "out")["basis"]["source_layers"] == [2]


def test_adapter_is_written_from_vectors_and_shown(rvs, model, tmp_path):
    made = run("adapter", model, rvs, "--source-layers", "1-2", "--layers", "0,3", "-o", tmp_path / "out")
    assert made.exit_code == 0 and made.stdout == f"wrote {tmp_path / 'out'}: rank 2 on 4 modules\n"
    found = json.loads(run("show", tmp_path / "out", "--json").stdout)
    assert (found["kind"], found["layers"], found["alpha"]) == ("lora_adapter", "0,3", 1.0)
    assert found["source"]["path"] == str(rvs) and found["basis"]["source_layers"] == [1, 2]
    again = fault("adapter", model, rvs, "--source-layers", "1-2", "-o", tmp_path / "out")
    assert isinstance(again, OutputExistsError)


def test_verify_prints_one_line_per_fault_and_exits_with_one(rvs, model, tmp_path):
    out = tmp_path / "out"
    run("orthogonalize", model, rvs, "--source-layer", "2", "-o", out)
    manifest = read_manifest(out)
    manifest["alpha"] = 0.5
    (out / "surgery.json").write_text(json.dumps(manifest))
    result = run("verify", out)
    assert result.exit_code == 1 and "FAULTY" in result.stdout
    assert result.stderr.count("Error: ") == len(result.stderr.splitlines()) == 16  # eight tensors, two faults each


def test_user_faults_are_one_line_and_write_nothing(rvs, model, pairs, tmp_path):
    out, empty, bad = tmp_path / "out", tmp_path / "empty.jsonl", tmp_path / "bad.jsonl"
    empty.write_text("")
    bad.write_text('{"id": 1, "harmful": "a?", "safe": "b?"}\n{"id": 2, "harmful": "a?"}\n')
    before = sorted(tmp_path.iterdir())
    faults = [
        (PromptFileError, "no prompts", ("extract", model, "--pairs", empty, "-o", out)),
        (PromptFileError, "line 2", ("extract", model, "--pairs", bad, "-o", out)),
        (ModelError, "no such folder", ("extract", "./nowhere", "--pairs", pairs, "-o", out)),
        (OutputExistsError, "--force", ("extract", model, "--pairs", pairs, "-o", rvs)),
        (ArtifactError, "is a folder", ("extract", model, "--pairs", pairs, "-o", tmp_path)),
        (ArtifactError, "does not exist", ("extract", model, "--pairs", pairs, "-o", tmp_path / "a" / "b")),
        (LayerRangeError, "layer 4", ("subspace", rvs, "--layers", "1-4", "-o", out)),
        (AlphaError, "finite", ("orthogonalize", model, rvs, "--source-layer", 1, "--alpha", "nan", "-o", out)),
        (AlphaError, "finite", ("orthogonalize", model, rvs, "--source-layer", 1, "--alpha", "inf", "-o", out)),
        (ArtifactError, "name a source layer", ("orthogonalize", model, rvs, "-o", out)),
        (LayerRangeError, "layer 9", ("orthogonalize", model, rvs, "--source-layer", 9, "-o", out)),
        (AlphaError, "finite", ("adapter", model, rvs, "--source-layer", 1, "--alpha", "nan", "-o", out)),
        (ArtifactError, "name a source layer", ("adapter", model, rvs, "-o", out)),
        (ArtifactError, "not an edited checkpoint", ("verify", model)),
        (ArtifactError, "no such file", ("show", tmp_path / "nothing")),
    ]
    for kind, message, arguments in faults:
        caught = fault(*arguments)
        assert isinstance(caught, kind) and message in str(caught), arguments
    assert sorted(tmp_path.iterdir()) == before


def test_vectors_of_another_model_need_leave_and_of_another_shape_never_get_it(rvs, tmp_path):
    other = write_model(tmp_path / "other", "Qwen2ForCausalLM", torch.bfloat16, n_layers=4, seed=3)
    deeper = write_model(tmp_path / "deeper", "Qwen2ForCausalLM", torch.bfloat16, n_layers=5)
    arguments = (rvs, "--source-layer", 1, "-o", tmp_path / "out")
    assert isinstance(fault("orthogonalize", other, *arguments), MismatchError)
    assert isinstance(fault("orthogonalize", deeper, *arguments, "--allow-other-model"), MismatchError)
    assert run("orthogonalize", other, *arguments, "--allow-other-model").exit_code == 0


def test_a_model_without_a_chat_template_is_refused(pairs, tmp_path):
    folder = write_model(tmp_path / "m", "LlamaForCausalLM")
    (folder / "chat_template.jinja").unlink()
    assert "no chat template" in str(fault("extract", folder, "--pairs", pairs, "-o", tmp_path / "out"))


def test_organism_writes_by_name_and_passes_its_options(monkeypatch, tmp_path):
    from surgery.organisms import release

    calls = []

    def write_organism(name, out_dir, *, retrain, seed, force, progress):
        progress("train base", 1, 2)
        calls.append((name, out_dir, retrain, seed, force))
        return out_dir

    monkeypatch.setattr(release, "write_organism", write_organism)
    result = run("organism", "distributed", "-o", tmp_path / "o", "--retrain")
    assert result.exit_code == 0, result.exception
    assert calls == [("distributed", tmp_path / "o", True, None, False)]
    run("organism", "single", "-o", tmp_path / "o", "--retrain", "--seed", "7")
    assert calls[1] == ("single", tmp_path / "o", True, 7, False)
    assert (
        run("organism", "single", "-o", tmp_path / "o", "--seed", "7").exit_code == 2
    )  # the packaged weights have theirs
    assert run("organism", "quadruple", "-o", tmp_path / "o").exit_code == 2


@pytest.mark.parametrize("name", ["extract", "show", "subspace", "orthogonalize", "verify", "organism"])
def test_every_command_explains_itself_with_an_example(name):
    command = main.get_command(None, name)
    assert isinstance(command, click.Command)
    text = run(name, "--help").stdout
    assert f"refusal {name}" in text and "Example" in text
    assert run(name).exit_code == 2


def test_importing_the_commands_loads_nothing_heavy():
    script = (
        "import sys; from eval.cli import COMMANDS, main; [main.get_command(None, name) for name in COMMANDS];"
        "print([m for m in ('torch', 'transformers', 'numpy', 'vllm') if m in sys.modules])"
    )
    root = Path(__file__).parents[4]
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=root, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(("command", "then"), [("judge", "goes on with what is there"), ("extract", "begins anew")])
def test_an_interrupted_command_says_what_the_same_words_do(command, then, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(Commands, "get_command", lambda self, ctx, name: click.Command(name, callback=interrupted))
    result = CliRunner().invoke(main, [command], prog_name="refusal")
    assert result.exit_code == 130
    assert result.output == f"interrupted; the same command {then}: refusal {command}\n"


def test_options_that_writing_the_built_in_sets_does_not_use_are_refused(tmp_path):
    result = CliRunner().invoke(main, ["prompts", "builtin", "--json", "-o", str(tmp_path / "prompts")])
    assert result.exit_code == 2 and "leave out --json" in result.output
    assert not (tmp_path / "prompts").exists()


def test_a_path_that_utf8_cannot_hold_is_printed(tmp_path):
    out = os.fsencode(tmp_path) + b"/prompts-\xff"
    env = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    words = [sys.executable, ROOT / "bin" / "refusal", "prompts", "builtin", "-o", out]
    done = subprocess.run(words, env=env, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"prompts-\\udcff" in done.stdout
