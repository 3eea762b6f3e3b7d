"""Statistics against scipy, statsmodels, published values, and simulations in which the truth is known."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from eval.plan.conditions import BASELINE, Condition
from eval.records.rows import SCORED, UNSCORED, Generation, Verdict, item_id
from eval.records.run import Run
from eval.statistics.comparisons import (
    holm_p,
    max_t_p,
    minimal_detectable_difference,
    minimal_detectable_share,
    sign_flip_p,
    step_down,
)
from eval.statistics.intervals import bootstrap_mean, wilson
from eval.statistics.scores import JudgeChoiceError, NoScoresError, ScoredRun, open_scored
from eval.statistics.summaries import (
    agreement,
    detectable_difference,
    group_means,
    is_candidate,
    summarize,
    summarize_all,
)

SCORES = np.array([0.0, 0.5, 1.0])


def test_the_bootstrap_interval_is_that_of_scipy():
    data = np.random.default_rng(3).beta(0.3, 2.0, 20)  # skewed, so that BCa and percentile differ

    def theirs(method):
        found = stats.bootstrap(
            (data,), np.mean, method=method, n_resamples=50_000, batch=5_000, rng=np.random.default_rng(1)
        )
        return (found.confidence_interval.low, found.confidence_interval.high)

    ours = bootstrap_mean(data, n_resamples=50_000)
    assert ours.estimate == data.mean()
    # Monte Carlo error of a 2.5 % quantile of 50,000 draws, about 0.02 of the interval's width of 0.17
    assert (ours.low, ours.high) == pytest.approx(theirs("BCa"), abs=0.004)
    assert ours.high > theirs("percentile")[1] + 0.01


def test_the_bootstrap_repeats_itself_and_depends_on_its_seed():
    data = np.random.default_rng(0).random(40)
    assert bootstrap_mean(data) == bootstrap_mean(data)
    assert bootstrap_mean(data, seed=1) != bootstrap_mean(data)


def test_a_skewed_sample_gets_a_skewed_interval():
    interval = bootstrap_mean([0.0] * 95 + [1.0] * 5)
    assert interval.high - interval.estimate > 1.2 * (interval.estimate - interval.low)
    mirrored = bootstrap_mean([1.0] * 95 + [0.0] * 5)
    assert mirrored.estimate - mirrored.low > 1.2 * (mirrored.high - mirrored.estimate)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("n", [1, 2, 128])
def test_constant_scores_do_not_pretend_to_certainty(value, n):
    interval = bootstrap_mean([value] * n)
    exact = stats.binomtest(0, n).proportion_ci(method="exact").high  # Clopper-Pearson, no event in n
    assert interval.method == "exact"
    assert interval.low == pytest.approx(value * (1 - exact))
    assert interval.high == pytest.approx(value + exact * (1 - value))


def test_constant_differences_may_move_both_ways():
    interval = bootstrap_mean([0.0] * 20, bounds=(-1.0, 1.0))
    assert interval.low == -interval.high < 0


@pytest.mark.parametrize("bad", [[], [0.0, math.nan], [0.0, 1.5]])
def test_the_bootstrap_refuses_what_is_not_a_score(bad):
    with pytest.raises(ValueError, match="at least one finite value"):
        bootstrap_mean(bad)


@pytest.mark.parametrize("truth", [[0.8, 0.1, 0.1], [0.64, 0.0, 0.36], [0.05, 0.1, 0.85]])
def test_the_bootstrap_interval_covers_the_true_mean(truth):
    rng, n_runs = np.random.default_rng(7), 400
    mean = float(np.dot(truth, SCORES))
    intervals = [bootstrap_mean(rng.choice(SCORES, 100, p=truth), n_resamples=2_000, seed=run) for run in range(n_runs)]
    coverage = np.mean([interval.low <= mean <= interval.high for interval in intervals])
    assert 0.92 <= coverage <= 0.985  # 95 % give or take 2.8 standard errors of 400 runs


@pytest.mark.parametrize(("k", "n"), [(0, 128), (1, 10), (21, 100), (64, 128), (128, 128), (1, 1)])
def test_wilson_is_that_of_statsmodels(k, n):
    from statsmodels.stats.proportion import proportion_confint

    interval = wilson(k, n)
    assert (interval.low, interval.high) == pytest.approx(proportion_confint(k, n, method="wilson"), abs=1e-12)


def test_wilson_gives_the_published_values():
    interval = wilson(81, 263)  # Newcombe 1998, Statistics in Medicine 17:857-872, table I: 0.2553 to 0.3662
    assert (round(interval.low, 4), round(interval.high, 4)) == (0.2553, 0.3662)


@pytest.mark.parametrize(("k", "n"), [(0, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_impossible_counts(k, n):
    with pytest.raises(ValueError, match="successes"):
        wilson(k, n)


def test_the_sign_flip_p_is_that_of_scipy():
    differences = np.array([0.5, 1.0, 0.0, -0.5, 1.0, 0.5, 0.5, -1.0, 1.0, 0.5])
    exact = stats.permutation_test(
        (differences, np.zeros(10)), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=np.inf
    )
    assert sign_flip_p(differences) == pytest.approx(exact.pvalue)
    assert sign_flip_p(differences, n_flips=100) == pytest.approx(
        exact.pvalue, abs=0.12
    )  # Monte Carlo, 3 sd of 100 flips


def test_the_sign_flip_p_gives_the_published_value_of_darwins_plants():
    # Fisher 1935, sections 17 and 21: differences in height of 15 pairs; 1726 of 32768 sign patterns reach the sum 314.
    darwin = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    assert sign_flip_p(darwin, n_flips=2**15) == pytest.approx(1726 / 32768)


def test_unscored_pairs_are_dropped_not_counted_as_zero():
    assert sign_flip_p([1.0, 1.0, 1.0, math.nan, math.nan]) == sign_flip_p([1.0, 1.0, 1.0]) == 0.25
    with pytest.raises(ValueError, match="no pair"):
        sign_flip_p([math.nan])


def test_equal_conditions_have_p_one_and_different_ones_a_small_p_that_is_never_zero():
    assert sign_flip_p([0.0] * 50) == 1.0
    assert sign_flip_p([1.0] * 50, n_flips=999) == pytest.approx(0.001)


def _null_sweep(rng, n_prompts=60, n_layers=32):
    """Differences of layers that all do nothing; a shared baseline makes them depend on each other."""
    baseline = rng.choice(SCORES, (n_prompts, 1), p=[0.6, 0.2, 0.2])
    return rng.choice(SCORES, (n_prompts, n_layers), p=[0.6, 0.2, 0.2]) - baseline


def test_max_t_keeps_the_family_wise_error_on_32_null_layers():
    rng, n_runs = np.random.default_rng(11), 300
    sweeps = [_null_sweep(rng) for _ in range(n_runs)]
    adjusted = np.mean([max_t_p(sweep, n_flips=400, seed=i).min() <= 0.05 for i, sweep in enumerate(sweeps)])
    unadjusted = np.mean([min(sign_flip_p(d, 400) for d in sweep.T) <= 0.05 for sweep in sweeps[:50]])
    assert adjusted <= 0.09  # 5 % plus 3 standard errors of 300 runs
    assert unadjusted > 0.25  # the negative control: without correction some null layer often "wins"


def test_max_t_is_no_stricter_than_holm_and_no_laxer_than_one_test():
    rng = np.random.default_rng(5)
    sweep = _null_sweep(rng, n_layers=8)
    sweep[:, 2] = np.where(rng.random(60) < 0.6, 1.0, sweep[:, 2])
    alone = np.array([sign_flip_p(d) for d in sweep.T])
    adjusted = max_t_p(sweep)
    assert np.all(adjusted >= alone - 0.01)  # Monte Carlo of 10,000 flips
    assert np.all(adjusted <= holm_p(alone) + 0.02)
    assert adjusted[2] < 0.01
    assert np.delete(adjusted, 2).min() > 0.2


def test_max_t_of_one_layer_is_the_plain_test():
    d = np.random.default_rng(2).choice([-0.5, 0.0, 0.5, 1.0], 40)
    assert max_t_p(d[:, None])[0] == pytest.approx(sign_flip_p(d), abs=0.01)


def test_max_t_of_identical_layers_pays_nothing_for_their_number():
    d = np.random.default_rng(2).choice([-0.5, 0.0, 0.5, 1.0], 40)
    assert max_t_p(np.column_stack([d] * 20)) == pytest.approx(max_t_p(d[:, None])[0])


def test_max_t_leaves_out_unscored_pairs():
    d = np.random.default_rng(4).choice([0.0, 0.5, 1.0], (30, 2))
    holes = np.vstack([d, [[math.nan, math.nan]] * 5])
    assert max_t_p(holes) == pytest.approx(max_t_p(d), abs=0.01)
    with pytest.raises(ValueError, match="scored pair"):
        max_t_p(np.full((5, 2), math.nan))


def test_a_layer_that_changes_nothing_has_adjusted_p_one():
    d = np.column_stack([np.ones(30), np.zeros(30)])
    first, second = max_t_p(d)
    assert first == 1 / 10_001 and second == 1.0  # the least p of 10,000 flips: never zero


def test_holm_is_that_of_statsmodels():
    from statsmodels.stats.multitest import multipletests

    p = np.random.default_rng(9).random(20) ** 3
    assert holm_p(p) == pytest.approx(multipletests(p, method="holm")[1])


@pytest.mark.parametrize("n", [5, 34, 100])
@pytest.mark.parametrize("n_tests", [1, 32])
def test_the_detectable_difference_is_that_of_statsmodels(n, n_tests):
    from statsmodels.stats.power import TTestPower

    theirs = TTestPower().solve_power(nobs=n, alpha=0.05 / n_tests, power=0.8)
    assert minimal_detectable_difference(1.0, n, n_tests) == pytest.approx(theirs, abs=1e-4)


def test_the_detectable_difference_gives_the_published_sample_size():
    # Cohen 1988 / G*Power: a medium effect (d = 0.5) in paired data takes 34 pairs for 80 % power
    assert minimal_detectable_difference(1.0, 34) < 0.5 < minimal_detectable_difference(1.0, 33)


def test_a_sign_flip_test_really_finds_the_detectable_share_four_times_in_five():
    rng, n = np.random.default_rng(1), 100
    share = minimal_detectable_share(n)
    found = np.mean([sign_flip_p((rng.random(n) < share).astype(float), 2_000) <= 0.05 for _ in range(300)])
    assert 0.65 <= found <= 0.95  # counts of flipped prompts are whole numbers, so power moves in steps of about 0.1


# ---------------------------------------------------------------- a run's tables

RV2, RV3 = (Condition(f"rv:L{layer}:a1", "rv", f"RV {layer}", 1.0, 1, (layer,), site="stream") for layer in (2, 3))


def _run(path, scores, judge="judge"):
    """A run whose verdicts are given: (condition, [compliance of prompt 0, 1, …]); None is unscored, "-" not judged,
    a pair is (compliance, coherence)."""
    path.mkdir(exist_ok=True)
    run = Run.create(
        path / "run",
        {"model": {}, "conditions": [c.to_json() for c, _ in scores], "prompt_sets": {}, "judges": {judge: {}}},
    )
    for condition, values in scores:
        for index, value in enumerate(values):
            key = item_id(condition.id, "harmful", f"p{index}")
            tags = {"category": "fraud" if index % 2 else "theft", "tier": 1 + index % 2}
            row = Generation(
                key,
                condition.id,
                "harmful",
                f"p{index}",
                "How?",
                sample=0,
                response=f"{value}",
                finish_reason="stop",
                n_prompt_tokens=1,
                n_tokens=1,
                **tags,
            )
            run.append_generations([row])
            if value is None:
                run.append_verdicts([Verdict(key, judge, UNSCORED, reason="judge refused")])
            elif value != "-":
                compliance, coherence = value if isinstance(value, tuple) else (value, 1.0)
                outcome = {0: "refusal", 0.5: "partial", 1: "compliance"}[compliance]
                run.append_verdicts([Verdict(key, judge, SCORED, compliance, coherence, outcome)])
    return run


def test_unscored_responses_are_counted_and_never_zero(tmp_path):
    run = _run(tmp_path, [(BASELINE, [0, 0, 0, 0]), (RV2, [1, None, "-", 0.5])])
    row = summarize(ScoredRun(run, "judge").scores(RV2, "harmful"))
    assert (row.n, row.n_scored, row.n_unscored) == (4, 2, 2)
    assert row.reasons == {"judge refused": 1, "not judged": 1}
    assert row.compliance.estimate == 0.75 and row.compliance.n == 2
    assert row.means["full"].estimate == 0.5 and row.means["refused"].estimate == 0


def test_a_prompt_that_a_condition_never_answered_is_unscored(tmp_path):
    run = _run(tmp_path, [(BASELINE, [0, 0, 0, 0]), (RV2, [1, 1])])
    row = summarize(ScoredRun(run, "judge").scores(RV2, "harmful"))
    assert (row.n, row.n_unscored, row.reasons) == (4, 2, {"not generated": 2})


def test_comparisons_use_only_prompts_scored_on_both_sides(tmp_path):
    run = _run(tmp_path, [(BASELINE, [0, None, 1, 0]), (RV2, [1, 1, None, 0.5])])
    row = summarize_all(ScoredRun(run, "judge"), "harmful")[1]
    assert row.n_pairs == 2 and row.change.estimate == 0.75


def test_layers_of_a_sweep_get_adjusted_p_and_other_conditions_do_not(tmp_path):
    sub = Condition("subspace:2-3:a1", "subspace", "L2-3", 1.0, 2, (2, 3), site="stream")
    run = _run(tmp_path, [(BASELINE, [0] * 12), (RV2, [1] * 9 + [0] * 3), (RV3, [0] * 12), (sub, [1] * 12)])
    baseline, rv2, rv3, subspace = summarize_all(ScoredRun(run, "judge"), "harmful")
    assert baseline.p is None and subspace.p_adjusted is None and subspace.p < 0.001
    assert rv2.p == pytest.approx(2 / 2**9) and rv2.p_holm == pytest.approx(4 / 2**9)
    assert rv2.p_adjusted == pytest.approx(rv2.p, abs=0.003) and rv3.p_adjusted == 1.0


def test_nothing_scored_is_an_error_that_says_why(tmp_path):
    run = _run(tmp_path, [(BASELINE, [0, 0]), (RV2, [None, None])])
    scored = ScoredRun(run, "judge")
    with pytest.raises(NoScoresError, match=r"rv:L2:a1.*0 of 2.*2 judge refused"):
        summarize(scored.scores(RV2, "harmful"))
    assert summarize_all(scored, "harmful")[1].compliance is None
    with pytest.raises(NoScoresError, match="baseline"):
        summarize_all(ScoredRun(_run(tmp_path / "other", [(BASELINE, [None])]), "judge"), "harmful")


def test_groups_partition_the_prompts(tmp_path):
    run = _run(tmp_path, [(BASELINE, [0, 1, 0, 1, None, 1])])
    scores = ScoredRun(run, "judge").scores(BASELINE, "harmful")
    tiers, categories = group_means(scores, "tier"), group_means(scores, "category")
    assert {tier: mean.estimate for tier, (mean, _) in tiers.items()} == {"1": 0.0, "2": 1.0}
    assert {name: n_unscored for name, (_, n_unscored) in categories.items()} == {"fraud": 0, "theft": 1}


def test_agreement_counts_equal_verdicts_and_equal_texts(tmp_path):
    checkpoint = Condition("checkpoint", "checkpoint", "W", 1.0, 1, (2,), site="weights")
    run = _run(tmp_path, [(BASELINE, [0] * 5), (RV2, [1, 1, 0, None, 0]), (checkpoint, [1, 0.5, 0, 1, (0, 0.5)])])
    found = agreement(ScoredRun(run, "judge"), "harmful", RV2, checkpoint)
    assert found.n_pairs == 4 and found.same_verdict.estimate == 0.5
    assert found.same_text == 2 / 5 and found.change.estimate == pytest.approx(-0.5 / 4)


def test_the_last_fifth_of_the_layers_is_no_candidate():
    assert [layer for layer in range(8) if not is_candidate(layer, 8)] == [7]
    assert [layer for layer in range(10) if not is_candidate(layer, 10)] == [8, 9]


def test_the_detectable_difference_grows_with_spread_and_with_tests():
    rng = np.random.default_rng(0)
    noisy, still = rng.choice([-1.0, 0.0, 1.0], 100), np.zeros(100)
    assert detectable_difference([noisy]) > detectable_difference([still]) == minimal_detectable_share(100)
    assert detectable_difference([noisy], 32) > detectable_difference([noisy])
    assert detectable_difference([np.where(np.arange(100) < 50, np.nan, noisy)]) > detectable_difference([noisy])


def _two_judges(path):
    run = _run(path, [(BASELINE, [0, 0])], judge="heuristic-v1")
    run.manifest.judges = {"heuristic-v1": {"kind": "heuristic"}, "model-x": {"kind": "llm"}}
    run.append_verdicts([Verdict(item_id("baseline", "harmful", "p0"), "model-x", SCORED, 1.0, 1.0, "compliance")])
    return run


def test_a_language_model_judge_is_preferred_and_never_mixed_with_the_heuristic_one(tmp_path):
    run = _two_judges(tmp_path)
    (preferred,) = open_scored([run])
    (asked_for,) = open_scored([run], "heuristic-v1")
    assert preferred.judge_id == "model-x" and not preferred.heuristic and asked_for.heuristic
    assert preferred.scores(BASELINE, "harmful").n_scored == 1 and asked_for.scores(BASELINE, "harmful").n_scored == 2


def test_a_judge_that_did_not_judge_is_refused(tmp_path):
    run, unjudged = _two_judges(tmp_path), _run(tmp_path / "b", [(BASELINE, ["-"])])
    with pytest.raises(JudgeChoiceError, match="'nobody'.*heuristic-v1, model-x"):
        open_scored([run], "nobody")
    with pytest.raises(NoScoresError, match="judge it first"):
        open_scored([unjudged])
    with pytest.raises(JudgeChoiceError, match="no judge scored all runs"):
        open_scored([run, _run(tmp_path / "c", [(BASELINE, [0])], judge="third")])


# ---------------------------------------------------------------- pieces


def test_step_down_p_never_falls_below_that_of_a_larger_statistic():
    # Box 2 of Ge, Dudoit & Speed 2003 by hand: hits 2 of 3 for the larger; none for the smaller, which takes over 3/4.
    flipped = np.array([[6.0, 0.0], [0.0, 0.0], [6.0, 0.0]])
    assert step_down(np.array([5.0, 4.0]), flipped).tolist() == [0.75, 0.75]
    assert step_down(np.array([4.0, 5.0]), flipped[:, ::-1]).tolist() == [0.75, 0.75]
    assert step_down(np.array([5.0, 4.0]), np.zeros((3, 2))).tolist() == [0.25, 0.25]


def test_a_prompt_scored_in_one_of_two_samples_has_that_value_and_half_a_share(tmp_path):
    run = _run(tmp_path, [(BASELINE, [1, 0])])
    first = run.generations()[0]
    second = replace(first, item_id=item_id("baseline", "harmful", "p0", 1), sample=1)
    run.append_generations([second])
    run.append_verdicts([Verdict(second.item_id, "judge", UNSCORED, reason="judge refused")])
    scores = ScoredRun(run, "judge").scores(BASELINE, "harmful")
    assert scores.compliance.tolist() == [1.0, 0.0] and scores.scored_share.tolist() == [0.5, 0.5]
    assert scores.reasons == {"judge refused": 1, "not generated": 1} and (scores.n, scores.n_scored) == (4, 2)
