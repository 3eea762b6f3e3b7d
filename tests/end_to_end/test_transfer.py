"""Two tiers end to end on the distributed organism, whose tiers share their directions: extract, sweep, judge, report."""

import csv
import json

import pytest
from click.testing import CliRunner

from eval.cli import main as refusal
from eval.records.run import Run
from eval.statistics.scores import open_scored

pytestmark = pytest.mark.engine

N_PROMPTS = 20
SUBSPACE = "1-2,4,6"
TIERS = ("tier 1", "tier 2")


def invoke(*words):
    """Run one command in this process, as bin/refusal would; returns its standard output."""
    found = CliRunner().invoke(refusal, [str(word) for word in words], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.stdout


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The folder after extract and a judged sweep over both tiers."""
    folder = tmp_path_factory.mktemp("tiers")
    model, rvs = folder / "model", folder / "rvs.safetensors"
    invoke("organism", "distributed", "-o", model)
    invoke("extract", model, "--pairs", model / "pairs.jsonl", "--dtype", "float32", "-o", rvs)
    command = ["sweep", model, "--rvs", rvs, "--tiers", "--source-layers", "3,5", "--subspace", SUBSPACE]
    command += ["--prompts", model / "prompts.jsonl", "--limit", N_PROMPTS, "--random", 0, "--judge", "heuristic"]
    invoke(*command, "--dtype", "float32", "--max-tokens", 40, "-o", folder / "run")
    return folder


def test_what_is_from_either_tier_is_ablated_beside_what_is_from_all_prompts(study):
    conditions = Run.open(study / "run").conditions
    assert [condition.tag for condition in conditions] == ["", *(tag for tag in ("", *TIERS) for _ in range(3))]
    assert sorted(path.name for path in (study / "run" / "modules").iterdir()) == [
        "rvs-tier-1.safetensors",
        "rvs-tier-2.safetensors",
    ]
    command = json.loads((study / "run" / "run.json").read_text())["arguments"]
    assert "0 new responses" in invoke(*command)


def test_the_subspace_of_one_tier_removes_refusals_on_both_and_its_single_vectors_do_not(study):
    """What the organism's training planted: all tiers refuse by the same spread-out directions."""
    (scored,) = open_scored([Run.open(study / "run")])
    means = {c.id: scored.scores(c, "harmful").compliance.mean() for c in scored.conditions}
    for tag in ("", ":tier-1", ":tier-2"):
        assert means[f"subspace:{SUBSPACE}{tag}:a1"] > 0.5
        assert means[f"rv:L3{tag}:a1"] <= 0.1 and means[f"rv:L5{tag}:a1"] <= 0.1
    assert means["baseline"] == 0


def test_the_report_has_the_matrix_and_calls_the_difference_noise(study):
    text = invoke("report", study / "run", "-o", study / "report")
    assert "Transfer between tiers" in text and "may be noise" in text
    (path,) = (study / "report" / "tables").glob("*-transfer.csv")
    rows = list(csv.DictReader(path.open(encoding="utf-8")))
    assert {row["source"] for row in rows if row["ablated"].startswith("QR")} == {"all prompts", *TIERS}
    n_by_tier = [sum(float(row[f"tier_{tier}_n"]) for row in rows[:1]) for tier in (1, 2)]
    assert sum(n_by_tier) == N_PROMPTS
    page = (study / "report" / "report.md").read_text(encoding="utf-8")
    assert "Principal angles between the tiers" in page and "own-tier advantage" in page


def test_the_run_is_a_pilot_for_a_larger_one(study):
    plan = json.loads(invoke("power", "--run", study / "run", "--difference", 0.1, "--json"))
    assert plan["spread"]["baseline"] == 0 and {row["n_groups"] for row in plan["plan"]} == {1, 2}
    assert all(row["n_prompts"] > N_PROMPTS for row in plan["plan"])
