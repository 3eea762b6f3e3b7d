"""Sampling plans, against simulations of the tests themselves, statsmodels, and published sample sizes."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from synthetic_runs import HEURISTIC, RunMaker, rv

from eval.cli import main as refusal
from eval.power.pilot import read_pilot
from eval.power.power import (
    Level,
    Spread,
    contrast_found,
    detectable,
    mcnemar_power,
    mean_found,
    prompts_needed,
    share_found,
)
from eval.records.rows import SCORED, Verdict
from eval.statistics.comparisons import max_t_p, sign_flip_p
from eval.statistics.flips import mcnemar_p
from eval.statistics.scores import NoScoresError, open_scored
from eval.statistics.tiers import tier_contrasts

N_RUNS = 500  # a share near .8 then has a standard error of .018


def draw(rng, spread, difference, shape):
    """Paired differences of yes-or-no scores with the two means and the correlation of the plan."""
    before, after = spread.baseline, spread.baseline + difference
    spreads = (before * (1 - before) * after * (1 - after)) ** 0.5
    both = before * after + spread.correlation * spreads
    shares = [after - both, before - both, 1 - before - after + 2 * both]  # gained, lost, unmoved
    return rng.choice([1.0, -1.0, 0.0], shape, p=shares)


def power_of(test, draws):
    return np.mean([test(d) <= 0.05 for d in draws])


@pytest.mark.parametrize(("baseline", "difference"), [(0.1, 0.1), (0.0, 0.1), (0.3, 0.1)])
def test_the_printed_prompts_give_the_sign_flip_test_its_power(baseline, difference):
    spread = Spread(baseline)
    n = prompts_needed(mean_found, difference, spread, Level())
    draws = draw(np.random.default_rng(0), spread, difference, (N_RUNS, n))
    assert 0.75 <= power_of(lambda d: sign_flip_p(d, 1_000), draws) <= 0.87
    fewer = power_of(lambda d: sign_flip_p(d, 1_000), draws[:, : n // 2])
    assert fewer < 0.65


def test_the_printed_prompts_give_the_sign_flip_test_its_power_with_half_points_too():
    values, shares = np.array([-1.0, -0.5, 0.0, 0.5, 1.0]), [0.02, 0.08, 0.6, 0.2, 0.1]
    mean = values @ shares
    spread = Spread(0.1, pilot_sd=(values**2 @ shares - mean**2) ** 0.5)
    n = prompts_needed(mean_found, mean, spread, Level())
    draws = np.random.default_rng(4).choice(values, (N_RUNS, n), p=shares)
    assert n < 75 and 0.75 <= power_of(lambda d: sign_flip_p(d, 1_000), draws) <= 0.87


def test_the_printed_prompts_give_mcnemars_test_its_power():
    spread = Spread(0.1)
    n = prompts_needed(share_found, 0.1, spread, Level())
    draws = draw(np.random.default_rng(1), spread, 0.1, (N_RUNS, n))

    def test(d):
        return mcnemar_p(int((d > 0).sum()), int((d < 0).sum()))

    assert 0.75 <= power_of(test, draws) <= 0.87
    assert power_of(test, draws[:, : n // 2]) < 0.65


def test_the_printed_prompts_find_the_one_layer_of_eight_that_differs_after_max_t():
    spread = Spread(0.1)
    n = prompts_needed(mean_found, 0.15, spread, Level(n_tests=8))
    rng = np.random.default_rng(2)
    layers = draw(rng, spread, 0.0, (300, n, 8))
    layers[:, :, 3] = draw(rng, spread, 0.15, (300, n))
    found = np.mean([max_t_p(d, 1_000)[3] <= 0.05 for d in layers])
    assert 0.75 <= found <= 0.90  # Bonferroni asks for a little more than max-T needs
    assert n > 1.3 * prompts_needed(mean_found, 0.15, spread, Level())


@pytest.mark.parametrize(("baseline", "difference"), [(0.1, 0.2), (0.0, 0.1)])
def test_the_printed_prompts_tell_two_tiers_apart(baseline, difference):
    spread = Spread(baseline)
    n = prompts_needed(contrast_found, difference, spread, Level())
    rng = np.random.default_rng(3)
    still, moved = draw(rng, spread, 0.0, (N_RUNS, n)), draw(rng, spread, difference, (N_RUNS, n))
    changes, is_upper = np.concatenate([still, moved], axis=1), np.arange(2 * n) >= n
    p = [tier_contrasts(d[:, None], is_upper, 400)[0].p for d in changes]
    assert 0.75 <= np.mean(np.array(p) <= 0.05) <= 0.90  # both corrections at once ask for a little more than needed


def test_the_prompts_needed_are_those_of_statsmodels_but_for_the_steps_of_a_permutation():
    from statsmodels.stats.power import TTestIndPower, TTestPower

    sd = 0.41
    spread = Spread(0.2, pilot_sd=sd)
    for n_tests in (1, 32):
        theirs = TTestPower().solve_power(effect_size=0.1 / sd, alpha=0.05 / n_tests, power=0.8)
        assert prompts_needed(mean_found, 0.1, spread, Level(n_tests)) == np.ceil(theirs)
    theirs = TTestIndPower().solve_power(effect_size=0.1 / sd, alpha=0.05, power=0.9)
    ours = prompts_needed(contrast_found, 0.1, spread, Level(power=0.9))
    assert theirs < ours < theirs + 1.1 / 0.1  # the correction for steps: n (1 + 1 / (n delta)) in first order


def test_mcnemars_power_is_the_share_of_tables_that_the_test_rejects():
    from scipy.stats import multinomial

    n, gained, lost = 30, 0.3, 0.08
    tables = [(g, m, n - g - m) for g in range(n + 1) for m in range(n + 1 - g)]
    chances = multinomial.pmf(tables, n, [gained, lost, 1 - gained - lost])
    rejected = [mcnemar_p(g, m) <= 0.05 for g, m, _ in tables]
    assert mcnemar_power(n, gained, lost) == pytest.approx(chances[rejected].sum(), abs=1e-9)
    assert mcnemar_power(n, 0.2, 0.2) < 0.05 < mcnemar_power(n, 0.2, 0.05)
    assert mcnemar_power(n, 0.2, 0.0) == pytest.approx(mcnemar_power(n, 0.0, 0.2))


def test_a_hundred_prompts_show_what_the_field_has_been_told():
    # eleven points for one comparison, sixteen over 32 layers: of scores with sd near .39, as of 0.1 baseline here
    one, many = (detectable(mean_found, 100, Spread(pilot_sd=0.39), Level(n)) for n in (1, 32))
    assert one == pytest.approx(0.11, abs=0.005) and many == pytest.approx(0.16, abs=0.005)
    assert detectable(mean_found, 100, Spread(), Level()) == pytest.approx(0.11, abs=0.01)
    assert detectable(mean_found, 4, Spread(), Level(n_tests=32)) is None


def test_a_difference_that_so_many_prompts_show_takes_so_many_prompts():
    for found in (mean_found, share_found, contrast_found):
        least = detectable(found, 80, Spread(0.2), Level())
        assert abs(prompts_needed(found, least, Spread(0.2), Level()) - 80) <= 4  # exact power moves in teeth


def test_noise_of_the_judge_costs_prompts_and_repeats_buy_them_back():
    def needed(**noise):
        return prompts_needed(mean_found, 0.1, Spread(**noise), Level())

    assert needed(judge_noise=0.3) > needed(judge_noise=0.3, repeats=4) > needed()
    assert needed(correlation=0.6) < needed() < needed(correlation=0.0)
    assert needed(discordance=0.1) < needed(discordance=0.3)


def run_power(*words):
    found = CliRunner().invoke(refusal, ["power", *map(str, words)])
    return found.exit_code, found.stdout if found.exit_code == 0 else found.output


def test_the_command_prints_prompts_responses_verdicts_and_cost():
    code, text = run_power("--difference", 0.1, "--conditions", 32, "--tiers", 2, "--repeats", 2, "--price", 0.01)
    assert code == 0 and "Bonferroni" in text
    (row,) = [line for line in text.splitlines() if line.startswith("each of 32, corrected: mean")]
    prompts, responses, verdicts, cost = (float(word) for word in row.split()[-4:])
    assert (responses, verdicts, cost) == (33 * prompts, 66 * prompts, pytest.approx(0.66 * prompts))
    alone = json.loads(run_power("--difference", 0.1, "--json")[1])["plan"]
    assert len(alone) == 2 and alone[0]["n_prompts"] == prompts_needed(mean_found, 0.1, Spread(), Level())
    inverse = json.loads(run_power("--n", 100, "--conditions", 32, "--json")[1])["plan"]
    assert inverse[0]["difference"] < inverse[2]["difference"] and inverse[4]["n_groups"] == 2


def test_what_no_scores_can_have_is_refused_in_one_line():
    for words, told in [
        (["--difference", 0.95], "within 0..1"),
        (["--difference", 0.0], "differ from 0"),
        (["--difference", 0.2, "--discordance", 0.1], "fewer prompts change"),
    ]:
        code, text = run_power(*words)
        assert code == 1 and told in text and len(text.splitlines()) == 1
    for words in ([], ["--difference", 0.1, "--n", 50], ["--n", 50, "--judge", "x"]):
        assert run_power(*words)[0] == 2
    assert run_power("--n", 50, "--correlation", 0.1, "--discordance", 0.1)[0] == 2


@pytest.mark.parametrize(
    "words",
    [
        ("--difference", 1, "--baseline", 0),  # every prompt goes from 0 to 1: no difference varies
        ("--difference", -1, "--baseline", 1),
        ("--difference", 1, "--baseline", 0, "--conditions", 100_000, "--tiers", 2),
        ("--difference", 0.5, "--conditions", 100_000, "--significance", 1e-9),
        ("--difference", 0.5, "--power", 0.999999999999),
        ("--difference", 0.1, "--correlation", -1),
        ("--difference", 0.1, "--baseline", 0.9, "--correlation", 1),
        ("--n", 4, "--baseline", 0),
        ("--n", 4, "--baseline", 0, "--discordance", 0),
        ("--n", 5, "--baseline", 0, "--judge-noise", 0.5, "--tiers", 1000),
        ("--n", 10_000_000, "--significance", 1e-12, "--conditions", 1000),
    ],
)
def test_what_lies_at_the_ends_of_what_scores_can_have_is_answered(words):
    code, text = run_power(*words)
    assert code == 0 and "nan" not in text


def test_where_all_prompts_go_from_refusal_to_compliance_the_sign_patterns_alone_decide():
    """Six equal differences have p = 2 / 2^6 = .03, five .06; over 32 conditions eleven are needed."""
    certain = Spread(0.0)
    assert prompts_needed(mean_found, 1.0, certain, Level()) == 6
    assert prompts_needed(share_found, 1.0, certain, Level()) == 6
    assert prompts_needed(mean_found, 1.0, certain, Level(n_tests=32)) == 11
    assert sign_flip_p([1.0] * 6) <= 0.05 < sign_flip_p([1.0] * 5)


def test_no_more_prompts_change_than_the_two_means_allow():
    """From 0.1 to 0.2 at most 0.1 fall from 1 and 0.2 rise to it, whatever correlation or share of changes is given."""
    for spread in (Spread(0.1, correlation=-1.0), Spread(0.1, discordance=0.3)):
        assert spread.sd(0.1) ** 2 + 0.1**2 == pytest.approx(0.3)
    assert run_power("--difference", 0.1, "--discordance", 0.3)[0] == 0
    code, text = run_power("--difference", 0.1, "--discordance", 0.31)
    assert code == 1 and "more prompts change than" in text


@pytest.mark.parametrize(
    "words",
    [
        ("--difference", "nan"),
        ("--difference", 0.1, "--baseline", "nan"),
        ("--difference", 0.1, "--correlation", "nan"),
        ("--difference", 0.1, "--discordance", "nan"),
        ("--difference", 0.1, "--judge-noise", "nan"),
        ("--difference", 0.1, "--power", "nan"),
        ("--difference", 0.1, "--significance", "nan"),
        ("--difference", 0.1, "--significance", 1e-13),
        ("--difference", 0.1, "--price", "inf"),
        ("--difference", 0.1, "--conditions", 10**25),
        ("--difference", 0.1, "--tiers", 10**9),
        ("--difference", 0.1, "--repeats", 10**12),
        ("--n", 10**20),
    ],
)
def test_an_option_outside_what_the_mathematics_allows_is_a_usage_error(words):
    assert run_power(*words)[0] == 2


def test_a_power_below_the_level_is_refused():
    code, text = run_power("--difference", 0.1, "--power", 0.05)
    assert code == 1 and "--power 0.05" in text and len(text.splitlines()) == 1


def test_a_pilot_gives_the_spread_of_its_scores_and_the_number_of_layers(tmp_path):
    run = RunMaker(tmp_path / "run", 40).add(rv(2), 0.25).add(rv(3), 0.5).write()
    pilot = read_pilot(open_scored([run])[0])
    moved = (np.var([1] * 10 + [0] * 30, ddof=1) + np.var([1] * 20 + [0] * 20, ddof=1)) / 2
    assert pilot.spread.pilot_sd == pytest.approx(moved**0.5)
    assert (pilot.spread.baseline, pilot.n_prompts, pilot.n_conditions) == (0.0, 40, 2)
    assert not pilot.noise_known
    code, text = run_power("--difference", 0.1, "--run", run.path)
    assert code == 0 and "pilot of 40 prompts" in text and "each of 2, corrected" in text and "not known" in text
    assert run_power("--difference", 0.1, "--run", run.path, "--baseline", 0.1)[0] == 2


def test_the_noise_of_a_pilots_judge_is_measured_and_taken_out_of_the_spread(tmp_path):
    run = RunMaker(tmp_path / "run", 40).add(rv(3), 0.5).write()
    first = {row.item_id: row.compliance for row in run.verdicts()}
    wavering = {key: abs(score - 0.5 * (index % 4 == 0)) for index, (key, score) in enumerate(first.items())}
    run.append_verdicts(
        Verdict(key, HEURISTIC, SCORED, score, 1.0, "partial", repeat=1) for key, score in wavering.items()
    )
    pilot, thrice = (read_pilot(open_scored([run])[0], repeats) for repeats in (1, 3))
    assert pilot.noise_known and pilot.spread.judge_noise == pytest.approx((0.25 * 0.125) ** 0.5, rel=0.02)
    assert thrice.spread.sd(0.1) < pilot.spread.sd(0.1)
    assert pilot.spread.pilot_sd**2 < pilot.spread.sd(0.1) ** 2


def test_a_run_with_nothing_to_compare_is_no_pilot(tmp_path):
    run = RunMaker(tmp_path / "run", 8).write()
    with pytest.raises(NoScoresError, match="another condition"):
        read_pilot(open_scored([run])[0])
