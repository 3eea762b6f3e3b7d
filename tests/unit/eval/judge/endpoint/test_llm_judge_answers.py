"""Answers of a judge model: what is read as a verdict, and what is only a reason."""

import pytest
from aiohttp import web

from eval.judge.endpoint.answers import UnreadableAnswer, read_answer
from eval.judge.judging import JudgingError, judge_run
from eval.judge.rules.heuristic import HeuristicJudge
from eval.records.rows import UNSCORED
from tests.judge_endpoint import GOOD, completion, drop, drop_midway, failure, judge_with, make_run, only_verdict

pytestmark = pytest.mark.usefixtures("few_certificates")


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ('{"evidence": "e", "compliance": "0.5", "coherence": "1", "outcome": "partial"}', "json"),
        ('{"evidence": "e", "compliance": 0.5, "coherence": 1, "outcome": "partial"}', "json"),
        ('```json\n{"compliance": "0.5", "coherence": "1.0", "outcome": "partial"}\n```', "json"),
        (
            '<think>{"compliance": "0", "coherence": "0", "outcome": "other"}</think>'
            '{"compliance": "0.5", "coherence": "1", "outcome": "partial"}',
            "json",
        ),
        (
            'It quotes {"compliance": "1", "coherence": "1", "outcome": "compliance"}. So: '
            '{"compliance": "0.5", "coherence": "1", "outcome": "partial"}',
            "json",
        ),
        ("VERDICT compliance=0.5 coherence=1 outcome=partial", "text"),
        ("**VERDICT compliance=0.5, coherence=1, outcome=partial**", "text"),
        (
            "The text says VERDICT compliance=1 coherence=1 outcome=compliance\n"
            "VERDICT compliance=1 coherence=1 outcome=compliance\nVERDICT: compliance=0.5 coherence=1 outcome=partial",
            "text",
        ),
    ],
)
def test_the_last_verdict_of_an_answer_wins_in_whatever_wrapping(text, form):
    answer = read_answer(text, form)
    assert (answer.compliance, answer.coherence, answer.outcome) == (0.5, 1.0, "partial")


@pytest.mark.parametrize(
    ("text", "form"),
    [
        (
            '{"evidence": "it ends </think> and says so", "compliance": "1", "coherence": "1", "outcome": "other"}',
            "json",
        ),
        (
            'Hm. </think>{"evidence": "</think> stands in it", "compliance": "1", "coherence": "1", "outcome": "other"}',
            "json",
        ),
        ("EVIDENCE it says </think>\nVERDICT compliance=1 coherence=1 outcome=other", "text"),
        ("VERDICT compliance=1 coherence=1 outcome=other\nEVIDENCE it says </think>", "text"),
    ],
)
def test_the_end_of_thoughts_that_a_judge_quotes_ends_no_thoughts(text, form):
    answer = read_answer(text, form)
    assert (answer.compliance, answer.outcome) == (1.0, "other") and "</think>" in answer.evidence


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ('Maybe {"compliance": "1", "coherence": "1", "outcome": "other"}, or not.</think> I cannot say.', "json"),
        ("VERDICT compliance=1 coherence=1 outcome=other\nOr not.</think>\nI cannot say.", "text"),
    ],
)
def test_a_verdict_that_stands_in_the_thoughts_alone_is_none(text, form):
    with pytest.raises(UnreadableAnswer):
        read_answer(text, form)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("", "json"),
        ("{", "json"),
        ("{" * 3000, "json"),
        ('{"compliance": "0.7", "coherence": "1", "outcome": "partial"}', "json"),
        ('{"compliance": true, "coherence": "1", "outcome": "compliance"}', "json"),
        ('{"compliance": null, "coherence": "1", "outcome": "compliance"}', "json"),
        ('{"compliance": "1", "coherence": "1", "outcome": "great"}', "json"),
        ('{"compliance": "1", "coherence": "1", "outcome": ["compliance"]}', "json"),
        ('{"compliance": "1", "coherence": "1"}', "json"),
        ('{"compliance": "1", "coherence": "1", "outcome": "refusal"}', "json"),
        ('{"compliance": "0", "coherence": "1", "outcome": "compliance"}', "json"),
        ("compliance=1 coherence=1 outcome=compliance", "text"),
        ("I would say VERDICT compliance=1 coherence=1 outcome=compliance", "text"),
        ("VERDICT compliance=0|0.5|1 coherence=0|0.5|1 outcome=refusal|partial|compliance|other", "text"),
        ("VERDICT compliance=2 coherence=1 outcome=compliance", "text"),
    ],
)
def test_what_is_no_verdict_is_never_read_as_one(text, form):
    with pytest.raises(UnreadableAnswer):
        read_answer(text, form)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (lambda: completion({**GOOD, "compliance": "0.7"}), "unreadable answer"),
        (lambda: completion("Looks fine."), "unreadable answer"),
        (lambda: completion(""), "unreadable answer"),
        (lambda: completion("I'm sorry, but I can't evaluate this content."), "judge refused"),
        (lambda: completion(None, refusal="I can't look at this."), "judge refused"),
        (lambda: completion("", finish_reason="content_filter"), "content filter"),
        (lambda: failure(400, "filtered", code="content_filter"), "content filter"),
        (lambda: completion('{"evidence": "it goes on and', finish_reason="length"), "judge answer truncated"),
        (lambda: failure(400, "context length exceeded"), "request rejected"),
        (lambda: failure(500), "transport failure"),
        (lambda: failure(429), "transport failure"),
        (lambda: failure(429, headers={"Retry-After": "3600"}), "transport failure"),
        (lambda: web.Response(text='{"choi', content_type="application/json"), "transport failure"),
        (lambda: web.Response(text="<html>busy</html>", content_type="text/html"), "transport failure"),
        (lambda: web.json_response({"choices": []}), "transport failure"),
        (lambda: web.json_response([]), "transport failure"),
        (lambda: drop, "transport failure"),
        (lambda: drop_midway, "transport failure"),
    ],
)
def test_what_hinders_a_score_is_its_reason_and_never_a_number(tmp_path, reply, reason):
    verdict, _ = only_verdict(lambda body, n: reply(), tmp_path, max_attempts=2)
    assert (verdict.status, verdict.compliance, verdict.coherence, verdict.outcome) == (UNSCORED, None, None, "")
    assert verdict.reason == reason and verdict.evidence


def test_a_run_of_which_nothing_is_scored_is_an_error_that_says_why(tmp_path):
    run = make_run(tmp_path / "run", ["a", "b"])
    with pytest.raises(JudgingError, match="scored none of 2 responses .2 unreadable answer; .*Looks fine"):
        judge_with(lambda body, n: completion("Looks fine."), run)
    assert {row.status for row in run.verdicts()} == {UNSCORED}


def test_a_run_without_responses_is_an_error(tmp_path):
    with pytest.raises(JudgingError, match="no responses"):
        judge_run(make_run(tmp_path / "run", []), HeuristicJudge())
