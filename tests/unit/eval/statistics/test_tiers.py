"""Difference in differences per tier, against scipy, statsmodels, published values, and simulations."""

import math

import numpy as np
import pytest
from made_scores import make_scores
from scipy import stats

from eval.statistics.intervals import independent_difference, paired_difference, wilson
from eval.statistics.tiers import contrast_tiers, detectable_contrast, tier_contrasts

NAN = math.nan
CHANGES = np.array([-0.5, 0.0, 0.5, 1.0])


def test_the_interval_of_independent_shares_gives_the_published_value():
    # Newcombe 1998, Stat. Med. 17:873-890, table II, (a) 56/70 - 48/80, method 10: 0.0524 to 0.3339
    interval = independent_difference(wilson(48, 80), wilson(56, 70))
    assert (round(interval.low, 4), round(interval.high, 4)) == (0.0524, 0.3339)
    assert interval.estimate == pytest.approx(0.2) and interval.n == 150


def test_the_interval_of_independent_shares_is_that_of_statsmodels():
    from statsmodels.stats.proportion import confint_proportions_2indep

    theirs = confint_proportions_2indep(9, 40, 30, 50, method="newcomb", compare="diff")
    ours = independent_difference(wilson(30, 50), wilson(9, 40))
    assert (ours.low, ours.high) == pytest.approx(theirs, abs=1e-12)


def test_a_constant_tier_keeps_the_width_of_its_exact_bound():
    still, moved = paired_difference([0.0] * 15), paired_difference([0.0, 1.0] * 15)
    wide, narrow = independent_difference(still, moved), paired_difference([0.0, 1.0] * 15)
    assert wide.high - wide.low > 1.15 * (narrow.high - narrow.low)


def _two_groups(seed, n=24):
    rng = np.random.default_rng(seed)
    return rng.choice(CHANGES, n, p=[0.1, 0.5, 0.2, 0.2]), rng.choice(CHANGES, n, p=[0.05, 0.25, 0.3, 0.4])


def test_the_permutation_p_is_that_of_scipy():
    lower, upper = _two_groups(1)

    def welch(a, b, axis=-1):
        return stats.ttest_ind(a, b, axis=axis, equal_var=False).statistic

    theirs = stats.permutation_test(
        (upper, lower), welch, vectorized=True, n_resamples=20_000, rng=np.random.default_rng(0)
    )
    (found,) = tier_contrasts(np.concatenate([lower, upper])[:, None], np.arange(48) >= 24, n_permutations=20_000)
    assert 0.005 < theirs.pvalue < 0.2
    assert found.p == pytest.approx(theirs.pvalue, abs=0.008)  # 3.5 sd of two Monte Carlo p of 20,000 near .04
    assert found.difference.estimate == pytest.approx(upper.mean() - lower.mean())


def test_the_detectable_contrast_is_that_of_statsmodels_for_equal_groups():
    from statsmodels.stats.power import TTestIndPower

    rng = np.random.default_rng(0)
    lower = rng.normal(size=40)
    lower /= lower.std(ddof=1)
    theirs = TTestIndPower().solve_power(nobs1=40, alpha=0.05, power=0.8)
    assert detectable_contrast(lower, lower + 3.0) == pytest.approx(theirs, abs=1e-4)
    assert detectable_contrast(lower, lower, n_tests=32) > theirs
    assert detectable_contrast([0.0, 0.0], [1.0, 1.0]) is None


def test_the_detectable_contrast_gives_the_published_sample_size():
    # Cohen 1988, table 2.4.1: a medium effect (d = 0.5) takes 64 a group for 80 % power
    unit = np.tile([-1.0, 1.0], 100)

    def scaled(n):
        return unit[:n] / unit[:n].std(ddof=1)

    assert detectable_contrast(scaled(64), scaled(64)) < 0.5 < detectable_contrast(scaled(62), scaled(62))


def test_tiers_that_change_alike_are_seldom_told_apart_even_when_one_varies_more():
    rng, n_runs = np.random.default_rng(3), 400
    is_upper = np.arange(60) >= 40
    found = []
    for seed in range(n_runs):
        lower = rng.choice([0.0, 0.5], 40)  # mean .25, little spread
        upper = rng.choice([-1.0, 1.0], 20, p=[0.375, 0.625])  # mean .25, much
        (contrast,) = tier_contrasts(np.concatenate([lower, upper])[:, None], is_upper, 300, seed)
        found.append(contrast)
    rejected = np.mean([contrast.p <= 0.05 for contrast in found])
    covered = np.mean([contrast.difference.low <= 0 <= contrast.difference.high for contrast in found])
    assert rejected <= 0.083  # 5 % plus 3 standard errors of 400 runs
    assert 0.92 <= covered <= 0.985


def test_a_tier_that_stays_is_told_from_one_that_moves_and_the_others_are_not():
    rng = np.random.default_rng(4)
    is_upper = np.arange(80) >= 40
    changes = rng.choice([0.0, 0.5, 1.0], (80, 6))
    changes[is_upper, 2] = 0.0
    contrasts = tier_contrasts(changes, is_upper)
    assert contrasts[2].p_adjusted < 0.001 and contrasts[2].difference.high < -0.3
    assert all(contrast.p_adjusted > 0.1 for j, contrast in enumerate(contrasts) if j != 2)
    assert all(contrast.p_adjusted >= contrast.p for contrast in contrasts)


def test_constant_tiers_are_told_apart_by_permutation_alone():
    changes = np.array([0.0] * 8 + [1.0] * 8)[:, None]
    (found,) = tier_contrasts(changes, np.arange(16) >= 8)
    assert found.p < 0.002 and found.detectable is None
    (same,) = tier_contrasts(np.zeros((16, 1)), np.arange(16) >= 8)
    assert same.p == 1.0 and same.difference.estimate == 0.0 and same.difference.low < 0 < same.difference.high


def test_unscored_pairs_are_left_out_and_a_tier_with_one_pair_is_not_tested():
    rng = np.random.default_rng(5)
    d = rng.choice(CHANGES, 40)
    is_upper = np.arange(40) >= 20
    holes = np.where(np.isin(np.arange(40), (3, 25)), NAN, d)
    (found,) = tier_contrasts(holes[:, None], is_upper)
    kept = ~np.isnan(holes)
    assert found.lower.n == found.upper.n == 19
    assert found.difference.estimate == pytest.approx(d[is_upper & kept].mean() - d[~is_upper & kept].mean())
    lonely = np.where(is_upper & (np.arange(40) > 20), NAN, d)
    assert tier_contrasts(lonely[:, None], is_upper) == [None]


def test_prompts_of_other_tiers_and_without_one_take_no_part():
    tiers = [1] * 5 + [2] * 5 + [3] * 5 + [None] * 5
    changed = make_scores([0.5, 0.0] * 2 + [0.0] + [1.0, 0.5] * 2 + [1.0] + [0.0] * 10, tiers=tiers)
    (found,) = contrast_tiers([changed], make_scores([0.0] * 20, tiers=tiers), 1, 2)
    assert (found.lower.estimate, found.upper.estimate) == (pytest.approx(0.2), pytest.approx(0.8))
    assert found.lower.n == found.upper.n == 5 and found.bounds is None
