"""Cosines between layers: without the noise of finite samples, with intervals that cover the truth."""

import numpy as np
import pytest
import torch

from surgery.commands.summary import render, summarize
from surgery.reading.activations import LayerActivations
from surgery.residual.layers import late_layers
from surgery.residual.vectors import RefusalVectors
from surgery.statistics.cosines import block_counts, cosine_statistics, cosines_without, jackknife
from surgery.statistics.separability import analysis, cosine_matrix

N_LAYERS, D_MODEL = 6, 64
NAMES = ("neighbours", "far", "decay", "late")


def expected_vectors(turn):
    """Vectors that share one direction, and have `turn` times the layer of another of their own."""
    vectors = torch.zeros(N_LAYERS, D_MODEL)
    vectors[:, 0] = 1.0
    vectors[range(N_LAYERS), range(1, N_LAYERS + 1)] = turn * torch.arange(N_LAYERS)
    return vectors


def truth(vectors):
    cosine = cosine_matrix(vectors)
    by_distance = {k: cosine.diagonal(k).mean().item() for k in range(1, N_LAYERS)}
    far = np.mean([value for k, value in by_distance.items() if k >= N_LAYERS / 2])
    late = cosine[2:, 2:][~torch.eye(N_LAYERS - 2, dtype=torch.bool)].mean().item()
    return {"neighbours": by_distance[1], "far": far, "decay": by_distance[1] - far, "late": late}


def drawn(seed, n=40, n_safe=None, turn=0.3, noise=0.3):
    """Layers of prompts around those vectors; a pair's noise is alike in all layers."""
    generator = torch.Generator().manual_seed(seed)
    shared = 0.7 * noise * torch.randn(n, 1, D_MODEL, generator=generator)
    harmful = 5 + expected_vectors(turn) + shared + noise * torch.randn(n, N_LAYERS, D_MODEL, generator=generator)
    safe = 5 + noise * torch.randn(n_safe or n, N_LAYERS, D_MODEL, generator=generator)
    matched = n_safe is None
    return [LayerActivations.of(harmful[:, i], safe[:, i], matched) for i in range(N_LAYERS)]


def vectors_of(layers):
    vectors = torch.stack([layer.read(0, 0, 10**6).mean(0) - layer.read(1, 0, 10**6).mean(0) for layer in layers])
    n_harmful, n_safe = layers[0].sizes
    header = {"n_harmful": n_harmful, "n_safe": n_safe, "n_pairs": n_harmful}
    header |= {} if layers[0].matched else {"contrast": "unmatched"}
    return RefusalVectors(vectors, header=header, extras={"cosines_without": cosines_without(layers)})


@pytest.mark.parametrize("options", [{}, {"n": 130}, {"n": 30, "n_safe": 50}, {"n": 12, "noise": 0.15}])
def test_intervals_cover_the_cosines_of_the_expected_vectors_about_as_often_as_they_say(options):
    found = [cosine_statistics(vectors_of(drawn(seed, **options))) for seed in range(60)]
    for name, value in truth(expected_vectors(0.3)).items():
        covered = np.mean([each[name]["low"] <= value <= each[name]["high"] for each in found])
        assert covered >= 0.87, name  # 95 %, and three standard errors of 60 draws
        assert np.mean([each[name]["estimate"] for each in found]) == pytest.approx(value, abs=0.03)


def test_noise_lowers_the_cosines_of_the_vectors_and_not_the_corrected_ones():
    true = truth(expected_vectors(0.3))
    rvs = [vectors_of(drawn(seed, noise=0.4)) for seed in range(20)]
    plain = np.mean([truth(each.vectors)["neighbours"] for each in rvs])
    corrected = np.mean([cosine_statistics(each)["neighbours"]["estimate"] for each in rvs])
    assert plain < true["neighbours"] - 0.1 < true["neighbours"] - 0.04 < corrected


def test_more_prompts_give_shorter_intervals_and_one_direction_shows_no_decay():
    few, many = (cosine_statistics(vectors_of(drawn(0, n=n, turn=0.0))) for n in (20, 200))
    assert few["decay"]["low"] < 0 < few["decay"]["high"] and (few["decay"]["n"], many["decay"]["n"]) == (20, 200)
    assert all(many[name]["high"] - many[name]["low"] < few[name]["high"] - few[name]["low"] for name in NAMES)


def test_without_a_block_is_what_the_other_prompts_give():
    layers = drawn(0, n=9)
    rest = [LayerActivations.of(*(layer.read(group, 1, 9) for group in (0, 1))) for layer in layers]
    assert torch.allclose(cosines_without(layers)[1], cosines_without(rest)[0], atol=1e-5)  # float32 of shares
    unmatched = drawn(0, n=9, n_safe=7)
    fewer = [LayerActivations.of(a.read(0, 0, 9), a.read(1, 0, 6), matched=False) for a in unmatched]
    assert torch.allclose(cosines_without(unmatched)[-1], cosines_without(fewer)[0], atol=1e-5)
    assert len(cosines_without(unmatched)) == 1 + 9 + 7


def test_blocks_are_of_one_size_but_for_a_few():
    assert block_counts(100, 100, True) == [100] and block_counts(128, 128, True) == [64]
    assert block_counts(301, 50, False) == [75, 50]


def test_the_jackknife_of_a_mean_is_its_t_interval():
    from scipy.stats import t

    values = torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    without = (values.sum() - values) / 11
    found = jackknife(values.mean().item(), [without], most=9.0)
    reach = t.ppf(0.975, 11) * values.std().item() / 12**0.5
    mean = values.mean().item()
    assert found == pytest.approx((mean, mean - reach, mean + reach))
    assert jackknife(values.mean().item(), [without], most=0.01)[2] <= 0.01


def test_what_gives_no_interval_is_none_and_not_zero():
    layers = drawn(0)
    assert cosines_without(layers[:1]) is None and cosines_without(drawn(0, n=2)) is None
    assert cosines_without(drawn(0, n=6, noise=30.0)) is None  # no vector is longer than its error
    bare = vectors_of(layers)
    assert cosine_statistics(RefusalVectors(bare.vectors, header=bare.header)) is None
    two = vectors_of(layers[:2])
    assert cosine_statistics(two)["late"] is None and cosine_statistics(two)["neighbours"]["estimate"] > 0


def test_a_file_keeps_them_and_show_tells_them(tmp_path):
    rvs = vectors_of(drawn(0))
    rvs.save(tmp_path / "rvs.safetensors")
    found = summarize(tmp_path / "rvs.safetensors")
    assert found["cosine_statistics"] == cosine_statistics(rvs) == analysis(rvs)["cosine_statistics"]
    text = render(found)
    assert f"among layers {late_layers(N_LAYERS).start}-{N_LAYERS - 1}" in text and "of neighbouring layers" in text
    RefusalVectors(rvs.vectors, header=rvs.header).save(tmp_path / "bare.safetensors")
    assert "of neighbouring layers" not in render(summarize(tmp_path / "bare.safetensors"))
