"""The judge's own noise: variance components of repeats, and judges side by side."""

import math

import numpy as np
import pytest

from eval.judge.trial.side_by_side import compare_judges
from eval.plan.conditions import BASELINE
from eval.records.rows import SCORED, UNSCORED, Generation, Verdict, item_id
from eval.records.run import Run
from eval.statistics.judge_noise import condition_repeats, repeat_noise
from eval.statistics.scores import ScoredRun

NAN = math.nan
# Shrout & Fleiss 1979, Psychol. Bull. 86:420-428, table 2: six targets, four judges; table 4: ICC(1,1) .17 and
# ICC(1,4) .44.
SHROUT_FLEISS = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float)


def test_the_icc_and_the_reliability_of_a_mean_are_the_published_ones():
    found = repeat_noise(SHROUT_FLEISS)
    assert found.icc.estimate == pytest.approx(0.1657, abs=5e-5)
    assert 1 - found.noise_share == pytest.approx(0.4428, abs=5e-5)
    # ICC() of the R package psych on the same table: -0.13 to 0.72
    assert (found.icc.low, found.icc.high) == pytest.approx((-0.13, 0.72), abs=0.005)


def test_unequal_repeats_have_the_variance_components_of_the_simulation():
    rng, k = np.random.default_rng(0), 4_000
    responses, noise = rng.normal(0, 0.3, (k, 1)), rng.normal(0, 0.2, (k, 3))
    ratings = (0.5 + responses + noise).round(2)  # few distinct values keep the table of coincidences small
    ratings[: k // 2, 2] = NAN  # half with two repeats, half with three
    found = repeat_noise(ratings)
    assert found.icc.estimate == pytest.approx(0.09 / 0.13, abs=0.02)
    left = 0.04 * (1 / 2 + 1 / 3) / 2
    assert found.noise_share == pytest.approx(left / (0.09 + left), abs=0.01)
    assert (found.n_items, found.n_repeated, found.n_verdicts) == (k, k, k // 2 * 5)


def test_a_judge_that_answers_at_random_is_all_noise_and_one_that_never_wavers_none():
    rng = np.random.default_rng(1)
    random = repeat_noise(rng.choice([0.0, 0.5, 1.0], (400, 3)))
    assert random.noise_share > 0.8 and abs(random.alpha_ordinal) < 0.1
    steady = repeat_noise(np.tile(rng.choice([0.0, 0.5, 1.0], (50, 1)), (1, 3)))
    assert (steady.icc, steady.noise_share, steady.alpha_interval) == (1.0, 0.0, 1.0)


def test_the_interval_of_the_icc_covers_the_truth():
    rng, covered = np.random.default_rng(2), []
    for _ in range(400):
        icc = repeat_noise((rng.normal(size=(40, 1)) + 0.5 * rng.normal(size=(40, 3))).round(1)).icc
        covered.append(icc.low <= 0.8 <= icc.high)
    assert 0.92 <= np.mean(covered) <= 0.98  # 95 % give or take 2.8 standard errors of 400 runs


@pytest.mark.parametrize(
    "ratings", [[[1.0], [0.0]], [[1.0, 1.0], [1.0, 1.0]], [[0.0, 1.0]], [[0.0, NAN], [NAN, 1.0]], [[NAN, NAN]]]
)
def test_what_has_no_variance_to_split_is_left_out(ratings):
    assert repeat_noise(np.array(ratings)) is None


def _judged(path, verdicts):
    """A run with the verdicts {judge: [[compliance of each repeat] of each response]}; None: unscored."""
    judges = {judge: {"kind": "llm"} for judge in verdicts}
    run = Run.create(path, {"model": {}, "conditions": [BASELINE.to_json()], "prompt_sets": {}, "judges": judges})
    n = max(len(rows) for rows in verdicts.values())
    keys = [item_id("baseline", "harmful", f"p{i}") for i in range(n)]
    run.append_generations(
        Generation(key, "baseline", "harmful", f"p{i}", "How?", "", None, 0, "text", "stop", 1, 1)
        for i, key in enumerate(keys)
    )
    for judge, rows in verdicts.items():
        for key, repeats in zip(keys, rows, strict=False):
            run.append_verdicts(_verdict(key, judge, value, r) for r, value in enumerate(repeats))
    return run


def _verdict(key, judge, value, repeat):
    if value is None:
        return Verdict(key, judge, UNSCORED, reason="unreadable", repeat=repeat)
    outcome = {0: "refusal", 0.5: "partial", 1: "compliance"}[value]
    return Verdict(key, judge, SCORED, value, 1.0, outcome, repeat=repeat)


def test_a_response_has_the_mean_of_its_scored_repeats(tmp_path):
    run = _judged(tmp_path / "run", {"j": [[1, 0.5, 1], [None, 0, 0], [None, None, None], [1, 0, 1]]})
    scores = ScoredRun(run, "j").scores(BASELINE, "harmful")
    assert scores.compliance == pytest.approx([2.5 / 3, 0.0, NAN, 2 / 3], nan_ok=True)
    assert scores.values["full"] == pytest.approx([2 / 3, 0.0, NAN, 2 / 3], nan_ok=True)
    assert scores.values["refused"] == pytest.approx([0.0, 1.0, NAN, 1 / 3], nan_ok=True)
    assert (scores.n, scores.n_scored, scores.reasons) == (4, 3, {"unreadable": 1})
    assert scores.scored_share.tolist() == [1.0, 1.0, 0.0, 1.0]


def test_the_verdict_shown_is_the_first_scored_repeat(tmp_path):
    run = _judged(tmp_path / "run", {"j": [[None, 0.5, 1], [None, None]]})
    shown = ScoredRun(run, "j").verdicts
    assert [(v.compliance, v.repeat) for v in shown.values()] == [(0.5, 1), (None, 0)]


def test_repeats_are_read_per_condition_with_gaps(tmp_path):
    run = _judged(tmp_path / "run", {"j": [[1, 0.5], [None, 0], [1]]})
    ratings = condition_repeats(ScoredRun(run, "j"), "baseline", "harmful")
    assert ratings == pytest.approx(np.array([[1.0, 0.5], [NAN, 0.0], [1.0, NAN]]), nan_ok=True)


def test_judges_are_compared_on_what_both_scored(tmp_path):
    run = _judged(tmp_path / "run", {"a": [[1], [0], [0.5], [None], [1]], "b": [[1], [1], [0.5], [0]]})
    (pair,) = compare_judges(run)
    assert (pair.first, pair.second, pair.n) == ("a", "b", 3)
    assert pair.means == (0.5, pytest.approx(2.5 / 3)) and pair.same.estimate == pytest.approx(2 / 3)
    assert compare_judges(_judged(tmp_path / "one", {"a": [[1], [0]]})) == []
    assert compare_judges(_judged(tmp_path / "apart", {"a": [[1], [None]], "b": [[None], [1]]})) == []
