"""Yes-or-no outcomes of the same prompts: McNemar's exact test and the paired difference of shares."""

import math

import numpy as np
import pytest
from made_scores import make_scores
from scipy import stats

from eval.statistics.comparisons import sign_flip_p
from eval.statistics.flips import count_flips, flips_between, mcnemar_p
from eval.statistics.intervals import bonett_price

NAN = math.nan


@pytest.mark.parametrize(("gained", "lost"), [(1, 7), (7, 1), (0, 6), (5, 5), (13, 4), (40, 80), (0, 1)])
def test_mcnemar_is_that_of_statsmodels_and_scipy(gained, lost):
    from statsmodels.stats.contingency_tables import mcnemar

    p = mcnemar_p(gained, lost)
    assert p == pytest.approx(mcnemar([[10, gained], [lost, 10]], exact=True).pvalue, abs=1e-12)
    assert p == pytest.approx(stats.binomtest(gained, gained + lost).pvalue, abs=1e-12)


def test_mcnemar_gives_the_published_value():
    # Airway hyper-responsiveness before and after transplantation (Bentur et al. 2009): 1, 1, 7 and 12 children;
    # Fagerland, Lydersen & Laake 2013, BMC Med. Res. Methodol. 13:91: exact conditional p = 0.070.
    assert mcnemar_p(1, 7) == pytest.approx(0.070, abs=5e-4)


def test_nothing_changed_has_p_one_and_negative_counts_are_refused():
    assert mcnemar_p(0, 0) == 1.0
    with pytest.raises(ValueError, match="negative|range|k "):
        mcnemar_p(-1, 2)


def test_mcnemar_is_the_sign_flip_test_of_yes_or_no_differences():
    differences = [1.0] * 9 + [-1.0] * 2 + [0.0] * 30
    assert mcnemar_p(9, 2) == pytest.approx(sign_flip_p(differences))  # 2^11 patterns: both are exact


def test_mcnemar_is_exact_where_the_flips_are_too_many_to_enumerate():
    assert mcnemar_p(0, 40) == pytest.approx(2 * 0.5**40)
    assert sign_flip_p([-1.0] * 40) > 1e-5  # the negative control: Monte Carlo stops at 1 / 10,001


def test_the_paired_difference_gives_the_value_of_the_published_formula():
    # The same children: -6/23 -+ 1.96 sqrt((10/23 - (6/23)^2) / 23), around the plain difference of -6/21.
    interval = bonett_price([1.0] * 1 + [-1.0] * 7 + [0.0] * 13)
    assert interval.estimate == pytest.approx(-6 / 21)
    assert (round(interval.low, 3), round(interval.high, 3)) == (-0.508, -0.013)


@pytest.mark.parametrize("bad", [[], [NAN], [1.5]])
def test_the_paired_difference_refuses_what_is_no_difference(bad):
    with pytest.raises(ValueError, match=r"difference in -1\.\.1"):
        bonett_price(bad)


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_the_paired_difference_of_equal_changes_stays_in_range_and_keeps_width(value):
    interval = bonett_price([value] * 12)
    assert -1 <= interval.low <= interval.estimate == value <= interval.high <= 1
    assert interval.high - interval.low > 0.1


def test_flips_count_both_ways_and_drop_unscored_pairs():
    found = count_flips([0, 0, 0, 1, 1, NAN, 0], [1, 1, 0, 0, 1, 1, NAN])
    assert (found.gained, found.lost, found.change.n, found.exact) == (2, 1, 5, True)
    assert found.change.estimate == pytest.approx(0.2) and found.p == mcnemar_p(2, 1)
    assert count_flips([NAN], [1.0]) is None


def test_shares_of_several_samples_are_compared_without_rounding_them_to_yes_or_no():
    before, after = np.zeros(12), np.full(12, 0.25)
    found = count_flips(before, after)
    assert not found.exact and found.p == sign_flip_p(after)
    assert count_flips(before, np.round(after)).p == 1.0  # what rounding would have made of it


def test_bounds_of_a_flip_follow_the_measure():
    baseline = make_scores([0, 0, 0, 0])
    found = flips_between(baseline, make_scores([1, 1, 0.5, NAN]), "full")
    assert (found.bounds.low, found.bounds.high) == (0.5, 0.75)
    refused = flips_between(baseline, make_scores([1, 1, 0.5, NAN]), "refused")
    assert (refused.bounds.low, refused.bounds.high) == (-1.0, -0.75)
    assert flips_between(baseline, make_scores([1, 1, 0.5, 0]), "full").bounds is None
