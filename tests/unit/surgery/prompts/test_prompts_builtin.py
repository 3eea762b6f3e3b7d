"""The built-in prompts: how many there are, that their splits do not overlap, and how they are named and written."""

import json
import re
from collections import Counter

import pytest
import torch
from click.testing import CliRunner
from tiny_models import write_model

from eval.cli import main
from eval.plan.plan import PlanBuilder
from eval.records.beginning import make_manifest
from surgery.console.errors import ArtifactError, OutputExistsError, PromptFileError
from surgery.model.models import ModelInfo
from surgery.prompts import load_pairs, load_prompts, load_set
from surgery.prompts.builtin import FOLDER
from surgery.prompts.export import export_builtin
from surgery.prompts.inspection import inspect_set, overlap
from surgery.prompts.prompt_set import Prompt
from surgery.residual.vectors import RefusalVectors
from vllm_refusal.engine.engine import EngineOptions, Sampling

LONGEST = 20  # words of a single short question


def test_there_are_enough_pairs_in_two_tiers_and_every_category_is_in_both_splits():
    pairs = load_pairs("builtin:all")
    assert len(pairs) >= 120 and len({pair.category for pair in pairs}) >= 8
    assert {pair.tier for pair in pairs} == {1, 2}
    assert all(len({p.tier for p in pairs if p.category == name}) == 1 for name in {p.category for p in pairs})
    counts = [
        Counter(pair.category for pair in load_pairs(f"builtin:{split}")) for split in ("extraction", "evaluation")
    ]
    assert counts[0] == counts[1] and min(counts[0].values()) >= 5
    assert len(load_prompts("builtin:harmless:all")) >= 60


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("builtin:extraction", "builtin:evaluation"),
        ("builtin:harmless:extraction", "builtin:harmless:evaluation"),
        ("builtin:all", "builtin:harmless:all"),
    ],
)
def test_the_splits_share_no_text_and_no_near_duplicate(ours, theirs):
    ours, theirs = load_set(ours), load_set(theirs)
    assert overlap(ours, theirs) == []
    assert len(overlap(ours, ours[:1])) >= 1  # the control


@pytest.mark.parametrize("source", ["builtin:all", "builtin:harmless:all"])
def test_no_two_prompts_of_a_side_are_near_duplicates(source):
    found = inspect_set(load_set(source))
    assert all(side["effective_n"] == side["n"] for side in found["near_duplicates"].values())


def test_the_counterparts_are_edits_and_not_other_questions():
    edited = [row["edited"] for row in inspect_set(load_set("builtin"))["pairs"]]
    assert sorted(edited)[len(edited) // 2] <= 0.5 and max(edited) < 0.7


def test_every_prompt_is_one_short_line():
    pairs = load_pairs("builtin:all")
    texts = [text for p in pairs for text in (p.harmful, p.safe)] + [
        p.prompt for p in load_prompts("builtin:harmless:all")
    ]
    assert all(len(text.split()) <= LONGEST and "\n" not in text for text in texts)
    assert all(re.fullmatch(r"[A-Z].*[.?]", text) for text in texts)


def test_the_first_prompts_are_of_all_categories():
    """So that --limit takes a mixture."""
    pairs = load_pairs("builtin")
    n_categories = len({pair.category for pair in pairs})
    assert len({pair.category for pair in pairs[:n_categories]}) == n_categories


def test_builtin_means_the_split_of_its_use():
    extraction = {pair.id for pair in load_pairs("builtin")}
    harmful, safe = load_prompts("builtin", "harmful"), load_prompts("builtin", "safe")
    assert [p.id for p in harmful] == [p.id for p in safe] and extraction.isdisjoint(p.id for p in harmful)
    assert harmful[0].prompt != safe[0].prompt
    records = [json.loads(line) for line in (FOLDER / "pairs.jsonl").read_text().splitlines()]
    assert extraction == {record["id"] for record in records if record["split"] == "extraction"}
    assert {pair.tier for pair in load_pairs("builtin:evaluation:tier2")} == {2}
    assert len(load_set("builtin")) == len(records)
    assert "91 of 182 prompts (built-in, evaluation split)" in str(harmful)


@pytest.mark.parametrize("source", ["builtin:", "builtin:tier3", "builtin:tier1:tier2", "builtin:harmless:tier1"])
def test_a_part_that_is_not_there_is_a_fault(source):
    with pytest.raises(PromptFileError, match="expected builtin, then"):
        load_prompts(source, "harmful")


def test_a_file_called_builtin_is_reached_by_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "builtin").write_text("prompt\nWho are you?\n")
    assert len(load_prompts("./builtin")) == 1 < len(load_prompts("builtin", "safe"))


