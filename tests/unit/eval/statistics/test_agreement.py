"""Agreement statistics against published tables and values computed by other software."""

import math

import numpy as np
import pytest

from eval.statistics.agreement import cohen_kappa, confusion, kappa_of_counts, krippendorff_alpha

# Cohen 1960, "A coefficient of agreement for nominal scales", table 2, as counts of 200: kappa .492.
COHEN_1960 = np.array([[88, 14, 18], [10, 40, 10], [2, 6, 12]])
NAN = float("nan")
# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C: four observers, twelve units, with gaps.
KRIPPENDORFF_2011 = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
)


def ratings_of(counts):
    """Two raters' ratings that give a table of counts."""
    pairs = [(i, j) for i, row in enumerate(counts) for j, n in enumerate(row) for _ in range(n)]
    return [i for i, _ in pairs], [j for _, j in pairs]


def test_kappa_is_that_of_cohens_own_example():
    first, second = ratings_of(COHEN_1960)
    assert cohen_kappa(first, second, [0, 1, 2]) == pytest.approx(0.492, abs=0.0005)
    assert np.array_equal(confusion(first, second, [0, 1, 2]), COHEN_1960)


# statsmodels 0.15 cohens_kappa(COHEN_1960, wt=...).kappa
@pytest.mark.parametrize(
    ("weights", "value"), [("none", 0.4915254237), ("linear", 0.4736842105), ("quadratic", 0.4545454545)]
)
def test_weighted_kappa_is_that_of_statsmodels(weights, value):
    assert kappa_of_counts(COHEN_1960, weights) == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize(("level", "value"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_is_that_of_krippendorffs_own_example(level, value):
    assert krippendorff_alpha(KRIPPENDORFF_2011, level) == pytest.approx(value, abs=0.0005)


def test_order_of_categories_matters_to_weights_only():
    first, second = [0, 0, 1, 2, 2, 1], [0, 0, 1, 2, 0, 2]
    assert cohen_kappa(first, second, [0, 1, 2]) == pytest.approx(cohen_kappa(first, second, [1, 0, 2]))
    assert cohen_kappa(first, second, [0, 1, 2], "linear") != pytest.approx(
        cohen_kappa(first, second, [1, 0, 2], "linear")
    )


def test_raters_who_agree_reach_one_and_independent_ones_about_zero():
    values = np.random.default_rng(0).integers(0, 3, (2, 20000))
    assert cohen_kappa(values[0].tolist(), values[0].tolist(), [0, 1, 2]) == 1.0
    assert krippendorff_alpha(np.stack([values[0], values[0]])) == 1.0
    # the standard error of both at n = 20,000 and three equal categories is 0.005
    assert abs(cohen_kappa(values[0].tolist(), values[1].tolist(), [0, 1, 2])) < 0.02
    assert abs(krippendorff_alpha(values.astype(float))) < 0.02


def test_a_unit_with_one_rating_changes_nothing():
    alone = np.array([[3.0], [NAN], [NAN], [NAN]])
    for level in ("nominal", "ordinal", "interval"):
        with_it = krippendorff_alpha(np.hstack([KRIPPENDORFF_2011, alone]), level)
        assert with_it == pytest.approx(krippendorff_alpha(KRIPPENDORFF_2011, level), abs=1e-12)


def test_where_nothing_can_disagree_there_is_no_number():
    assert math.isnan(cohen_kappa([], [], [0, 1])) and math.isnan(cohen_kappa([1, 1], [1, 1], [0, 1]))
    assert math.isnan(krippendorff_alpha([[1.0, 1.0], [1.0, 1.0]])) and math.isnan(krippendorff_alpha([[1.0, 2.0]]))
    assert math.isnan(krippendorff_alpha(np.full((2, 3), np.nan), "ordinal"))
    assert cohen_kappa([0, 1], [1, 0], [0, 1]) == -1.0


def test_ratings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="2 and 1 ratings"):
        cohen_kappa([0, 1], [0], [0, 1])
    with pytest.raises(ValueError, match="outside the categories .*: 7"):
        cohen_kappa([0, 7], [0, 1], [0, 1])
    with pytest.raises(ValueError, match="weights must be one of"):
        kappa_of_counts(COHEN_1960, "cubic")
    with pytest.raises(ValueError, match="level must be one of"):
        krippendorff_alpha(KRIPPENDORFF_2011, "ratio")
    with pytest.raises(ValueError, match="n_raters, n_units"):
        krippendorff_alpha([1.0, 2.0])
