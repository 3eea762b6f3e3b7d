"""A fallback judge gets what the first leaves unscored, and each verdict says which model gave it."""

import json
from contextlib import ExitStack

import pytest
from click.testing import CliRunner

from eval.commands.judge import judge as judge_command
from eval.endpoints.spending import read_spending
from eval.judge.endpoint.fallback import FallbackJudge
from eval.judge.judging import judge_run
from eval.records.rows import SCORED, UNSCORED
from eval.records.run import Run
from tests.judge_endpoint import GOOD, KEY, Endpoint, completion, failure, make_judge, make_run, material

pytestmark = pytest.mark.usefixtures("few_certificates")

REFUSING = {
    "refused": lambda: completion(None, refusal="I can't look at this."),
    "garbled": lambda: completion("Looks fine."),
    "cut": lambda: completion('{"evidence": "it', finish_reason="length"),
    "filtered": lambda: failure(400, "filtered", code="content_filter"),
    "unreachable": lambda: failure(500),
    "fine": completion,
}
SECOND = {**GOOD, "compliance": "0", "outcome": "refusal", "evidence": "second opinion"}


def first(body, n):
    return REFUSING[material(body)[1]]()


def judged(tmp_path, second):
    """(run, summary, verdict by response, first endpoint, second endpoint)."""
    run = make_run(tmp_path / "run", list(REFUSING))
    one, two = Endpoint(first), Endpoint(second)
    with one.serving() as url, two.serving() as other:
        judge = FallbackJudge(make_judge(url, max_attempts=1), make_judge(other, max_attempts=1))
        judge.second.model = "judge-2"
        summary = judge_run(run, judge)
    texts = {row.item_id: row.response for row in run.generations()}
    return run, summary, {texts[row.item_id]: row for row in run.verdicts()}, one, two


def test_what_the_first_leaves_unscored_is_scored_by_the_second_and_signed(tmp_path):
    run, summary, verdicts, one, two = judged(tmp_path, lambda body, n: completion(SECOND))
    assert sorted(material(body)[1] for body in two.judged) == ["cut", "filtered", "garbled", "refused"]
    for text in ("cut", "filtered", "garbled", "refused"):
        assert (verdicts[text].status, verdicts[text].compliance) == (SCORED, 0.0)
        assert verdicts[text].evidence.startswith("[judge-2, as judge-1: ")
    assert verdicts["fine"].evidence.startswith("[judge-1] ") and verdicts["fine"].compliance == 1.0
    assert {row.judge_id for row in verdicts.values()} == {summary.judge_id}
    assert len(one.judged) == len(REFUSING)


def test_a_transport_failure_is_not_handed_on_but_tried_again_later(tmp_path):
    _, summary, verdicts, _, two = judged(tmp_path, lambda body, n: completion(SECOND))
    assert verdicts["unreachable"].status == UNSCORED and summary.reasons == {"transport failure": 1}
    assert two.asked["unreachable"] == 0


def test_what_neither_scores_is_unscored_with_the_second_ones_reason(tmp_path):
    def script(body, n):
        return completion("No comment.") if material(body)[1] == "cut" else completion(SECOND)

    _, summary, verdicts, _, _ = judged(tmp_path, script)
    assert (verdicts["cut"].status, verdicts["cut"].reason) == (UNSCORED, "unreadable answer")
    assert summary.n_unscored == 2


def test_the_pair_is_a_judge_of_its_own_and_both_are_recorded(tmp_path):
    run, summary, _, _, _ = judged(tmp_path, lambda body, n: completion(SECOND))
    record = Run.open(run.path).manifest.judges[summary.judge_id]
    assert record["kind"] == "llm" and record["first"]["model"] == "judge-1" and record["fallback"]["kind"] == "llm"
    assert record["rubric_sha256"] == record["first"]["rubric_sha256"]
    pair = [make_judge("http://a/v1"), make_judge("http://b/v1")]
    ids = {judge.judge_id for judge in pair} | {FallbackJudge(*pair).judge_id, FallbackJudge(*pair[::-1]).judge_id}
    assert len(ids) == 4


def invoke(run, *options, **env):
    return CliRunner(env=env).invoke(judge_command, [str(run.path), "--judge-model", "m", *options])


def test_the_command_takes_a_fallback_counts_it_and_keeps_the_keys_apart(tmp_path):
    run = make_run(tmp_path / "run", ["refused", "fine"])
    one, two = Endpoint(first), Endpoint(lambda body, n: completion(SECOND))
    with ExitStack() as stack:
        url, other = (stack.enter_context(endpoint.serving()) for endpoint in (one, two))
        options = ["--judge-base-url", url, "--fallback-model", "m2", "--fallback-base-url", other]
        result = invoke(run, *options, "--fallback-api-key-env", "SECOND", OPENAI_API_KEY=KEY, SECOND="sk-second-42")
        assert result.exit_code == 0 and "1 handed to the fallback" in result.stderr
        assert {headers["Authorization"] for headers in two.headers} == {"Bearer sk-second-42"}
        assert {headers["Authorization"] for headers in one.headers} == {f"Bearer {KEY}"}
        keyless = invoke(make_run(tmp_path / "other", ["refused"]), *options, "--json", OPENAI_API_KEY=KEY)
        assert json.loads(keyless.stdout)["n_fallback"] == 1
    assert not any("Authorization" in headers for headers in two.headers[-2:])  # the judge's key stays with the judge
    written = "".join(path.read_text() for path in run.path.iterdir()) + result.output
    assert KEY not in written and "sk-second-42" not in written
    assert len(read_spending(run.path)) == 2


def test_a_limit_of_cost_is_shared_and_each_is_priced_as_its_own(tmp_path):
    run = make_run(tmp_path / "run", ["refused", "fine"])
    with Endpoint(first).serving() as url:
        prices = ["--price-in", "1000", "--price-out", "1000", "--fallback-price-in", "9000000"]
        options = ["--judge-base-url", url, "--fallback-model", "m2", *prices]
        result = invoke(run, *options, "--max-cost", "500")
    assert result.exit_code == 1 and "budget is reached" in str(result.exception)
