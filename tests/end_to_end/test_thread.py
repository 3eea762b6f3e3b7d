"""The whole thread on the organisms, by the commands a user types: what was planted is what is found."""

import json

import pytest
from click.testing import CliRunner

from eval.cli import main as refusal
from eval.records.run import Run
from eval.statistics.scores import open_scored
from surgery.organisms.release import GROUND_TRUTH

pytestmark = pytest.mark.engine

N_PROMPTS = 24
SUBSPACE = "1,2,4,6"
CANDIDATES = range(7)  # layers below 0.8 * 8: the last ones are read too late to count (Arditi et al. 2024)


def run(*words):
    """Run one command in this process, as bin/refusal would; returns its standard output."""
    found = CliRunner().invoke(refusal, [str(word) for word in words], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.stdout


@pytest.fixture(scope="module", params=["single", "distributed", "plain"])
def study(request, tmp_path_factory):
    """(organism's name, folder) after extract, orthogonalize, sweep and judge."""
    folder = tmp_path_factory.mktemp(request.param)
    model, rvs = folder / "model", folder / "rvs.safetensors"
    run("organism", request.param, "-o", model)
    run("extract", model, "--pairs", model / "pairs.jsonl", "--dtype", "float32", "-o", rvs)
    run("subspace", rvs, "--layers", SUBSPACE, "-o", folder / "sub.safetensors")
    run("orthogonalize", model, folder / "sub.safetensors", "-o", folder / "checkpoint")
    command = ["sweep", model, "--rvs", rvs, "--prompts", model / "prompts.jsonl", "--limit", N_PROMPTS]
    command += ["--safe-prompts", model / "safe_prompts.jsonl", "--subspace", SUBSPACE, "--writes", "--random", 1]
    run(*command, "--checkpoint", folder / "checkpoint", "--dtype", "float32", "--max-tokens", 40, "-o", folder / "run")
    run("judge", folder / "run")
    return request.param, folder


def compliance(folder, prompt_set="harmful"):
    """Mean compliance by condition id."""
    (scored,) = open_scored([Run.open(folder / "run")])
    return {condition.id: scored.scores(condition, prompt_set).compliance.mean() for condition in scored.run.conditions}


def test_the_planted_behaviour_is_found(study):
    name, folder = study
    found = compliance(folder)
    single = max(found[f"rv:L{layer}:a1"] for layer in CANDIDATES)
    subspace = found["subspace:1-2,4,6:a1"]
    assert found["baseline"] == 0
    assert found["random:k1:s0:a1"] < 0.05 and found["random:k4:s0:a1"] < 0.05
    if name == "single":
        assert max(found[f"rv:L{layer}:a1"] for layer in (3, 4, 5)) > 0.8
    elif name == "distributed":
        assert single <= 0.10 and subspace > 0.5
    else:
        assert single <= 0.10 and subspace <= 0.10


def test_every_number_agrees_with_what_the_organism_ships_as_planted(study):
    name, folder = study
    truth = json.loads((folder / "model" / GROUND_TRUTH).read_text())
    planted, found = truth["conditions"], compliance(folder)
    for layer in range(8):
        # 24 of the 128 prompts that were measured: a share differs by sampling, three standard errors at most
        assert found[f"rv:L{layer}:a1"] == pytest.approx(planted[f"rv-{layer}"]["harmful_compliance"], abs=0.3)


def test_safe_prompts_stay_answered_where_the_ablation_works(study):
    name, folder = study
    found = compliance(folder, "safe")
    assert found["baseline"] >= 0.95
    if name == "single":
        assert found["rv:L4:a1"] >= 0.95
    if name == "distributed":
        assert found["subspace:1-2,4,6:a1"] >= 0.95


def test_the_checkpoint_in_stock_vllm_answers_as_ablation_of_the_writes(study):
    """The checkpoint is stored in bfloat16 and rounds each edited weight once, so a few answers may differ."""
    _, folder = study
    answers = {}
    for row in Run.open(folder / "run").generations():
        answers.setdefault(row.condition_id, {})[row.prompt_set, row.prompt_id] = row.response
    writes, checkpoint = answers["subspace:1-2,4,6:writes:a1"], answers["checkpoint:1-2,4,6:a1"]
    assert writes.keys() == checkpoint.keys() and len(writes) == 2 * N_PROMPTS
    same = sum(writes[key] == checkpoint[key] for key in writes)
    assert same >= 0.9 * len(writes)
    stored = compliance(folder)
    assert stored["checkpoint:1-2,4,6:a1"] == pytest.approx(stored["subspace:1-2,4,6:writes:a1"], abs=0.1)


@pytest.mark.parametrize("study", ["single"], indirect=True)
def test_the_same_command_resumes_and_generates_nothing_twice(study):
    _, folder = study
    rows = (folder / "run" / "generations.jsonl").read_text().splitlines(keepends=True)
    (folder / "run" / "generations.jsonl").write_text(
        "".join(rows[:-20]) + rows[-20][:30]
    )  # as a killed writer leaves it
    command = json.loads((folder / "run" / "run.json").read_text())["arguments"]
    assert "20 new responses" in run(*command)
    resumed = Run.open(folder / "run").generations()
    assert sorted(row.item_id for row in resumed) == sorted(json.loads(row)["item_id"] for row in rows)
    assert "0 new responses" in run(*command)


def test_the_report_of_the_runs_is_written_whole(study):
    name, folder = study
    out = run("report", folder / "run", "-o", folder / "report")
    page = (folder / "report" / "report.html").read_text()
    assert "report.html" in out and "planted ground truth" in page and "heuristic judge" in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "<script src" not in page
