"""A study killed outright in the middle of its stages: the same command ends it, keeping every response that was there."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from eval.records.run import Run
from eval.studies.recipes.estimate import count_conditions
from eval.studies.recipes.recipe import load_recipe
from eval.studies.recipes.stages import Choices

pytestmark = pytest.mark.engine

REFUSAL = Path(__file__).resolve().parents[2] / "bin" / "refusal"
LIMIT = 6
SMALL = {"alphas": [1.0], "n_random": 1, "max_tokens": 12, "tag": None, "claims": ["large-d", "single-suffices"]}
GIVE_UP = 300.0


def write_recipe(folder):
    content = load_recipe("organism-single").model_dump(mode="json") | SMALL
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content, allow_unicode=True))
    return path


class Study:
    """`refusal reproduce` in a process of its own."""

    def __init__(self, folder):
        self.out, self.log, self.recipe = folder / "out", folder / "log", write_recipe(folder)
        command = [sys.executable, REFUSAL, "reproduce", self.recipe, "-o", self.out, "--limit", LIMIT]
        self.command = [*map(str, command), *(f"--skip={stage}" for stage in ("separability", "damage", "benchmark"))]

    def start(self):
        with open(self.log, "a") as log:
            return subprocess.Popen(self.command, stdout=log, stderr=log, env={**os.environ, "HF_HUB_OFFLINE": "1"})

    def kill_when(self, is_due):
        """Start it, and kill it without notice as soon as `is_due()`."""
        process, deadline = self.start(), time.monotonic() + GIVE_UP
        while not is_due():
            assert process.poll() is None and time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL

    def finish(self):
        """Run it to its end; returns what it said."""
        before = self.log.stat().st_size
        assert self.start().wait(GIVE_UP) == 0, self.log.read_text()[-3000:]
        return self.log.read_bytes()[before:].decode()

    def stages(self):
        path = self.out / "reproduce.json"
        return json.loads(path.read_text())["stages"] if path.exists() else {}

    def is_in(self, stage):
        return self.stages().get(stage, {}).get("finished") is False

    def rows(self, name):
        path = self.out / "run" / name
        return path.read_bytes().splitlines(keepends=True) if path.exists() else []


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """(study, responses that were whole when it was killed, what the last command said)."""
    study = Study(tmp_path_factory.mktemp("killed"))
    study.kill_when(lambda: study.is_in("checkpoint-a1"))
    assert "sweep" not in study.stages()
    study.kill_when(lambda: len(study.rows("generations.jsonl")) >= 64)
    assert study.is_in("sweep")
    whole = [row for row in study.rows("generations.jsonl") if row.endswith(b"\n")]
    return study, whole, study.finish()


def test_the_same_command_ends_the_study(killed):
    study, _, _ = killed
    assert all(stage["finished"] for stage in study.stages().values())
    found = json.loads((study.out / "findings.json").read_text())["findings"]
    assert [row["claim"] for row in found] and (study.out / "report" / "report.html").is_file()


def test_every_response_that_was_there_is_kept_and_the_rest_is_asked_once(killed):
    study, whole, _ = killed
    after = study.rows("generations.jsonl")
    assert 64 <= len(whole) < len(after) and after[: len(whole)] == whole
    ids = [json.loads(row)["item_id"] for row in after]
    n_conditions = count_conditions(load_recipe(str(study.recipe)), 8, Choices())
    assert len(set(ids)) == len(ids) == n_conditions * 2 * LIMIT == len(study.rows("verdicts.jsonl"))
    assert len(Run.open(study.out / "run").conditions) == n_conditions


def test_finished_stages_are_not_run_again_and_nothing_half_written_is_left(killed):
    study, _, said = killed
    for stage in ("model", "extract", "subspace", "checkpoint-a1"):
        assert f"{stage}: done before" in said, stage
    assert "sweep: done before" not in said
    assert [path for path in study.out.rglob("*") if "part" in path.suffix] == []
