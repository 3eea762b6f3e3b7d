"""Estimators of a refusal vector, on activations whose answer is known."""

import pytest
import torch

from surgery.console.errors import DiskError
from surgery.reading.activations import CHUNK_BYTES, HARMFUL, SAFE, ActivationStore, LayerActivations
from surgery.statistics.estimators import (
    ESTIMATORS,
    geometric_median,
    group_means,
    mean,
    median_of_means,
    singular_directions,
    svd,
    winsorized,
)

D_MODEL, N_PAIRS = 24, 60


def planted(n_pairs=N_PAIRS, n_outliers=0, seed=0, noise=0.3):
    """Pairs that differ by a known vector and noise; the first few are far off. Returns (harmful, safe, the vector)."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(D_MODEL, generator=generator)
    safe = torch.randn(n_pairs, D_MODEL, generator=generator)
    harmful = safe + truth + noise * torch.randn(n_pairs, D_MODEL, generator=generator)
    harmful[:n_outliers] += 200 * torch.randn(D_MODEL, generator=generator)
    return harmful, safe, truth


def cosine(a, b):
    return torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=-1).item()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_finds_the_planted_vector(name):
    harmful, safe, truth = planted()
    assert cosine(ESTIMATORS[name](LayerActivations.of(harmful, safe)), truth) > 0.99
    unrelated = planted(seed=1)[2]
    assert abs(cosine(ESTIMATORS[name](LayerActivations.of(harmful, safe)), unrelated)) < 0.6


@pytest.mark.parametrize("estimator", [median_of_means, winsorized])
def test_outliers_move_the_robust_estimators_little_and_the_mean_far(estimator):
    harmful, safe, truth = planted(n_outliers=3)
    layer = LayerActivations.of(harmful, safe)
    assert cosine(estimator(layer), truth) > 0.95
    assert cosine(mean(layer), truth) < 0.5


def test_centred_differences_lose_the_vector_that_uncentred_ones_keep():
    harmful, safe, truth = planted()
    layer = LayerActivations.of(harmful, safe)
    assert cosine(svd(layer), truth) > 0.99
    differences = harmful - safe
    centred = LayerActivations.of(differences - differences.mean(0), torch.zeros_like(safe))
    # what is left after centring is noise: its leading direction has no more of the vector than chance gives, and the
    # mean of the centred differences, which the estimate is scaled by, is nothing
    assert abs(cosine(singular_directions(centred, 1)[0][0], truth)) < 0.6
    assert svd(centred).norm() < 1e-5 < 0.5 * truth.norm()


def test_singular_directions_are_those_of_the_whole_matrix_however_it_is_read(monkeypatch):
    harmful, safe, _ = planted()
    monkeypatch.setattr("surgery.reading.activations.CHUNK_BYTES", 4 * D_MODEL * 7)  # seven rows at a time
    directions, values = singular_directions(LayerActivations.of(harmful, safe), 5)
    _, expected, rows = torch.linalg.svd(harmful.double() - safe.double(), full_matrices=False)
    assert torch.allclose(values, expected[:5], rtol=1e-10)
    assert torch.allclose((directions * rows[:5]).sum(1).abs(), torch.ones(5, dtype=torch.float64), atol=1e-9)
    assert (directions @ (harmful - safe).double().mean(0) >= 0).all()


@pytest.mark.parametrize("name", ["mean", "median-of-means", "svd"])
def test_estimates_turn_with_the_coordinates(name):
    harmful, safe, _ = planted(n_outliers=2)
    turn = torch.linalg.qr(torch.randn(D_MODEL, D_MODEL, generator=torch.Generator().manual_seed(5))).Q
    turned = ESTIMATORS[name](LayerActivations.of(harmful @ turn, safe @ turn))
    expected = ESTIMATORS[name](LayerActivations.of(harmful, safe)) @ turn.double()
    # float32 rounding of values near 200; the winsorized mean works coordinate by coordinate and does not turn
    assert (turned - expected).abs().max() < 1e-3 * expected.abs().max()
    other = winsorized(LayerActivations.of(harmful @ turn, safe @ turn))
    assert (other - winsorized(LayerActivations.of(harmful, safe)) @ turn.double()).abs().max() > 0.01


def test_reading_in_pieces_gives_what_reading_at_once_gives(monkeypatch):
    layer = LayerActivations.of(*planted()[:2])
    whole = {name: estimate(layer) for name, estimate in ESTIMATORS.items()}
    monkeypatch.setattr("surgery.reading.activations.CHUNK_BYTES", 4 * D_MODEL * 7)
    monkeypatch.setattr(
        "surgery.statistics.estimators.CHUNK_BYTES", 8 * N_PAIRS * 5 // 16
    )  # five coordinates at a time
    for name, estimate in ESTIMATORS.items():
        assert torch.allclose(estimate(layer), whole[name], atol=1e-6), name


def test_a_winsorized_mean_of_a_worked_example():
    # Sorted 1..10, a tenth pulled in: 2, 2, 3, ..., 8, 9, 9, mean 5.5; with 1000 instead of 10 the same.
    values = torch.tensor([[float(value)] for value in (3, 1, 1000, 2, 9, 8, 4, 5, 7, 6)])
    assert winsorized(LayerActivations.of(values, torch.zeros_like(values))).item() == 5.5
    assert mean(LayerActivations.of(values, torch.zeros_like(values))).item() == 104.5


def test_a_geometric_median_is_the_point_of_least_summed_distance():
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [50.0, 50.0], [0.2, 0.3]], dtype=torch.float64)
    median = geometric_median(points)
    least = (points - median).norm(dim=1).sum()
    for shift in torch.tensor([[0.01, 0], [-0.01, 0], [0, 0.01], [0, -0.01]], dtype=torch.float64):
        assert (points - median - shift).norm(dim=1).sum() > least
    assert torch.allclose(geometric_median(points[:1].expand(4, 2)), points[0])
    corner = torch.tensor([[0.0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]], dtype=torch.float64)  # the mean is a row
    assert geometric_median(corner).norm() < 1e-9


def test_one_pair_is_enough_for_every_estimator():
    harmful, safe, _ = planted(n_pairs=1)
    for estimate in ESTIMATORS.values():
        assert torch.allclose(estimate(LayerActivations.of(harmful, safe)), (harmful - safe)[0].double(), atol=1e-6)


def test_a_store_gives_back_what_was_written_in_any_order(tmp_path):
    generator = torch.Generator().manual_seed(0)
    resid = torch.randn(2, 5, 3, 4, 8, generator=generator)  # group, pair, reading, layer, d_model
    with ActivationStore(3, 4, (5, 5), 8, tmp_path) as store:
        for row in (4, 0, 3, 1, 2):
            for group in (SAFE, HARMFUL):
                store.write(group, row, resid[group, row])
        for reading in range(3):
            for layer in range(4):
                ((start, harmful, safe),) = store.layer(reading, layer).pairs()
                assert start == 0 and torch.equal(harmful, resid[HARMFUL, :, reading, layer])
                assert torch.equal(safe, resid[SAFE, :, reading, layer])
        assert not list(tmp_path.iterdir())  # it has no name, so nothing can be left behind
    assert torch.equal(
        group_means(LayerActivations.of(resid[0, :, 0, 0], resid[1, :, 0, 0]))[0].float(),
        resid[0, :, 0, 0].double().mean(0).float(),
    )


def test_a_disk_that_is_too_small_is_named_before_the_work(tmp_path):
    with (
        pytest.raises(DiskError, match="need .* GB for a while"),
        ActivationStore(3, 10**6, (10**6, 10**6), 4096, tmp_path),
    ):
        pass


def test_chunks_are_bounded_however_many_prompts_there_are():
    asked = []

    def read(group, start, stop):
        asked.append(stop - start)
        return torch.zeros(stop - start, 4096)

    group_means(LayerActivations((5000, 5000), 4096, read))
    assert max(asked) * 4096 * 4 <= CHUNK_BYTES and sum(asked) == 2 * 5000
