"""An engine and its judge killed at random moments and started again by the same command: as if nothing had happened."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eval.records.run import Run
from surgery.organisms.release import write_organism

REFUSAL = Path(__file__).resolve().parents[2] / "bin" / "refusal"
N_PROMPTS, N_KILLS, START_SECONDS = 100, 20, 120

pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """The words of a judged generation under two conditions, all but -o."""
    folder = tmp_path_factory.mktemp("engine-crashes")
    model = write_organism("single", folder / "model")
    extract = ["extract", model, "--pairs", model / "pairs.jsonl", "-o", folder / "rvs.safetensors"]
    assert start(map(str, extract)).wait() == 0
    words = ["generate", model, "--ablation", f"a={folder / 'rvs.safetensors'},source_layer=4"]
    words += ["--prompts", model / "prompts.jsonl", "--limit", N_PROMPTS, "--max-tokens", 48, "--dtype", "float32"]
    return [*map(str, words), "--max-num-seqs", "4", "--judge", "heuristic"]


def start(words):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [sys.executable, str(REFUSAL), *words], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def rows(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def n_lines(out):
    path = out / "generations.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_at_random(command, out, chance):
    """Start the command and kill it at its start, or when it has written something; returns the lines it leaves."""
    before, process = n_lines(out), start([*command, "-o", str(out)])
    if chance.random() < 0.3:
        time.sleep(chance.random() * 10)
    else:
        deadline = time.monotonic() + START_SECONDS
        while n_lines(out) == before and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(chance.random() * 0.5)
    process.kill()
    process.wait()
    return n_lines(out)


def test_twenty_kills_lose_nothing_and_nothing_is_answered_or_judged_twice(command, tmp_path):
    assert start([*command, "-o", str(tmp_path / "undisturbed")]).wait() == 0
    out, chance = tmp_path / "killed", random.Random(3)
    left = [kill_at_random(command, out, chance) for _ in range(N_KILLS)]
    assert left == sorted(left), "responses were lost"
    assert len(set(left)) > 2, "every kill came before the first response or after the last"
    assert start([*command, "-o", str(out)]).wait() == 0
    for name, key in (("generations", "item_id"), ("verdicts", "item_id")):
        found = rows(out / f"{name}.jsonl")
        assert len(found) == len({row[key] for row in found}) == 2 * N_PROMPTS
        assert sorted(found, key=str) == sorted(rows(tmp_path / "undisturbed" / f"{name}.jsonl"), key=str)
    assert len(Run.open(out).verdicts()) == 2 * N_PROMPTS
