"""`refusal extract` with its options, on a tiny model: what each writes, and one clear line for every fault."""

import json

import pytest
import torch
from click.testing import CliRunner
from tiny_models import PAIRS, write_model

from eval.cli import main
from surgery.errors import ModelError, PositionError, PromptFileError
from surgery.vectors import RefusalVectors


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("extract")
    write_model(folder / "m", "LlamaForCausalLM", n_layers=4)
    for name, pairs in (("pairs", PAIRS[:3]), ("held-out", PAIRS[3:])):
        rows = [
            json.dumps({"id": p.id, "harmful": p.harmful, "safe": p.safe, "category": "ab"[n % 2]})
            for n, p in enumerate(pairs)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    return folder


def run(name, *arguments):
    return CliRunner().invoke(main.get_command(None, name), [str(argument) for argument in arguments])


def extract(folder, out, *options):
    return run("extract", folder / "m", "--pairs", folder / "pairs.jsonl", "-o", out, *options)


def test_every_option_reaches_the_file(folder, tmp_path):
    plain, full = tmp_path / "plain.safetensors", tmp_path / "full.safetensors"
    assert extract(folder, plain).exit_code == 0
    options = ("--batched", "--batch-size", 2, "--sites", "all", "--positions", "all", "--components", 2)
    assert extract(folder, full, *options, "--held-out", folder / "held-out.jsonl").exit_code == 0
    one, all_of_it = RefusalVectors.load(plain), RefusalVectors.load(full)
    assert (one.vectors - all_of_it.vectors).abs().max() <= 1e-5 * one.vectors.abs().max()
    assert len(all_of_it.header["readings"]) == 6 and len(one.header["readings"]) == 1
    assert all_of_it.extras["held_out_harmful"].shape == (1, 4) and all_of_it.extras["components"].shape == (4, 2, 32)
    assert all_of_it.header["method"].endswith("equal length") and one.header["method"].endswith("sequential")
    assert [entry["tag"] for entry in one.header["tags"]] == ["category a", "category b"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full.safetensors", "plain.safetensors"]


def test_site_position_and_estimator_choose_the_vectors(folder, tmp_path):
    found = {}
    for name, options in (
        ("default", ()),
        ("site", ("--site", "resid_mid")),
        ("position", ("--position", "-2")),
        ("estimator", ("--estimator", "svd")),
    ):
        assert extract(folder, tmp_path / name, *options).exit_code == 0
        found[name] = RefusalVectors.load(tmp_path / name)
    for name in ("site", "position", "estimator"):
        assert not torch.allclose(found[name].vectors, found["default"].vectors, atol=1e-3), name
    assert found["estimator"].header["estimator"] == "svd" and found["site"].header["site"] == "resid_mid"


def test_faults_of_the_options_are_one_line(folder, tmp_path):
    out = tmp_path / "out"
    faults = [
        (PositionError, "-2..-1", ("--position", "-3")),
        (PositionError, "cannot be read", ("--positions", "last")),
        (ModelError, "knows no option 'enable_thinking'", ("--template-option", "enable_thinking=false")),
        (PromptFileError, "nowhere", ("--held-out", "nowhere.jsonl")),
    ]
    for kind, message, options in faults:
        result = extract(folder, out, *options)
        assert result.exit_code == 1 and isinstance(result.exception, kind), options
        assert message in str(result.exception) and "\n" not in str(result.exception)
    assert extract(folder, out, "--template-option", "enable_thinking").exit_code == 2
    assert extract(folder, out, "--estimator", "median").exit_code == 2
    assert not list(tmp_path.iterdir())
