"""Intervals, AUROC, effective rank, angles, what `show` prints and draws."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from eval.cli import main
from surgery.commands.summary import render, summarize
from surgery.console.errors import ArtifactError, MismatchError, ShapeError
from surgery.reading.activations import LayerActivations
from surgery.residual.subspace import Subspace, random_subspace
from surgery.residual.vectors import RefusalVectors
from surgery.statistics.angles import compare, principal_angles, render_comparison
from surgery.statistics.fitting import fit, scatter, split_half_cosines, statistics
from surgery.statistics.separability import analysis, auroc, cohens_d, cohens_d_interval, cosine_matrix, effective_rank

N_LAYERS, D_MODEL, N_PAIRS = 4, 12, 30


def activations(seed=0, strength=2.0, n_pairs=N_PAIRS):
    """Harmful and safe activations that differ along one direction a layer, [n_pairs, n_layers, d_model]."""
    generator = torch.Generator().manual_seed(seed)
    harmful, safe = torch.randn(2, n_pairs, N_LAYERS, D_MODEL, generator=generator)
    harmful[..., 0] += strength
    return harmful, safe


@pytest.fixture(scope="module")
def rvs():
    """Vectors with everything a file can hold."""
    harmful, safe = activations()
    layers = [LayerActivations.of(harmful[:, layer], safe[:, layer]) for layer in range(N_LAYERS)]
    tags = {"tier 1": (range(0, 15), range(0, 15)), "tier 2": (range(15, 30), range(15, 30))}
    held_harmful, held_safe = activations(seed=1, n_pairs=8)
    made = RefusalVectors(**fit(layers))
    units = made.vectors / made.vectors.norm(dim=1, keepdim=True)
    extras = statistics(layers, tags, 2) | {
        "held_out_harmful": (held_harmful * units).sum(-1),
        "held_out_safe": (held_safe * units).sum(-1),
        "resid_mid@-1/vectors": made.vectors.flip(0),
        "resid_mid@-1/projections_harmful": made.projections_harmful * 3,
        "resid_mid@-1/projections_safe": made.projections_safe.clone(),
    }
    header = {
        "tags": [{"tag": tag, "n_pairs": len(harmful)} for tag, (harmful, _) in tags.items()],
        "reading": "resid_post@-1",
        "readings": ["resid_post@-1", "resid_mid@-1"],
    }
    return RefusalVectors(
        made.vectors, made.mean_harmful, made.mean_safe, made.projections_harmful, made.projections_safe, header, extras
    )


def test_the_interval_of_d_covers_the_true_value_about_as_often_as_it_says():
    generator = torch.Generator().manual_seed(0)
    projections = torch.randn(2, 40, 200, generator=generator)  # 200 "layers" are 200 repetitions
    projections[0] += 1.5
    low, high = cohens_d_interval(*projections)
    covered = ((low <= 1.5) & (high >= 1.5)).double().mean().item()
    assert 0.86 <= covered <= 0.99  # percentile intervals run a little short at n = 40; 200 draws are +- 0.03
    narrow_low, narrow_high = cohens_d_interval(*projections, level=0.5)
    assert (narrow_low >= low).all() and (narrow_high <= high).all()


def test_the_interval_agrees_with_a_bootstrap_written_pair_by_pair():
    harmful, safe = (values[..., 0] for values in activations())
    low, high = cohens_d_interval(harmful, safe, seed=3)
    generator = np.random.default_rng(0)
    drawn = [generator.integers(N_PAIRS, size=N_PAIRS) for _ in range(2000)]
    resampled = torch.stack([cohens_d(harmful[rows], safe[rows]) for rows in drawn])
    expected = torch.quantile(resampled, torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
    assert torch.allclose(torch.stack([low, high]), expected, atol=0.15)  # two sets of 2000 draws
    assert torch.equal(cohens_d_interval(harmful, safe, seed=3), torch.stack([low, high]))
    shifted = cohens_d_interval(harmful + 1e4, safe + 1e4, seed=3)  # float32 values near 1e4 keep three places
    assert torch.allclose(shifted, torch.stack([low, high]), atol=0.01)
    with pytest.raises(ShapeError, match="draws pairs, found 30 harmful and 29 safe"):
        cohens_d_interval(harmful, safe[1:])


def test_auroc_counts_ties_half_and_agrees_with_scipy():
    from scipy.stats import mannwhitneyu

    assert auroc(torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [1.0]])).item() == 0.875
    harmful, safe = torch.randint(6, (9, 3)).float() + 1, torch.randint(6, (7, 3)).float()
    expected = mannwhitneyu(harmful.numpy(), safe.numpy()).statistic / 63
    assert np.allclose(auroc(harmful, safe).numpy(), expected)
    assert torch.allclose(auroc(safe, harmful), 1 - auroc(harmful, safe))
    with pytest.raises(ShapeError, match="both groups"):
        auroc(harmful[:0], safe)


def test_the_effective_rank_counts_directions():
    assert effective_rank(cosine_matrix(torch.ones(5, 8))) == pytest.approx(1)
    assert effective_rank(cosine_matrix(torch.eye(5))) == pytest.approx(5)
    two = torch.eye(2).repeat(3, 1)
    assert effective_rank(cosine_matrix(two)) == pytest.approx(2)


def test_halves_agree_on_a_strong_direction_and_not_on_noise():
    strong, noise = (
        split_half_cosines(LayerActivations.of(*(v[:, 0] for v in activations(strength=s)))) for s in (20, 0)
    )
    assert strong.min() > 0.95 and noise.mean() < 0.5 and noise.std() > 0.05  # the splits differ


def test_the_scatter_separates_the_groups_and_is_centred():
    harmful, safe = (values[:, 0] for values in activations(strength=8))
    on_harmful, on_safe = scatter(LayerActivations.of(harmful, safe))
    assert on_harmful[:, 0].min() > on_safe[:, 0].max()
    assert torch.cat([on_harmful, on_safe]).mean(0).abs().max() < 1e-4


def test_held_out_pairs_show_how_much_the_fitted_ones_flatter():
    generator = torch.Generator().manual_seed(0)
    harmful, safe, fresh_harmful, fresh_safe = torch.randn(4, 12, 1, 400, generator=generator)  # no difference at all
    made = RefusalVectors(**fit([LayerActivations.of(harmful[:, 0], safe[:, 0])]))
    unit = made.direction(0)
    extras = {"held_out_harmful": fresh_harmful @ unit, "held_out_safe": fresh_safe @ unit}
    noise = RefusalVectors(made.vectors, None, None, made.projections_harmful, made.projections_safe, extras=extras)
    found = analysis(noise)
    assert found["cohens_d"][0] > 3 and abs(found["held_out"]["cohens_d"][0]) < 1.2


def test_the_analysis_of_a_full_file_is_plain_json(rvs, tmp_path):
    rvs.save(tmp_path / "rvs.safetensors")
    found = json.loads(json.dumps(analysis(RefusalVectors.load(tmp_path / "rvs.safetensors")), allow_nan=False))
    for name in ("cohens_d", "cohens_d_interval", "auroc", "norms", "split_half_cosine", "cosine"):
        assert len(found[name]) == N_LAYERS and None not in found[name], name
    assert all(low < d < high for d, (low, high) in zip(found["cohens_d"], found["cohens_d_interval"], strict=True))
    assert found["held_out"]["n_pairs"] == 8 and len(found["held_out"]["auroc"]) == N_LAYERS
    assert found["tags"]["tier 1"]["n_pairs"] == 15 and list(found["tag_cosine"]) == ["tier 1 / tier 2"]
    assert 0.5 < min(found["tag_cosine"]["tier 1 / tier 2"]) < 1
    assert found["readings"]["resid_mid@-1"]["norms"] == found["norms"][::-1]
    text = render(summarize(tmp_path / "rvs.safetensors"))
    assert "held-out d" in text and "tier 1 / tier 2" in text and "resid_mid@-1" in text and "effective rank" in text


@pytest.mark.parametrize(
    ("n", "words"), [(1, "1 held-out prompt is a near-dup"), (2, "2 held-out prompts are near-dup")]
)
def test_the_caveat_on_held_out_prompts_counts_in_english(rvs, n, words):
    near = replace(rvs, header={**rvs.header, "held_out": {"n_near_duplicates": n}})
    assert any(caveat.startswith(words) for caveat in analysis(near)["caveats"])
    assert not any("near-dup" in caveat for caveat in analysis(rvs)["caveats"])


def test_principal_angles_of_known_subspaces():
    eye = torch.eye(6)
    tilted = torch.stack([eye[0], math.cos(0.3) * eye[1] + math.sin(0.3) * eye[2]])
    assert torch.allclose(principal_angles(eye[:2], tilted), torch.tensor([0.0, 0.3], dtype=torch.float64), atol=1e-7)
    assert principal_angles(eye[:2], eye[:2]).abs().max() < 1e-7
    assert torch.allclose(principal_angles(eye[:3], eye[3:]), torch.full((3,), math.pi / 2, dtype=torch.float64))
    assert principal_angles(eye[:1], eye[:4]).tolist() == [0.0] and len(principal_angles(eye[:4], eye[3:])) == 3


def test_principal_angles_keep_small_ones_and_need_one_width():
    near = torch.tensor([[1.0, 1e-6, 0.0]])  # its cosine is 1 in float32
    assert principal_angles(torch.eye(3)[:1], near / near.norm()).item() == pytest.approx(1e-6, rel=1e-4)
    with pytest.raises(MismatchError, match="d_model 20, the other 8"):
        principal_angles(random_subspace(20, 4, seed=0).basis, random_subspace(8, 1, seed=0).basis)


def test_two_files_are_compared_by_what_they_hold(rvs, tmp_path):
    first, second, other = (tmp_path / name for name in ("rvs", "sub", "random"))
    rvs.save(first)
    Subspace.from_vectors(rvs, "1-2").save(second)
    random_subspace(D_MODEL, 2, seed=0).save(other)
    assert compare(first, first)["cosine"] == pytest.approx([1.0] * N_LAYERS)
    inside = compare(first, second)["share_inside"]
    assert (
        inside[1] == pytest.approx(1, abs=1e-5)
        and inside[0] < 0.99
        and compare(second, first)["share_inside"] == inside
    )
    assert max(compare(second, second)["angles_degrees"]) < 1e-3 < min(compare(second, other)["angles_degrees"])
    random_subspace(8, 2, seed=0).save(tmp_path / "narrow")
    with pytest.raises(MismatchError, match="d_model 12"):
        compare(first, tmp_path / "narrow")
    assert "degrees" in render_comparison(compare(second, other))


def test_show_compares_prints_json_and_draws(rvs, tmp_path):
    def show(*arguments):
        return CliRunner().invoke(main.get_command(None, "show"), [str(argument) for argument in arguments])

    path, folder = tmp_path / "rvs", tmp_path / "figures"
    rvs.save(path)
    assert json.loads(show(path, path, "--json").stdout)["cosine"][0] == pytest.approx(1)
    assert "inside" not in show(path, path).stdout
    assert show(path, "--figures", folder).exit_code == 0
    names = {f"{name}.{form}" for name in ("cosine", "effect-size", "scatter") for form in ("svg", "png")}
    assert {drawn.name for drawn in folder.iterdir()} == names
    assert all(drawn.stat().st_size > 2000 for drawn in folder.iterdir())
    RefusalVectors(rvs.vectors).save(tmp_path / "bare")
    assert show(tmp_path / "bare", "--figures", tmp_path / "few").exit_code == 0
    assert {drawn.stem for drawn in (tmp_path / "few").iterdir()} == {"cosine"}
    assert isinstance(show(path, "--figures", path).exception, ArtifactError)
    assert show(path, path, "--figures", folder).exit_code == 2
