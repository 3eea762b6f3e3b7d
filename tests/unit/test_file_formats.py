"""docs/file-formats.md against the files of the offline commands."""

import json
from dataclasses import fields

import pytest
from click.testing import CliRunner
from documents import check_keys, check_kind, keys, section
from gguf_files import write_gguf
from qwen_v1 import write_qwen_v1
from tiny_models import tiny_model

from eval.cli import main
from eval.cost.benchmark.documents import Document
from eval.endpoints.spending import Spending
from eval.records.export import COLUMNS
from eval.records.manifest import Manifest
from eval.records.rows import Generation, Verdict
from surgery.files.artifacts import load_artifact

VECTORS, SUBSPACE = "## Refusal vectors: `rvs.safetensors`", "## Subspace: `sub.safetensors`"


def qwen2():
    return tiny_model("Qwen2ForCausalLM", intermediate_size=64, vocab_size=290, rms_norm_eps=1e-5)


def run(*words):
    found = CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)
    assert found.exit_code == 0, found.output


@pytest.fixture(scope="module")
def made(rvs, tmp_path_factory):
    """A folder with a subspace, a checkpoint and an adapter of the organism of `rvs`."""
    folder = tmp_path_factory.mktemp("formats")
    run("subspace", rvs, "--layers", "3,4", "--affine", "--reference-layer", 4, "-o", folder / "affine.safetensors")
    run("subspace", rvs, "--layers", "3,4", "-o", folder / "sub.safetensors")
    for command in ("orthogonalize", "adapter"):
        run(command, rvs.parent / "model", folder / "sub.safetensors", "-o", folder / command)
    return folder


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_refusal_vectors_hold_the_keys_and_tensors_that_are_documented(rvs):
    header, tensors = load_artifact(rvs, ("refusal_vectors",))
    check_keys(VECTORS, header)
    check_kind(VECTORS, header)
    check_keys("### A model", header["model"])
    check_keys("### Where prompts come from", header["prompts"]["pairs"])
    said = section("docs/file-formats.md", VECTORS)
    assert all(f"`{name}`" in said for name in tensors)


@pytest.mark.parametrize("name", ["sub", "affine"])
def test_a_subspace_holds_the_keys_that_are_documented(made, name):
    header, tensors = load_artifact(made / f"{name}.safetensors", ("subspace",))
    check_keys(SUBSPACE, header)
    check_kind(SUBSPACE, header)
    assert set(tensors) == ({"basis", "offset"} if name == "affine" else {"basis"})


@pytest.mark.parametrize(
    ("name", "heading"), [("orthogonalize", "### `surgery.json`"), ("adapter", "### `surgery.json` of an adapter")]
)
def test_a_manifest_holds_the_keys_that_are_documented(made, name, heading):
    manifest = read(made / name / "surgery.json")
    check_keys(heading, manifest)
    check_kind(heading, manifest)
    said = section("docs/file-formats.md", heading)
    assert all(f"`{key}`" in said for row in manifest.get("tensors") or manifest["modules"] for key in row)


def test_the_truth_of_an_organism_holds_the_keys_that_are_documented(rvs):
    truth = read(rvs.parent / "model" / "ground_truth.json")
    check_keys("### `ground_truth.json`", truth)
    check_kind("### `ground_truth.json`", truth)
    pairs = (rvs.parent / "model" / "pairs.jsonl").read_text().splitlines()
    said = section("docs/file-formats.md", "## Organism folder")
    assert all(f"`{key}`" in said for key in json.loads(pairs[0]))


@pytest.mark.parametrize(
    ("make", "heading"),
    [
        (write_qwen_v1, "### `conversion.json`"),
        (lambda path: write_gguf(path.with_suffix(".gguf"), qwen2()), "### `conversion.json` of a GGUF file"),
    ],
    ids=["qwen", "gguf"],
)
def test_the_record_of_a_conversion_holds_the_keys_that_are_documented(tmp_path, make, heading):
    run("convert", make(tmp_path / "source"), "-o", tmp_path / "out")
    record = read(tmp_path / "out" / "conversion.json")
    check_keys(heading, record)
    check_kind(heading, record)
    assert all(f"`{key}`" in section("docs/file-formats.md", heading) for key in record["source"])


@pytest.mark.parametrize(
    ("heading", "kind"),
    [
        ("### `generations.jsonl`", Generation),
        ("### `verdicts.jsonl`", Verdict),
        ("### `spending.jsonl`", Spending),
        ("### `documents/VARIANT.TASK.jsonl`", Document),
    ],
)
def test_the_fields_of_a_row_are_the_keys_that_are_documented(heading, kind):
    always, allowed = keys(heading)
    assert allowed == {field.name for field in fields(kind)}
    assert always == {field.name for field in fields(kind) if not field.metadata.get("sparse")}


def test_the_fields_of_the_manifest_of_a_run_are_the_keys_that_are_documented():
    assert keys("### `run.json`")[1] == set(Manifest.model_fields)


def test_the_columns_of_an_export_are_those_that_are_documented():
    said = section("docs/file-formats.md", "## Exports of a run")
    assert all(f"`{name}`" in said for name in COLUMNS if name.startswith("condition_") and name != "condition_id")


def test_a_key_that_no_table_has_would_be_found(rvs):
    header, _ = load_artifact(rvs, ("refusal_vectors",))
    with pytest.raises(AssertionError, match="lacks .'surprise'"):
        check_keys(VECTORS, {**header, "surprise": 1})
    with pytest.raises(AssertionError, match="the file lacks .'contrast'"):
        check_keys(VECTORS, {key: value for key, value in header.items() if key != "contrast"})
