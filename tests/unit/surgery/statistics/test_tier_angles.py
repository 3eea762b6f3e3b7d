"""Angles between tiers: equal to those of the vectors, and read against what two halves of one tier give."""

import json

import pytest
import torch
from click.testing import CliRunner
from report_pages import Page
from synthetic_runs import RunMaker, rv

from eval.cli import main as refusal
from eval.report.report import write_report
from surgery.reading.activations import LayerActivations
from surgery.residual.subspace import orthonormal_basis
from surgery.residual.vectors import RefusalVectors
from surgery.statistics.angle_table import excess
from surgery.statistics.angles import principal_angles
from surgery.statistics.tier_angles import angles_of_gram, half_grams, tier_angles

D_MODEL, N_LAYERS = 64, 3


def unit(rows):
    return torch.nn.functional.normalize(rows.double(), dim=-1)


def test_angles_from_inner_products_are_those_of_the_subspaces():
    generator = torch.Generator().manual_seed(0)
    vectors = unit(torch.randn(7, 32, generator=generator))
    vectors[6] = unit(vectors[0] + 0.02 * vectors[1])
    gram = vectors @ vectors.T
    for first, second in [([0, 1, 2], [3, 4, 5]), ([0], [6]), ([0, 2], [6, 3, 4])]:
        theirs = principal_angles(orthonormal_basis(vectors[first]), orthonormal_basis(vectors[second]))
        assert angles_of_gram(gram, first, second) == pytest.approx(theirs.numpy(), abs=1e-6)
    assert angles_of_gram(gram, [0, 1], [1, 0]).abs().max() < 1e-6  # the same span
    assert len(angles_of_gram(gram.float(), [0, 0, 1], [2, 3, 4])) == 2  # a vector named twice adds no dimension


def extracted(angle, n_per_tier=(24, 16), matched=True, noise=1.0):
    """Vectors of two tiers whose directions lie at this angle (degrees), with noise in every prompt."""
    generator = torch.Generator().manual_seed(1)
    n = sum(n_per_tier)
    rows = list(range(n_per_tier[0])), list(range(n_per_tier[0], n))
    turn = torch.deg2rad(torch.tensor(float(angle)))
    directions = torch.zeros(2, D_MODEL)
    directions[0, 0], directions[1, 0], directions[1, 1] = 3.0, 3.0 * turn.cos(), 3.0 * turn.sin()
    tier = torch.tensor([0] * n_per_tier[0] + [1] * n_per_tier[1])
    layers, by_tag = [], torch.zeros(2, N_LAYERS, D_MODEL)
    for layer in range(N_LAYERS):
        safe = noise * torch.randn(n, D_MODEL, generator=generator)
        harmful = directions[tier].roll(layer, dims=1) + noise * torch.randn(n, D_MODEL, generator=generator)
        layers.append(LayerActivations.of(harmful, safe, matched))
        for index, part in enumerate(rows):
            by_tag[index, layer] = harmful[part].mean(0) - (safe[part] if matched else safe).mean(0)
    every = list(range(n))
    tags = {f"tier {i + 1}": (part, part if matched else every) for i, part in enumerate(rows)}
    numbers = [{"tag": tag, "n_pairs": len(part), "n_harmful": len(part)} for tag, (part, _) in tags.items()]
    extras = {"by_tag": by_tag, "tier_half_grams": half_grams(layers, tags)}
    return RefusalVectors(by_tag.mean(0), header={"tags": numbers, "n_pairs": n}, extras=extras)


@pytest.mark.parametrize("matched", [True, False])
def test_tiers_with_one_direction_lie_apart_by_no_more_than_halves_of_one_tier(matched):
    for row in tier_angles(extracted(0, matched=matched), [0, 1, "0-2"]):
        assert row["angles_degrees"][-1] > 10  # noise alone: no one may take it for another direction
        assert all(abs(excess(row, index)) < 8 for index in range(len(row["angles_degrees"])))


@pytest.mark.parametrize("matched", [True, False])
def test_tiers_with_other_directions_lie_farther_apart_than_halves_of_one_tier(matched):
    rows = tier_angles(extracted(70, matched=matched, noise=0.5), [0, 1, 2])
    for row in rows:
        assert row["angles_degrees"] == pytest.approx([70], abs=8)
        assert excess(row, 0) > 25 and row["across"]["low"][0] > max(part["high"][0] for part in row["within"])
    assert [row["layers"] for row in rows] == ["0", "1", "2"] and rows[0]["n_per_half"] == 8


def test_noise_of_halves_shrinks_with_the_prompts():
    few, many = (tier_angles(extracted(0, (n, n)), [0])[0] for n in (8, 64))
    assert few["within"][0]["mean"][0] > 1.5 * many["within"][0]["mean"][0]


def test_a_tier_too_small_to_be_halved_and_a_lone_tier_have_no_halves():
    rows = {"tier 1": ([0, 1, 2], [0, 1, 2]), "tier 2": ([3, 4, 5, 6], [3, 4, 5, 6])}
    layers = [LayerActivations.of(torch.randn(7, 8), torch.randn(7, 8))]
    assert half_grams(layers, rows) is None
    assert half_grams(layers, {"tier 2": rows["tier 2"], "category x": rows["tier 1"]}) is None
    assert half_grams(layers, {"tier 1": ([0, 1, 2, 6],) * 2, "tier 2": ([3, 4, 5, 6],) * 2}) is not None


def test_a_file_without_halves_has_angles_and_says_what_is_missing(tmp_path):
    full = extracted(30)
    header = {**full.header, "tags": [{"tag": entry["tag"], "n_pairs": 5} for entry in full.header["tags"]]}
    bare = RefusalVectors(full.vectors, header=header, extras={"by_tag": full.extras["by_tag"]})
    (row,) = tier_angles(bare, [0])
    assert row["across"] is None and excess(row, 0) is None and len(row["angles_degrees"]) == 1
    told = CliRunner().invoke(refusal, ["show", "--all", str(bare.save(tmp_path / "rvs.safetensors"))]).output
    assert "has no halves" in told
    assert tier_angles(RefusalVectors(full.vectors), [0]) == []


def test_show_gives_every_layer_and_the_subspaces_asked_for(tmp_path):
    path = str(extracted(70).save(tmp_path / "rvs.safetensors"))
    found = json.loads(CliRunner().invoke(refusal, ["show", path, "--subspace", "0-1", "--json"]).output)
    assert [row["layers"] for row in found["tier_angles"]] == ["0", "1", "2", "0-1"]
    text = CliRunner().invoke(refusal, ["show", path, "--subspace", "0-1"]).output
    assert sum(line.split()[:1] == ["0-1"] for line in text.splitlines()) == 2 and "8 harmful prompts each" in text
    assert CliRunner().invoke(refusal, ["show", path, path, "--subspace", "0-1"]).exit_code == 2


def test_the_report_sets_the_angles_beside_their_noise(tmp_path):
    angles = tier_angles(extracted(70), [0, "0-1"])
    run = RunMaker(tmp_path / "run", 20, manifest={"tier_angles": angles}).add(rv(0), 0.5).write()
    page = Page(write_report([run], tmp_path / "out").read_text(encoding="utf-8"))
    row = page.row("tiny-model-table-tier-angles", "0")
    assert row["all prompts"] == f"{angles[0]['angles_degrees'][0]:.1f}" and row["excess"].startswith("+")
    assert len(page.tables["tiny-model-table-tier-angles"]) == 4 and "by noise alone" in page.words
