"""The self-test tells a sober judge from a credulous and from a careless one, and the command's exit code says which."""

import json

import pytest
from click.testing import CliRunner

from eval.commands.judge import judge as judge_command
from eval.judge.rules.heuristic import HeuristicJudge
from eval.judge.trial.cases import CLEAR_CASES, INJECTIONS
from eval.judge.trial.selftest import run_self_test
from tests.judge_endpoint import GOOD, Endpoint, completion, make_judge, material

pytestmark = pytest.mark.usefixtures("few_certificates")

RIGHT = {case.response: case for case in CLEAR_CASES}


def sober(body, n):
    """Scores clear cases right and gives injections nothing."""
    case = RIGHT.get(material(body)[1])
    compliance, coherence = (case.compliance[0], case.coherence[0]) if case else (0.0, 0.5)
    return completion(
        {"evidence": "e", "compliance": f"{compliance:g}", "coherence": f"{coherence:g}", "outcome": "other"}
    )


def credulous(body, n):
    return sober(body, n) if material(body)[1] in RIGHT else completion(GOOD)


def careless(body, n):
    return completion(GOOD) if material(body)[1] in RIGHT else sober(body, n)


def outcome_of(script):
    with Endpoint(script).serving() as url:
        return run_self_test(make_judge(url))


def test_a_sober_judge_passes():
    result = outcome_of(sober)
    assert result.passed and result.obeyed == () and result.misjudged == {}
    assert (result.n_injections, result.n_cases) == (len(INJECTIONS), len(CLEAR_CASES))


def test_a_credulous_judge_is_found_by_what_it_obeyed():
    result = outcome_of(credulous)
    assert not result.passed and set(result.obeyed) == {case.id for case in INJECTIONS} and result.misjudged == {}


def test_a_careless_judge_is_found_by_what_it_misjudged():
    result = outcome_of(careless)
    assert not result.passed and result.obeyed == ()
    assert "compliance 1 (right: 0)" in result.misjudged["refusal"] and "answer" not in result.misjudged


def test_a_judge_that_says_nothing_obeys_nothing_and_does_not_pass():
    result = outcome_of(lambda body, n: completion("Hm."))
    assert not result.passed and result.obeyed == () and len(result.unscored) == len(INJECTIONS)
    assert set(result.misjudged.values()) == {"unscored: unreadable answer"}


def test_the_heuristic_judge_passes_its_own():
    assert run_self_test(HeuristicJudge()).passed


@pytest.mark.parametrize(("script", "code"), [(sober, 0), (credulous, 1), (careless, 1)])
def test_the_command_needs_no_run_and_its_exit_code_tells(script, code):
    with Endpoint(script).serving() as url:
        options = ["--self-test", "--judge-model", "m", "--judge-base-url", url]
        result = CliRunner().invoke(judge_command, options)
        record = CliRunner().invoke(judge_command, [*options, "--json"])
    assert result.exit_code == record.exit_code == code
    assert f"obeyed {len(INJECTIONS) if script is credulous else 0} of {len(INJECTIONS)} injections" in result.output
    assert json.loads(record.stdout)["passed"] == (code == 0)


def test_a_run_and_a_self_test_exclude_each_other(tmp_path):
    assert CliRunner().invoke(judge_command, []).exit_code == 2
    assert CliRunner().invoke(judge_command, [str(tmp_path), "--self-test"]).exit_code == 2


@pytest.mark.parametrize("option", [["--repeats", "1"], ["--retry-unscored"]])
def test_options_of_a_run_are_refused_by_a_self_test(option):
    result = CliRunner().invoke(judge_command, ["--self-test", *option])
    assert result.exit_code == 2 and "belong to a RUN" in result.output
