"""Recipes carried out whole: the organisms with their planted truth, and the shapes of the real models without weights."""

import json
from functools import cache

import pytest
import yaml
from click.testing import CliRunner
from documents import check_keys, check_kind, section
from judge_endpoint import Endpoint, verdict_by_rules
from qwen_v1 import write_qwen_v1
from tiny_models import servable_model, tiny_tokenizer

from eval.cli import main as refusal
from eval.records.run import Run
from eval.studies.recipes.estimate import count_conditions
from eval.studies.recipes.recipe import load_recipe
from eval.studies.recipes.stages import Choices

pytestmark = pytest.mark.engine
LONG = (pytest.mark.slow, pytest.mark.long)

QWEN = {
    "hidden_size": 128,
    "num_hidden_layers": 24,
    "num_attention_heads": 4,
    "kv_channels": 32,
    "intermediate_size": 192,
}


def invoke(*words):
    return CliRunner().invoke(refusal, ["reproduce", *map(str, words)], catch_exceptions=False)


def write_recipe(folder, name, **changes):
    """A shipped recipe with fewer conditions."""
    content = load_recipe(name).model_dump(mode="json") | changes
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content, allow_unicode=True))
    return path


def findings(out):
    return {row["claim"]: row["verdict"] for row in json.loads((out / "findings.json").read_text())["findings"]}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """study(organism's name): (name, recipe, folder of the study, output), made once."""

    @cache
    def carry_out(name):
        folder = tmp_path_factory.mktemp(name)
        recipe = write_recipe(folder, f"organism-{name}", alphas=[1.0], n_random=1)
        done = invoke(recipe, "-o", folder / "out", "--limit", 24)
        assert done.exit_code == 0, done.output[-3000:]
        return name, recipe, folder / "out", done

    return carry_out


@pytest.fixture(params=["single", pytest.param("distributed", marks=pytest.mark.slow)])
def organism(request, study):
    return study(request.param)


def test_the_findings_on_an_organism_are_what_was_planted(organism):
    name, _, out, done = organism
    found = findings(out)
    planted = {
        "single": {
            "RVs of middle and late layers are one direction": "supported",
            "Refusal is nearly one direction: a single RV suffices": "supported",
        },
        "distributed": {
            "Similarity of the RVs decays quickly off the diagonal": "supported",
            "Ablating a single RV plateaus well below full compliance": "supported",
            "A subspace of several layers does better than a single RV": "supported",
        },
    }[name]
    assert {claim: found[claim] for claim in planted} == planted
    assert found["Every layer separates harmful from safe prompts"] in ("supported", "cannot tell")
    assert all(claim in done.output for claim in found)


def test_every_artifact_of_a_study_is_there_and_the_run_has_as_many_conditions_as_were_announced(organism):
    name, recipe, out, _ = organism
    for artifact in (
        f"organism-{name}",
        "rvs.safetensors",
        "subspace.safetensors",
        "checkpoint-a1",
        "figures",
        "benchmark",
    ):
        assert (out / artifact).exists(), artifact
    assert (out / "run" / "damage.json").is_file()
    assert len(Run.open(out / "run").conditions) == count_conditions(load_recipe(str(recipe)), 8, Choices())
    page = (out / "report" / "report.html").read_text()
    assert "Capability" in page and "organism-answers" in page
    assert "Claims of the write-up" in page and "Claims of the write-up" in (out / "report" / "report.md").read_text()


def test_the_records_of_a_study_hold_the_keys_that_are_documented(study):
    _, _, out, _ = study("single")
    state, found = (json.loads((out / name).read_text()) for name in ("reproduce.json", "findings.json"))
    check_keys("### `reproduce.json`", state)
    check_kind("### `reproduce.json`", state)
    check_keys("### `findings.json`", found)
    named = {key for stage in state["stages"].values() for key in stage} | {
        key for row in found["findings"] for key in row
    }
    said = "".join(section("docs/file-formats.md", f"### `{name}.json`") for name in ("reproduce", "findings"))
    assert all(f"`{key}`" in said for key in named)


def test_a_finished_study_is_not_run_again_and_a_lost_artifact_is_made_again(study):
    _, recipe, out, _ = study("single")
    (out / "subspace.safetensors").unlink()
    before = (out / "run" / "generations.jsonl").stat().st_mtime_ns
    again = invoke(recipe, "-o", out, "--limit", 24)
    assert again.exit_code == 0, again.output
    assert (out / "subspace.safetensors").is_file()
    assert (out / "run" / "generations.jsonl").stat().st_mtime_ns == before
    assert "extract: done before" in again.stderr and "subspace: done before" not in again.stderr


def test_a_language_model_can_be_the_judge_of_a_study_that_is_there(study):
    _, recipe, out, _ = study("single")
    before, planted = (out / "run" / "generations.jsonl").read_bytes(), findings(out)
    endpoint = Endpoint(verdict_by_rules)
    with endpoint.serving() as url:
        done = invoke(recipe, "-o", out, "--limit", 24, "--judge-model", "judge-1", "--judge-base-url", url)
    assert done.exit_code == 0, done.output[-3000:]
    assert (out / "run" / "generations.jsonl").read_bytes() == before
    assert "sweep: done before" in done.stderr and "judge: done before" not in done.stderr
    texts = {row.response for row in Run.open(out / "run").generations()}
    assert set(endpoint.asked) >= texts  # every response was put before it
    assert "LLM judge judge-1" in (out / "report" / "report.html").read_text()
    assert findings(out) == planted


ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def save_shaped(folder, n_layers, **settings):
    """A random Llama with all layers and the position embedding of a real one, narrow, with a tokenizer of its own."""
    settings = {"tied": n_layers == 16, "max_position_embeddings": 131072, "rope_parameters": ROPE} | settings
    model = servable_model("LlamaForCausalLM", vocab_size=260, num_hidden_layers=n_layers, **settings)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("name", "make"),
    [
        pytest.param("llama-3.2-1b-instruct", lambda folder: save_shaped(folder, 16), marks=pytest.mark.slow),
        pytest.param(
            "qwen-1.8b-chat",
            lambda folder: write_qwen_v1(folder, n_files=2, seq_length=1024, **QWEN),
            marks=pytest.mark.slow,
        ),
        pytest.param("llama-3.1-8b-instruct", lambda folder: save_shaped(folder, 32), marks=LONG),
        pytest.param("generic", lambda folder: save_shaped(folder, 16), marks=LONG),
    ],
)
def test_the_recipe_of_a_real_model_runs_to_its_report_on_random_weights_of_its_depth(tmp_path, name, make):
    model = make(tmp_path / "weights")
    recipe = write_recipe(tmp_path, name, alphas=[1.0], n_random=1, max_tokens=4, dtype="float32")
    done = invoke(recipe, "--model", model, "-o", tmp_path / "out", "--limit", 2)
    assert done.exit_code == 0, done.output[-3000:]
    assert len(findings(tmp_path / "out")) == len(load_recipe(name).claims)
    page = (tmp_path / "out" / "report" / "report.html").read_text()
    assert ("Beside the write-up" in page) == (name == "llama-3.2-1b-instruct")