def test_exported_files_are_the_built_in_sets(tmp_path):
    out = tmp_path / "prompts"
    done = CliRunner().invoke(main, ["prompts", "builtin", "-o", str(out)])
    assert done.exit_code == 0 and "pairs.jsonl (" in done.stdout
    assert list(load_pairs(out / "pairs.jsonl")) == list(load_pairs("builtin"))
    assert list(load_prompts(out / "prompts.jsonl")) == list(load_prompts("builtin", "harmful"))
    assert list(load_prompts(out / "safe_prompts.jsonl")) == list(load_prompts("builtin", "safe"))
    assert list(load_prompts(out / "harmless.jsonl")) == list(load_prompts("builtin:harmless:all"))


def test_an_export_replaces_only_an_export(tmp_path):
    out = tmp_path / "prompts"
    export_builtin(out)
    with pytest.raises(OutputExistsError):
        export_builtin(out)
    export_builtin(out, force=True)
    (out / "mine.txt").write_text("keep")
    with pytest.raises(ArtifactError):
        export_builtin(out, force=True)


# ---------------------------------------------------------------- in use


def test_extract_fits_on_one_built_in_split_and_holds_out_the_other(tmp_path):
    model, out = write_model(tmp_path / "m", "Qwen2ForCausalLM", torch.float32, n_layers=2), tmp_path / "r.safetensors"
    source = ["--pairs", "builtin:tier2", "--held-out", "builtin:tier2"]
    done = CliRunner().invoke(main, ["extract", str(model), *source, "--batched", "-o", str(out)])
    assert done.exit_code == 0, done.output
    assert "built-in, extraction split" in done.stderr and "built-in, evaluation split" in done.stderr
    header = RefusalVectors.load(out).header
    assert header["prompts_sha256"] == load_pairs("builtin:tier2").provenance()["sha256"]
    assert header["held_out"]["prompts_sha256"] == load_pairs("builtin:tier2", "evaluation").provenance()["sha256"]


def test_a_run_records_where_its_prompts_came_from():
    info = ModelInfo("tiny", None, "/tiny", "LlamaForCausalLM", 32, 2, 260, "float32", "f" * 64)
    sets = {"harmful": load_prompts("builtin", "harmful")[:3], "safe": list(load_prompts("builtin", "safe"))[:3]}
    files = {"harmful": "builtin", "safe": "safe.csv"}
    plan = PlanBuilder(2, 32).build()
    recorded = make_manifest(info, plan, files, sets, Sampling(), EngineOptions())["prompt_sets"]
    assert recorded["harmful"]["layout"] == "built-in, evaluation split" and recorded["harmful"]["n"] == 3
    assert "layout" not in recorded["safe"] and recorded["safe"]["path"] == "safe.csv"  # a plain list has no origin


@pytest.mark.parametrize("text", ["Half a pair \ud83d", "\u2028 a line", "caf\xe9 \U0001f600"])
def test_any_text_a_prompt_can_hold_is_written_whole(tmp_path, monkeypatch, text):
    monkeypatch.setattr("surgery.prompts.export.load_prompts", lambda *_: [Prompt("a", text)])
    export_builtin(tmp_path / "out")
    (line,) = (tmp_path / "out" / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["prompt"] == text
