"""The recipes of the real models, and the surgery, on random weights of the exact shape: minutes and gigabytes each."""

import json
import os
from dataclasses import asdict

import pytest
import torch
import yaml
from click.testing import CliRunner
from full_size import LLAMA_1B, LLAMA_8B, QWEN_1_8B, qwen_ranks, write_llama
from qwen_v1 import write_qwen_v1

from eval.cli import main as refusal
from eval.studies.recipes.recipe import load_recipe
from surgery.prompts import load_pairs
from surgery.residual.vectors import RefusalVectors
from surgery.weights.manifest import read_manifest

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.long]

N_PAIRS = 3  # of each tier


@pytest.fixture(autouse=True)
def every_core():
    """Tensors this large gain from threads, which the modules of the tiny models turn off."""
    torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_num_threads(1)


def invoke(*words):
    done = CliRunner().invoke(refusal, list(map(str, words)), catch_exceptions=False)
    assert done.exit_code == 0, done.output[-3000:]
    return done


def write_few_pairs(path, split="extraction"):
    """Some built-in pairs of both tiers."""
    pairs = load_pairs("builtin", split)
    few = [pair for tier in (1, 2) for pair in [each for each in pairs if each.tier == tier][:N_PAIRS]]
    path.write_text("".join(json.dumps(asdict(pair)) + "\n" for pair in few))
    return path


def write_small_recipe(folder, name):
    """A shipped recipe with fewer prompts and conditions; shape, layers, sets, stages and claims are its own."""
    pairs = str(write_few_pairs(folder / "pairs.jsonl"))
    held_out = str(write_few_pairs(folder / "held-out.jsonl", "evaluation"))
    fewer = {"pairs": pairs, "held_out": held_out, "alphas": [1.0], "n_random": 1, "max_tokens": 4, "dtype": "bfloat16"}
    content = load_recipe(name).model_dump(mode="json") | fewer
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content, allow_unicode=True))
    return path


def write_qwen(folder):
    return write_qwen_v1(folder, n_files=2, dtype=torch.bfloat16, ranks=qwen_ranks(), **QWEN_1_8B)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        pytest.param("llama-3.2-1b-instruct", lambda folder: write_llama(folder, LLAMA_1B), id="1B"),
        pytest.param("qwen-1.8b-chat", write_qwen, id="Qwen"),
        pytest.param(
            "llama-3.1-8b-instruct",
            lambda folder: write_llama(folder, LLAMA_8B | {"num_hidden_layers": 16}),
            id="8B with half of its layers",
        ),
    ],
)
def test_a_recipe_runs_through_every_stage_to_its_report(tmp_path, name, make):
    model, out = make(tmp_path / "weights"), tmp_path / "out"
    recipe = write_small_recipe(tmp_path, name)
    invoke("reproduce", recipe, "--model", model, "-o", out, "--limit", 2, "--with", "damage:window=32")
    found = [row["claim"] for row in json.loads((out / "findings.json").read_text())["findings"]]
    assert len(found) == len(load_recipe(name).claims)
    page = (out / "report" / "report.html").read_text()
    assert all(claim in page for claim in found) and "Capability" in page


def test_the_surgery_takes_an_8b_checkpoint_whole(tmp_path):
    model = write_llama(tmp_path / "weights", LLAMA_8B)
    rvs, subspace, edited = (tmp_path / name for name in ("rvs.safetensors", "subspace.safetensors", "edited"))
    invoke("extract", model, "--pairs", write_few_pairs(tmp_path / "pairs.jsonl"), "--dtype", "bfloat16", "-o", rvs)
    vectors = RefusalVectors.load(rvs).vectors
    assert vectors.shape == (32, 4096) and bool((vectors.norm(dim=1) > 0).all())
    invoke("subspace", rvs, "--layers", "7-10", "-o", subspace)
    done = invoke("orthogonalize", model, subspace, "-o", edited)
    assert "64 edited tensors" in done.output  # what attention and MLP of each block write
    assert read_manifest(edited)["kind"] and sum(file.stat().st_size for file in edited.glob("*.safetensors")) > 16e9
