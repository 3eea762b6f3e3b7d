"""Simulations in which the truth is known: how often intervals cover it, how often tests err, how often they find."""

import numpy as np
import pytest

from eval.statistics.comparisons import holm_p, max_t_p, minimal_detectable_difference, sign_flip_p
from eval.statistics.flips import count_flips
from eval.statistics.intervals import bootstrap_mean, independent_difference, paired_difference, wilson

SCORES = np.array([0.0, 0.5, 1.0])
CHANGES = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
MEANS = [[0.8, 0.1, 0.1], [0.64, 0.0, 0.36], [0.3, 0.3, 0.4], [0.05, 0.1, 0.85]]
DIFFERENCES = [[0.1, 0.1, 0.5, 0.15, 0.15], [0.02, 0.0, 0.3, 0.1, 0.58], [0.04, 0.04, 0.84, 0.04, 0.04]]
SPARSE = [[0.02, 0.02, 0.9, 0.03, 0.03], [0.005, 0.005, 0.98, 0.005, 0.005], [0.0, 0.0, 0.05, 0.0, 0.95]]


def _coverage(intervals, truth):
    return np.mean([interval.low - 1e-12 <= truth <= interval.high + 1e-12 for interval in intervals])


def _of_means(truth, n, n_runs, seed=0):
    rng = np.random.default_rng(seed)
    draws = [rng.choice(SCORES, n, p=truth) for _ in range(n_runs)]
    return _coverage([bootstrap_mean(x, n_resamples=1_000, seed=i) for i, x in enumerate(draws)], np.dot(truth, SCORES))


def _quick(d):
    return paired_difference(d, n_resamples=1_000)


def _of_differences(truth, n, n_runs, interval=_quick, seed=0):
    rng = np.random.default_rng(seed)
    draws = [rng.choice(CHANGES, n, p=truth) for _ in range(n_runs)]
    return _coverage([interval(d) for d in draws], np.dot(truth, CHANGES))


def _bootstrap_of_differences(d):
    return bootstrap_mean(d, bounds=(-1.0, 1.0), n_resamples=1_000)


@pytest.mark.parametrize("truth", DIFFERENCES)
def test_the_interval_of_a_paired_difference_covers_the_truth(truth):
    assert 0.92 <= _of_differences(truth, 100, 200) <= 0.995  # 95 % less 2 standard errors of 200 runs


@pytest.mark.parametrize("truth", SPARSE)
@pytest.mark.parametrize("n", [20, 50])
def test_few_prompts_that_moved_do_not_make_the_interval_too_narrow(truth, n):
    assert _of_differences(truth, n, 300) >= 0.95


def test_the_bootstrap_alone_would_be_too_narrow_where_few_prompts_moved():
    # The negative control of the test above, and the reason for the other interval.
    assert _of_differences(SPARSE[0], 20, 300, _bootstrap_of_differences) < 0.85


def test_a_paired_difference_uses_the_bootstrap_where_enough_prompts_moved():
    few, many = [1.0] * 10 + [-1.0] * 9 + [0.0] * 80, [1.0] * 10 + [-1.0] * 10 + [0.0] * 80
    assert (paired_difference(few).method, paired_difference(many).method) == ("bonett-price", "bca")
    assert paired_difference([0.5] * 30).method == "exact"


@pytest.mark.slow
@pytest.mark.parametrize("n", [50, 100, 200])
def test_coverage_of_means_is_93_to_97_in_a_hundred(n):
    found = {tuple(truth): _of_means(truth, n, 4_000) for truth in MEANS}
    assert all(0.93 <= coverage <= 0.975 for coverage in found.values()), found  # 97 % plus 2 standard errors


@pytest.mark.slow
@pytest.mark.parametrize("n", [100, 200])
def test_coverage_of_paired_differences_is_93_to_97_in_a_hundred(n):
    found = {tuple(truth): _of_differences(truth, n, 2_000) for truth in DIFFERENCES}
    assert all(0.93 <= coverage <= 0.975 for coverage in found.values()), found


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_wilson_covers_93_to_97_in_a_hundred(share):
    counts = np.random.default_rng(1).binomial(100, share, 20_000)
    assert 0.925 <= _coverage([wilson(int(k), 100) for k in counts], share) <= 0.975  # steps of a discrete count


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(0.05, 0.3), (0.1, 0.5), (0.3, 0.3)])
def test_bonett_and_prices_interval_covers_94_to_98_in_a_hundred(before, after):
    rng = np.random.default_rng(2)
    pairs = [(rng.random(60) < before, rng.random(60) < after) for _ in range(10_000)]
    found = _coverage([count_flips(a.astype(float), b.astype(float)).change for a, b in pairs], after - before)
    assert 0.94 <= found <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.5, 0.1])
def test_coverage_of_a_tier_contrast_is_93_to_98_in_a_hundred(share):
    rng = np.random.default_rng(3)

    def draw(moved, n=60):
        return _quick(rng.choice(CHANGES, n, p=[0.0, 0.05, 0.95 - moved, moved / 2, moved / 2]))

    found = _coverage([independent_difference(draw(0.5), draw(share)) for _ in range(2_000)], 0.75 * (share - 0.5))
    assert 0.93 <= found <= 0.98


def _null_sweep(rng, n_prompts=60, n_layers=32):
    """Differences of layers that all do nothing; a shared baseline makes them depend on each other."""
    baseline = rng.choice(SCORES, (n_prompts, 1), p=[0.6, 0.2, 0.2])
    return rng.choice(SCORES, (n_prompts, n_layers), p=[0.6, 0.2, 0.2]) - baseline


@pytest.mark.slow
def test_the_family_wise_error_over_32_null_layers_is_at_most_6_in_a_hundred():
    rng, n_runs = np.random.default_rng(4), 2_000
    sweeps = [_null_sweep(rng) for _ in range(n_runs)]
    max_t = np.mean([max_t_p(sweep, n_flips=1_000, seed=i).min() <= 0.05 for i, sweep in enumerate(sweeps)])
    holm = np.mean([holm_p([sign_flip_p(d, 2_000) for d in sweep.T]).min() <= 0.05 for sweep in sweeps[:1_000]])
    assert max_t <= 0.06 and holm <= 0.06
    assert max_t >= 0.035  # and it is not merely blind


@pytest.mark.slow
def test_the_detectable_difference_is_found_four_times_in_five():
    rng, n, sd = np.random.default_rng(5), 100, 0.5
    shift = minimal_detectable_difference(sd, n)
    low, high = shift - sd, shift + sd
    draws = [np.where(rng.random(n) < 0.5, low, high) for _ in range(2_000)]
    power = np.mean([sign_flip_p(d, 1_000) <= 0.05 for d in draws])
    assert 0.76 <= power <= 0.84
    null = np.mean([sign_flip_p(d - shift, 1_000) <= 0.05 for d in draws])
    assert null <= 0.065  # 5 % plus 3 standard errors of 2,000 runs
