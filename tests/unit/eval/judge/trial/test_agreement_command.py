"""`refusal agreement` shows how far the judges of a run agree, and refuses a run that has only one."""

import json

import pytest
from click.testing import CliRunner

from eval.commands.agreement import agreement
from eval.judge.trial.side_by_side import AgreementError, judges_side_by_side
from eval.records.rows import SCORED, UNSCORED, Verdict
from tests.judge_endpoint import make_run


def verdicts(run, judge_id, scores, repeat=0):
    """One verdict per response; None is unscored."""
    items = run.generations()
    return [
        Verdict(item.item_id, judge_id, UNSCORED, reason="unreadable answer", repeat=repeat)
        if score is None
        else Verdict(item.item_id, judge_id, SCORED, score, 1.0, "other", repeat=repeat)
        for item, score in zip(items, scores, strict=True)
    ]


@pytest.fixture
def run(tmp_path):
    run = make_run(tmp_path / "run", [f"answer {i}" for i in range(8)])
    run.append_verdicts(verdicts(run, "llm:a", [0.0, 0.0, 0.0, 0.5, 0.5, 1.0, 1.0, None]))
    run.append_verdicts(verdicts(run, "llm:b", [0.0, 0.0, 0.5, 0.5, 1.0, 1.0, 1.0, 1.0]))
    return run


def test_two_judges_are_compared_on_what_both_scored(run):
    (pair,), alpha = judges_side_by_side(run)
    assert (pair.first, pair.second, pair.n) == ("llm:a", "llm:b", 7)
    assert pair.confusion == ((2, 1, 0), (0, 1, 1), (0, 0, 2))
    # by hand: binary po = 6/7, pe = (3*2 + 4*5)/49 = 26/49
    assert pair.kappa_binary == pytest.approx((6 / 7 - 26 / 49) / (1 - 26 / 49))
    # statsmodels 0.15: cohens_kappa([[2,1,0],[0,1,1],[0,0,2]], wt="linear").kappa
    assert pair.kappa_weighted == pytest.approx(0.6956521739130435)
    assert 0.5 < pair.alpha < 1.0 and alpha == pytest.approx(pair.alpha)


def test_a_third_judge_adds_pairs_and_counts_in_the_common_alpha(run):
    run.append_verdicts(verdicts(run, "heuristic:1", [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]))
    pairs, alpha = judges_side_by_side(run)
    assert [(pair.first, pair.second, pair.n) for pair in pairs] == [
        ("heuristic:1", "llm:a", 7),
        ("heuristic:1", "llm:b", 8),
        ("llm:a", "llm:b", 7),
    ]
    assert pairs[0].kappa_binary < 0 < pairs[2].kappa_binary and alpha < pairs[2].alpha


def test_of_repeats_the_first_scored_one_counts(run):
    before = judges_side_by_side(run)
    run.append_verdicts(verdicts(run, "llm:b", [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], repeat=1))
    assert judges_side_by_side(run) == before
    run.append_verdicts(verdicts(run, "llm:a", [None] * 7 + [1.0], repeat=1))
    assert judges_side_by_side(run)[0][0].n == 8


def test_a_run_with_one_judge_is_refused_in_one_line(tmp_path):
    run = make_run(tmp_path / "run", ["a", "b"])
    run.append_verdicts(verdicts(run, "llm:a", [0.0, 1.0]))
    with pytest.raises(AgreementError, match="needs two judges .*found: llm:a"):
        judges_side_by_side(run)


def test_the_command_prints_tables_and_json(run):
    text = CliRunner().invoke(agreement, [str(run.path)])
    assert text.exit_code == 0 and "7 responses scored by both" in text.output and "2 judges together" in text.output
    record = json.loads(CliRunner().invoke(agreement, [str(run.path), "--json"]).stdout)
    assert record["pairs"][0]["confusion"] == [[2, 1, 0], [0, 1, 1], [0, 0, 2]]


def test_judges_without_variation_have_no_kappa_and_no_nan_in_json(tmp_path):
    run = make_run(tmp_path / "run", ["a", "b"])
    for judge_id in ("llm:a", "llm:b"):
        run.append_verdicts(verdicts(run, judge_id, [1.0, 1.0]))
    assert "undefined (no variation)" in CliRunner().invoke(agreement, [str(run.path)]).output
    record = json.loads(CliRunner().invoke(agreement, [str(run.path), "--json"]).stdout)
    assert record["pairs"][0]["kappa_binary"] is None and record["alpha_all"] is None
