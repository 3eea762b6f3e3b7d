"""Worst-case bounds: a small p is not called significant when what is unscored could turn the difference round."""

import math

import pytest
from made_scores import make_scores

from eval.plan.conditions import Condition
from eval.statistics.bounds import Bounds, is_withheld, worst_case_change, worst_case_contrast
from eval.statistics.summaries import summarize

NAN = math.nan
RV = Condition("rv:L2:a1", "rv", "RV 2", 1.0, 1, (2,), site="stream")


def test_unscored_responses_are_nought_in_one_arm_and_one_in_the_other():
    bounds = worst_case_change(make_scores([1, 0.5, NAN, NAN]), make_scores([0, NAN, 0, NAN]))
    # least: (1 - 0) + (0.5 - 1) + (0 - 0) + (0 - 1); most: (1 - 0) + (0.5 - 0) + (1 - 0) + (1 - 0)
    assert (bounds.low, bounds.high) == (pytest.approx(-0.5 / 4), pytest.approx(3.5 / 4))


def test_with_nothing_unscored_there_is_nothing_to_bound():
    assert worst_case_change(make_scores([1, 0.5]), make_scores([0, 0])) is None
    assert worst_case_change(make_scores([1, NAN]), make_scores([0, 0])) is not None


def test_the_missing_samples_of_a_scored_prompt_are_bounded_too():
    bounds = worst_case_change(make_scores([1.0], scored_share=[0.5]), make_scores([0.0]))
    assert (bounds.low, bounds.high) == (0.5, 1.0)


@pytest.mark.parametrize("filling", [0.0, 0.5, 1.0])
def test_no_filling_of_the_holes_leaves_the_bounds(filling):
    holes = [NAN, 1, 0.5, NAN, 0]
    bounds = worst_case_change(make_scores(holes), make_scores([0, 0, 1, 0, 0]))
    filled = [filling if math.isnan(value) else value for value in holes]
    assert bounds.low <= sum(a - b for a, b in zip(filled, [0, 0, 1, 0, 0], strict=True)) / 5 <= bounds.high


@pytest.mark.parametrize(
    ("p", "bounds", "withheld"),
    [
        (0.001, Bounds(-0.1, 0.4), True),
        (0.001, Bounds(0.0, 0.4), True),
        (0.001, Bounds(0.1, 0.4), False),
        (0.001, None, False),
        (0.2, Bounds(-0.1, 0.4), False),
        (None, None, False),
    ],
)
def test_only_a_small_p_over_bounds_that_cross_zero_is_withheld(p, bounds, withheld):
    assert is_withheld(p, bounds) is withheld


def test_a_clear_change_is_withheld_when_most_of_it_is_unscored():
    baseline = make_scores([0.0] * 40)
    few_holes = summarize(make_scores([1.0] * 30 + [NAN] * 10, condition=RV), baseline)
    many_holes = summarize(
        make_scores([1.0] * 10 + [0.0] * 10 + [NAN] * 20, condition=RV), make_scores([0.0] * 20 + [1.0] * 20)
    )
    assert few_holes.p < 0.001 and not few_holes.withheld and few_holes.bounds.low == 0.75
    assert many_holes.p < 0.01 and many_holes.withheld and many_holes.bounds.low < 0 < many_holes.change.low


def test_bounds_of_a_contrast_take_the_tiers_against_each_other():
    changed, baseline = make_scores([1, 1, 0, NAN]), make_scores([0, 0, 0, 0])
    lower, upper = [True, True, False, False], [False, False, True, True]
    bounds = worst_case_contrast(changed, baseline, upper, lower)
    assert (bounds.low, bounds.high) == (-1.0, -0.5)
    assert worst_case_contrast(make_scores([1, 1, 0, 0]), baseline, upper, lower) is None
