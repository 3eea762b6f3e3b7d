"""`refusal audit` on model organisms, whose mechanism of refusal is known: the verdict is the planted one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from documents import check_keys, check_kind
from judge_endpoint import Endpoint, verdict_by_rules

from eval.cli import main
from eval.records.run import Run
from eval.studies.audit import bench
from surgery.organisms.release import write_organism

pytestmark = pytest.mark.engine


REFUSAL = Path(__file__).resolve().parents[2] / "bin" / "refusal"


def refusal(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def command(model, *options):
    sources = [] if "--rvs" in options else ["--pairs", model / "pairs.jsonl"]
    sources += [
        "--prompts",
        model / "prompts.jsonl",
        "--safe-prompts",
        model / "safe_prompts.jsonl",
        "--max-tokens",
        24,
    ]
    return ["audit", model, *sources, *options]


def asked(folder, name, *options):
    """The words of a command that audits an organism."""
    return [*command(write_organism(name, folder / "model"), *options), "-o", folder / "audit"]


def audited(words):
    """(the command's words, the audit's folder), once the audit is there."""
    found = refusal(*words)
    assert found.exit_code == 0, found.output
    return words, words[-1]


def read(folder):
    return json.loads((folder / "audit.json").read_text())


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """(the command's words, the responses it had) of an audit that was killed while it chose."""
    words = asked(tmp_path_factory.mktemp("single"), "single", "--limit", 16, "--alphas", "1")
    responses = words[-1] / "runs" / "selection-01" / "generations.jsonl"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, REFUSAL, *map(str, words)], start_new_session=True, **quiet)
    while process.poll() is None and not (responses.is_file() and responses.stat().st_size):
        time.sleep(0.002)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (words[-1] / "audit.json").exists()
    return words, responses.read_bytes()


@pytest.fixture(scope="module")
def single(killed):
    return audited(killed[0])


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("distributed", {f"low-rank (k≈{rank})" for rank in range(2, 8)}),
        ("plain", {f"{form} only" for form in ("affine", "projected", "affine or projected")}),
    ],
)
@pytest.mark.slow
def test_the_verdict_is_the_mechanism_that_was_planted(tmp_path, name, texts):
    _, folder = audited(asked(tmp_path, name, "--limit", 32, "--alphas", "1", "--no-weights", "--tasks", "none"))
    found = read(folder)
    assert found["verdict"]["text"] in texts or found["verdict"]["name"] in texts
    assert found["evidence"]["ranks"]["1"]["estimate"] < 0.5  # no single vector does it
    assert found["evidence"]["control"]["estimate"] < 0.1


def test_one_planted_direction_is_found_to_be_one(single):
    found = read(single[1])
    assert found["verdict"]["text"] == "single-direction"
    assert found["evidence"]["baseline"]["estimate"] == 0
    assert found["evidence"]["control"]["estimate"] == 0  # a random direction does nothing
    assert [each["text"] for each in found["reached"]] == ["k = 1, α = 1"] * 2


def test_what_was_chosen_is_measured_on_other_prompts(single):
    chosen, measured = (
        {row.prompt_id for row in Run.open(single[1] / "runs" / stage).generations()}
        for stage in ("selection-01", "measured")
    )
    assert (len(chosen), len(measured)) == (8, 8)
    assert not chosen & measured


def test_its_records_hold_the_keys_that_are_documented(single):
    _, folder = single
    check_keys("### `audit.json`", read(folder))
    check_kind("### `audit.json`", read(folder))
    check_keys("### `design.json`", json.loads((folder / "design.json").read_text()))


def test_no_more_is_asked_than_was_announced(single):
    words, folder = single
    announced = refusal(*words, "--dry-run").output
    most = int(announced.split("at most ")[1].split(" ")[0])
    n_asked = sum(len(Run.open(path.parent).generations()) for path in folder.glob("runs/*/run.json"))
    assert 0 < n_asked <= most


def test_weights_and_run_time_are_compared_and_agree(single):
    weights = read(single[1])["weights"]
    assert weights["first"].endswith(":writes:a1")
    assert weights["second"].startswith("checkpoint:")
    assert (weights["n_pairs"], weights["same_verdict"]["estimate"]) == (8, 1.0)


def test_ablation_costs_little_on_safe_prompts_and_adding_the_vector_makes_them_refused(single):
    found = read(single[1])
    assert all(row["compliance"]["estimate"] > 0.8 for row in found["cost"])
    assert all(0 <= each["kl"]["estimate"] < 0.1 for name, each in found["damage"].items() if name != "baseline")
    refused = {row["condition"]["id"]: row["refused"]["estimate"] for row in found["reverse"]}
    assert refused["baseline"] == 0
    assert max(refused.values()) > 0.3
    assert refused["named:added-L0"] == 0  # a layer below the mechanism induces nothing


