"""`refusal damage` on a real run: conditions of the engine, a checkpoint, and what it refuses."""

import json
import shutil

import pytest
from click.testing import CliRunner

from eval.cli import main
from eval.cost.damage import run_damage
from eval.cost.damage.records import load_damage
from eval.generation import engines
from surgery.organisms.release import write_organism

pytestmark = pytest.mark.engine


def refusal(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def run(rvs, tmp_path_factory):
    """A run with one RV, one subspace at both sites and its checkpoint."""
    folder, model = tmp_path_factory.mktemp("damage"), rvs.parent / "model"
    made = refusal("subspace", rvs, "--layers", "2,4", "-o", folder / "sub.safetensors")
    assert made.exit_code == 0, made.output
    made = refusal("orthogonalize", model, folder / "sub.safetensors", "-o", folder / "edited")
    assert made.exit_code == 0, made.output
    asked = ["sweep", model, "--rvs", rvs, "--source-layers", 4, "--subspace", "2,4", "--writes", "--random", 0]
    asked += ["--checkpoint", folder / "edited", "--prompts", model / "prompts.jsonl", "--limit", 3]
    asked += ["--safe-prompts", model / "safe_prompts.jsonl", "--max-tokens", 2, "--dtype", "float32"]
    made = refusal(*asked, "-o", folder / "run")
    assert made.exit_code == 0, made.output
    made = refusal("damage", folder / "run", "--window", 64, "--limit", 3)
    assert made.exit_code == 0, made.output
    return folder / "run"


def test_every_condition_is_measured_and_the_checkpoint_does_what_ablation_of_the_writes_does(run):
    found = load_damage(run).conditions
    assert list(found) == ["baseline", "rv:L4:a1", "subspace:2,4:a1", "subspace:2,4:writes:a1", "checkpoint:2,4:a1"]
    writes, checkpoint = found["subspace:2,4:writes:a1"], found["checkpoint:2,4:a1"]
    assert writes.kl.n == 3
    assert checkpoint.kl.estimate == pytest.approx(writes.kl.estimate, rel=0.02)
    assert checkpoint.nats.estimate == pytest.approx(writes.nats.estimate, abs=2e-3)
    assert found["rv:L4:a1"].kl.estimate != pytest.approx(writes.kl.estimate, rel=0.02)  # told apart


def test_a_repeated_call_starts_no_engine(run, monkeypatch):
    before = (run / "damage.json").read_bytes()
    monkeypatch.setattr(engines, "Engine", None)
    assert refusal("damage", run, "--window", 64, "--limit", 3).exit_code == 0
    assert (run / "damage.json").read_bytes() == before


def test_measurements_on_other_inputs_are_not_mixed(run):
    before = (run / "damage.json").read_bytes()
    found = refusal("damage", run, "--window", 64, "--limit", 2)
    assert found.exit_code == 1
    assert "n_prompts 3 then, 2 now" in found.output
    assert (run / "damage.json").read_bytes() == before


def interrupted_measuring(run, monkeypatch, *options):
    """`refusal damage --force`, ended after its first condition; returns the ids of those it was to measure anew."""
    measured, measure = [], run_damage.measure

    def measure_one(name, *inputs):
        if measured:
            raise KeyboardInterrupt
        measured.append(name)
        return measure(name, *inputs)

    with monkeypatch.context() as patched:
        patched.setattr(run_damage, "measure", measure_one)
        assert refusal("damage", run, "--window", 64, *options, "--force").exit_code != 0
    return measured


def test_measuring_anew_that_is_interrupted_keeps_what_was_measured(run, monkeypatch):
    before = load_damage(run)
    assert interrupted_measuring(run, monkeypatch, "--limit", 3) == ["rv:L4:a1"]
    found = load_damage(run)
    assert list(found.conditions) == list(before.conditions)
    assert found.conditions["rv:L4:a1"].kl.estimate == pytest.approx(
        before.conditions["rv:L4:a1"].kl.estimate, rel=1e-3
    )


def test_measuring_anew_on_other_inputs_takes_the_place_of_the_old_when_it_is_whole_and_goes_on_before(
    run, monkeypatch, tmp_path
):
    copy = shutil.copytree(run, tmp_path / "run")
    before = (copy / "damage.json").read_bytes()
    interrupted_measuring(copy, monkeypatch, "--limit", 2)
    assert (copy / "damage.json").read_bytes() == before
    measured, measure = [], run_damage.measure
    monkeypatch.setattr(run_damage, "measure", lambda name, *inputs: measured.append(name) or measure(name, *inputs))
    found = refusal("damage", copy, "--window", 64, "--limit", 2)
    assert found.exit_code == 0, found.output
    assert "rv:L4:a1" not in measured and load_damage(copy).inputs.n_prompts == 2
    assert list(load_damage(copy).conditions) == list(load_damage(run).conditions)
    assert not [path.name for path in copy.iterdir() if path.name.startswith("damage") and path.name != "damage.json"]


def test_a_basis_that_changed_since_the_run_is_refused(run, monkeypatch):
    monkeypatch.setattr(run_damage, "file_sha256", lambda path: "0" * 64)
    found = refusal("damage", run, "--window", 64, "--limit", 3, "--force")
    assert found.exit_code == 1
    assert "has changed since the run" in found.output


def test_another_model_in_the_place_of_the_runs_is_refused(run, tmp_path):
    other = write_organism("plain", tmp_path / "other")
    manifest = json.loads((run / "run.json").read_text())
    manifest["model"]["model"] = str(other)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps(manifest))
    found = refusal("damage", tmp_path / "run", "--safe-prompts", other / "safe_prompts.jsonl")
    assert found.exit_code == 1
    assert "fingerprint" in found.output
