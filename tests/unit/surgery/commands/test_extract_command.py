"""`refusal extract` with its options, on a tiny model: what each writes, and one clear line for every fault."""

import json

import pytest
import torch
from click.testing import CliRunner
from tiny_models import PAIRS, write_model

from eval.cli import main
from surgery.console.errors import ModelError, PositionError, PromptFileError
from surgery.reading.activations import LayerActivations
from surgery.residual.vectors import RefusalVectors
from surgery.statistics.fitting import fit, statistics
from surgery.statistics.tier_angles import half_grams


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


SCREEN = 45  # lines of a common terminal window


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Refusal vectors of 60 layers in 13 categories and two tiers."""
    generator = torch.Generator().manual_seed(0)
    safe = torch.randn(26, 60, 16, generator=generator)
    depth = torch.linspace(0.5, 3, 60)[:, None]
    harmful = safe + depth + torch.randn(26, 60, 16, generator=generator) / 4
    tags = {f"category {n}": ([n, n + 13],) * 2 for n in range(13)}
    tags |= {f"tier {n + 1}": (range(13 * n, 13 * n + 13),) * 2 for n in range(2)}
    layers = [LayerActivations.of(harmful[:, n], safe[:, n]) for n in range(60)]
    extras = statistics(layers, tags, 0) | {"tier_half_grams": half_grams(layers, tags)}
    header = {"tags": [{"tag": tag, "n_pairs": len(rows[0])} for tag, rows in tags.items()]}
    made = RefusalVectors(**fit(layers), header=header, extras=extras)
    return made.save(tmp_path_factory.mktemp("many") / "rvs.safetensors")


def test_extract_prints_a_screen_with_three_facts_and_where_the_rest_is(folder, tmp_path):
    out = tmp_path / "rvs.safetensors"
    said = extract(folder, out, "--held-out", folder / "held-out.jsonl").stdout
    rows = [line.split() for line in said.splitlines() if line[:5].strip().isdigit()]
    assert [row[0] for row in rows] == ["0", "1", "2", "3"] and all(set(row[-1]) == {"#"} for row in rows)
    for fact in ("farthest apart", "one direction", "half of the prompts"):
        assert sum(fact in line for line in said.splitlines()) == 1, fact
    assert f"refusal show {out} --all" in said and "--figures" in said and "held-out d" in said
    assert len(said.splitlines()) <= SCREEN and "fingerprint" not in said
    assert said.endswith(run("show", out).stdout) and "fingerprint" in run("show", out, "--all").stdout


def test_however_many_layers_and_categories_there_are_it_is_a_screen(many):
    shown, whole = (run("show", many, *options).stdout.splitlines() for options in ((), ("--all",)))
    assert len(shown) <= SCREEN and len(whole) > 200
    assert max(len(line) for line in shown if not line.startswith(("note", "more"))) <= 120
    d = {int(line.split()[0]): float(line.split()[2]) for line in whole if line[:5].strip().isdigit()}
    rows = {int(line.split()[0]): line for line in shown if line[:5].strip().isdigit()}
    best = max(d, key=d.get)
    assert max(rows.values(), key=lambda line: line.count("#")) == rows[best] and len(rows) < len(d) == 60
    assert any(f"at layer {best}" in line for line in shown) and any("every 2nd layer" in line for line in shown)


def test_vectors_without_projections_have_a_screen_too(tmp_path):
    path = RefusalVectors(torch.eye(4)[:3].contiguous()).save(tmp_path / "rvs.safetensors")
    shown = run("show", path).stdout
    assert "farthest apart" not in shown and "#" not in shown and "one direction" in shown and "--all" in shown


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