def test_benchmarks_are_scored_under_every_ablation_whose_cost_is_shown(single):
    found = read(single[1])
    scores = {(each["variant"], each["task"]): each["score"]["estimate"] for each in found["capability"]}
    tasks = ("facts", "short-answers", "organism-answers", "organism-replies")
    assert set(scores) == {(row["condition"]["id"], task) for row in found["cost"] for task in tasks}
    assert scores["baseline", "organism-answers"] == 1  # it knows its own language, and loses none of it
    assert min(scores[row["condition"]["id"], "organism-answers"] for row in found["cost"]) > 0.9


def test_the_page_holds_verdict_curve_and_command(single):
    page = (single[1] / "audit.html").read_text()
    for text in (
        "single-direction",
        "planted ground truth",
        "<svg",
        "random subspaces",
        "refusal audit",
        "Induced refusals",
    ):
        assert text in page
    assert "http://" not in page.replace("http://www.w3.org", "")  # nothing is fetched
    assert "single-direction" in (single[1] / "audit.md").read_text()


def test_an_audit_killed_while_it_chooses_goes_on_with_the_responses_it_had(killed, single):
    before = killed[1][: killed[1].rindex(b"\n") + 1]  # the last line may be torn
    run = Run.open(single[1] / "runs" / "selection-01")
    assert before and (run.path / "generations.jsonl").read_bytes().startswith(before)
    ids = [json.loads(line)["item_id"] for line in (run.path / "generations.jsonl").open()]
    # where the machine is busy the kill may come after the stage's last response: then all of them are kept
    assert before.count(b"\n") <= len(ids) == len(set(ids)) == 8 * len(run.manifest.conditions)


def test_the_same_command_goes_on_and_asks_nothing_twice(single, monkeypatch):
    words, folder = single
    before = {path: path.read_bytes() for path in folder.rglob("*.jsonl")}
    assert any("capability" in path.parts for path in before)
    for started in (
        "eval.generation.engines.Engine",
        "eval.studies.audit.kept_engine.Engine",
    ):
        monkeypatch.setattr(started, None)
    found = refusal(*words)
    assert found.exit_code == 0, found.output
    assert found.stdout.splitlines()[0] == "single-direction"
    assert {path: path.read_bytes() for path in folder.rglob("*.jsonl")} == before


def test_a_language_model_can_be_the_judge(single, tmp_path):
    endpoint, few = Endpoint(verdict_by_rules), ["--limit", 12, "--max-rank", 1, "--no-weights", "--tasks", "none"]
    with endpoint.serving() as url:
        judge = ["--judge-model", "judge-1", "--judge-base-url", url]
        rvs = ["--rvs", single[1] / "rvs.safetensors", "--alphas", "1"]
        found = refusal(*command(single[0][1], *few, *rvs, *judge), "-o", tmp_path / "audit")
    assert found.exit_code == 0, found.output
    assert read(tmp_path / "audit")["verdict"]["text"] == "single-direction"
    texts = {row.response for path in tmp_path.glob("audit/runs/*") for row in Run.open(path).generations()}
    assert texts <= set(endpoint.asked)
    assert "LLM judge judge-1" in (tmp_path / "audit" / "audit.html").read_text()


def test_another_audit_is_not_mixed_with_it(single):
    words, folder = single
    before = (folder / "audit.json").read_bytes()
    found = refusal(*words, "--max-rank", 3)
    assert found.exit_code == 1
    assert "holds another audit (size differ)" in found.output
    assert (folder / "audit.json").read_bytes() == before


def test_a_folder_that_holds_something_else_is_left_alone(single, tmp_path):
    (tmp_path / "kept.txt").write_text("kept")
    words = [*single[0][:-1], tmp_path]
    assert refusal(*words).exit_code == 1
    assert "is not an audit" in refusal(*words, "--force").output
    assert (tmp_path / "kept.txt").read_text() == "kept"


def test_judging_that_stopped_is_said_and_not_counted_as_refusal(single, tmp_path):
    run = Run.open(shutil.copytree(single[1] / "runs" / "measured", tmp_path / "run"))
    (judge,) = run.manifest.judges
    bench.check_judged(run, judge)
    lines = (run.path / "verdicts.jsonl").read_text().splitlines(keepends=True)
    (run.path / "verdicts.jsonl").write_text("".join(lines[:-5]))
    with pytest.raises(bench.AuditError, match="5 responses are not judged yet; the same command goes on"):
        bench.check_judged(run, judge)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--limit", 3], "at least 12 harmful prompts, found 3"),
        (["--alphas", "1,x"], "expected numbers such as 0.5,1,1.5"),
        (["--prompts", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--judge-rpm", 5], "--judge-rpm needs --judge-model"),
        (["--tasks", "no-such-task"], "task no-such-task: cannot be loaded"),
        (["--tasks", "none", "--task-limit", 3], "--task-limit does not go with --tasks none"),
    ],
)
def test_a_fault_is_one_line_before_anything_is_written(single, tmp_path, options, message):
    found = refusal(*single[0][:-1], tmp_path / "new", *options)
    assert found.exit_code in (1, 2)
    assert message in found.output
    assert "Traceback" not in found.output
    assert not (tmp_path / "new").exists()
