"""docs/file-formats.md against a run folder and a benchmark of an organism, made by the commands."""

import csv
import json

import pytest
from click.testing import CliRunner
from documents import check_keys, check_kind, section
from judge_endpoint import Endpoint, verdict_by_rules

from eval.cli import main

pytestmark = pytest.mark.engine


def run(*words):
    found = CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)
    assert found.exit_code == 0, found.output


@pytest.fixture(scope="module")
def folder(rvs, tmp_path_factory):
    """A run of two prompts with two judges and its damage, a redacted copy, an export, a report and a benchmark."""
    folder = tmp_path_factory.mktemp("formats")
    model, made = rvs.parent / "model", folder / "run"
    sources = ["--prompts", model / "prompts.jsonl", "--safe-prompts", model / "safe_prompts.jsonl", "--limit", 2]
    run("sweep", model, "--rvs", rvs, "--source-layers", "4", *sources, "--max-tokens", 8, "-o", made)
    run("judge", made)
    with Endpoint(verdict_by_rules).serving() as url:
        run("judge", made, "--judge-model", "judge-1", "--judge-base-url", url)
    run("damage", made, "--limit", 2)
    run("redact", made, "--prompts", "-o", folder / "redacted")
    run("export", made, "--format", "csv", "-o", folder / "run.csv")
    run("report", made, "-o", folder / "report")
    run("benchmark", model, "--tasks", "facts", "--limit", 2, "-o", folder / "bench")
    return folder


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_manifest_of_a_run_holds_the_keys_that_are_documented(folder):
    for name in ("run", "redacted"):
        manifest = read(folder / name / "run.json")
        check_keys("### `run.json`", manifest)
        check_kind("### `run.json`", manifest)
    said = section("docs/file-formats.md", "### `run.json`")
    assert all(f"`{key}`" in said for condition in manifest["conditions"] for key in condition)
    assert all(f"`{key}`" in said for key in (*manifest["sampling"], *manifest["redaction"]))


@pytest.mark.parametrize("name", ["generations.jsonl", "verdicts.jsonl"])
def test_the_rows_of_a_run_hold_the_keys_that_are_documented(folder, name):
    for row in (*rows(folder / "run" / name), *rows(folder / "redacted" / name)):
        check_keys(f"### `{name}`", row)


def test_spending_holds_the_keys_that_are_documented(folder):
    for row in rows(folder / "run" / "spending.jsonl"):
        check_keys("### `spending.jsonl`", row)


def test_damage_holds_the_keys_that_are_documented(folder):
    record = read(folder / "run" / "damage.json")
    check_keys("### `damage.json`", record)
    check_kind("### `damage.json`", record)
    said = section("docs/file-formats.md", "### `damage.json`")
    assert all(f"`{key}`" in said for key in (*record["inputs"], *record["conditions"]["baseline"]))
    check_keys("### An interval", record["conditions"]["rv:L4:a1"]["kl"])


def test_a_benchmark_holds_the_keys_that_are_documented(folder):
    record = read(folder / "bench" / "benchmark.json")
    check_keys("### `benchmark.json`", record)
    check_kind("### `benchmark.json`", record)
    said = section("docs/file-formats.md", "### `benchmark.json`")
    inner = [*record["settings"], *record["backend"], *record["variants"][0], *record["outcomes"][0]]
    assert all(f"`{key}`" in said for key in (*inner, *record["done"]["baseline.facts"]))
    for row in rows(folder / "bench" / "documents" / "baseline.facts.jsonl"):
        check_keys("### `documents/VARIANT.TASK.jsonl`", row)


def test_an_export_has_a_column_for_every_key_of_the_rows(folder):
    with open(folder / "run.csv", newline="") as handle:
        (first, *_) = csv.DictReader(handle)
    for name in ("generations.jsonl", "verdicts.jsonl"):
        assert set(rows(folder / "run" / name)[0]) <= set(first)


def test_a_report_has_the_files_that_are_documented(folder):
    assert {path.name for path in (folder / "report").iterdir()} == {"report.html", "report.md", "tables", "figures"}
    columns = [next(csv.reader(open(path, newline=""))) for path in (folder / "report" / "tables").iterdir()]
    assert any(
        {"compliance", "compliance_low", "compliance_high", "compliance_n", "judge"} <= set(row) for row in columns
    )
