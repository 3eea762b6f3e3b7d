"""Judging a run: each distinct response once per repeat, resumable in every part, and counted as it is."""

import asyncio
import json
from collections import Counter
from dataclasses import replace

import pytest

from eval.judge.docket import Docket
from eval.judge.endpoint.client import Completion, JudgeClient, JudgeEndpointError
from eval.judge.endpoint.endpoint_judge import EndpointJudge
from eval.judge.judging import JudgingError, judge_run
from eval.judge.protocol import Judge
from eval.judge.rules.heuristic import HeuristicJudge
from eval.records.rows import SCORED, UNSCORED, Generation, Verdict, item_id
from eval.records.run import Run
from tests.judge_endpoint import GOOD


def rows(texts, condition="baseline"):
    return [
        Generation(
            item_id(condition, "safe", f"p{i}"), condition, "safe", f"p{i}", "Why?", "", None, 0, text, "stop", 1, 1
        )
        for i, text in enumerate(texts)
    ]


class Dice(Judge):
    """A judge whose scores for a text differ from one asking to the next: 0, 0.5, 1, 0, ..."""

    judge_id, kind, retried_reasons = "llm:dice-00000000", "llm", frozenset({"transport failure"})

    def __init__(self, fails_after=None, unreachable=()):
        self.asked = Counter()
        self._fails_after, self._unreachable = fails_after, unreachable

    def describe(self):
        return {"kind": "llm"}

    async def judge(self, item):
        if self._fails_after is not None and self.asked.total() >= self._fails_after:
            raise JudgeEndpointError("dead")
        self.asked[item.response] += 1
        if item.response in self._unreachable:
            return Verdict(item.item_id, self.judge_id, UNSCORED, reason="transport failure")
        score = (self.asked[item.response] - 1) % 3 / 2
        await asyncio.sleep(0)
        return Verdict(item.item_id, self.judge_id, SCORED, score, 1.0, "other")


def endpoint_judge():
    """The judge of an endpoint, whose model remembers what it was shown and finds everything fine."""

    class Remembering(EndpointJudge):
        asked = set()

        async def _probe(self):
            self.schema_mode = "json_object"

        async def _ask(self, prompt, response):
            self.asked.add(response)
            return Completion(json.dumps(GOOD), "", "stop", 1, 1)

    return Remembering("m", JudgeClient("http://127.0.0.1:9/v1"))


@pytest.fixture
def run(tmp_path):
    run = Run.create(tmp_path / "run", {"conditions": []})
    run.append_generations(rows(["a", "b", "c"]) + rows(["a", "x", "a"], "rv"))
    return run


def test_each_distinct_response_is_asked_about_once_per_repeat_and_all_copies_get_the_same(run):
    judge = Dice()
    summary = judge_run(run, judge, repeats=3)
    assert judge.asked == {"a": 3, "b": 3, "c": 3, "x": 3}
    assert (summary.n_judged, summary.n_cached, summary.n_scored, summary.repeats) == (12, 6, 6, 3)
    texts = {row.item_id: row.response for row in run.generations()}
    scores = {}
    for row in run.verdicts():
        scores.setdefault((texts[row.item_id], row.repeat), set()).add(row.compliance)
    assert all(len(found) == 1 for found in scores.values())
    assert {min(scores["a", repeat]) for repeat in range(3)} == {0.0, 0.5, 1.0}


def test_more_repeats_later_ask_only_for_those_that_are_missing(run):
    first, second, third = Dice(), Dice(), Dice()
    judge_run(run, first)
    before = {(row.item_id, row.repeat): row for row in run.verdicts()}
    judge_run(run, second, repeats=3)
    assert set(second.asked.values()) == {2}
    after = {(row.item_id, row.repeat): row for row in run.verdicts()}
    assert len(after) == 18 and all(after[key] == row for key, row in before.items())
    assert judge_run(run, third, repeats=2).n_judged == 0 and not third.asked


def test_repeats_go_on_where_they_were_cut_off(run):
    with pytest.raises(JudgeEndpointError):
        judge_run(run, Dice(fails_after=5), repeats=3)
    n_kept = len({(row.item_id, row.repeat) for row in run.verdicts()})
    texts = {row.item_id: row.response for row in run.generations()}
    kept = {(texts[row.item_id], row.repeat) for row in run.verdicts()}
    assert 0 < n_kept < 18
    rest = Dice()
    judge_run(run, rest, repeats=3)
    assert rest.asked.total() == 12 - len(kept)
    assert len(run.verdicts()) == 18


def test_rules_are_not_repeated_and_no_judge_is_asked_less_than_once(run):
    with pytest.raises(JudgingError, match="by rules, so 2 repeats would be equal"):
        judge_run(run, HeuristicJudge(), repeats=2)
    with pytest.raises(JudgingError, match="at least 1, found 0"):
        judge_run(run, Dice(), repeats=0)
    assert run.verdicts() == []


def test_a_passing_failure_is_not_taken_over_by_a_like_response_that_comes_later(run):
    judge = Dice(unreachable={"b"})
    with run.writing():
        docket = Docket(run, judge)
        (question,) = docket.admit(rows(["b"], "early"))
        docket.settle([(question, asyncio.run(judge.judge(question.item)))])
        assert len(docket.admit(rows(["b"], "late"))) == 1
        judge._unreachable = ()
        (question,) = docket.admit(rows(["c"], "early"))
        docket.settle([(question, asyncio.run(judge.judge(question.item)))])
        assert docket.admit(rows(["c"], "late")) == []  # known


def test_a_verdict_of_a_response_that_was_never_written_does_not_stand(run):
    lost = rows(["another text"], "lost")[0]
    run.append_verdicts([Verdict(lost.item_id, Dice.judge_id, SCORED, 1.0, 1.0, "compliance")])
    run.append_generations([lost])
    (run.path / "generations.jsonl").write_bytes(b"")
    judge_run_rows = rows(["a"]) + [lost]
    with run.writing():
        docket = Docket(run, Dice())
        assert [question.item for question in docket.admit(judge_run_rows)] == judge_run_rows


def test_a_model_is_not_asked_about_an_answer_cut_inside_its_reasoning(run):
    texts = ["<think> First, an egg", "Hm, an egg", "An egg."]
    cut = [replace(row, finish_reason="length") for row in rows(texts, "thinks")]
    run.append_generations([cut[0], replace(cut[1], begins_in_reasoning=True), cut[2]])
    judge = endpoint_judge()
    summary = judge_run(run, judge)
    assert "An egg." in judge.asked and not judge.asked & set(texts[:2])
    assert (summary.reasons, summary.n_scored) == ({"cut in reasoning": 2}, 7)


def test_a_score_that_an_earlier_version_gave_an_answer_cut_inside_its_reasoning_does_not_stand(run):
    (cut,) = (replace(row, finish_reason="length") for row in rows(["<think> First, an egg"], "thinks"))
    run.append_generations([cut])
    judge = endpoint_judge()
    run.append_verdicts(Verdict(row.item_id, judge.judge_id, SCORED, 0.0, 1.0, "other") for row in run.generations())
    summary = judge_run(run, judge)
    assert (summary.n_judged, summary.reasons, judge.asked) == (1, {"cut in reasoning": 1}, set())


def test_equal_texts_of_which_one_was_cut_inside_its_reasoning_are_told_apart(run):
    text = rows(["<think> First, an egg"], "thinks") + rows(["<think> First, an egg"], "stops")
    run.append_generations([replace(text[0], finish_reason="length"), text[1]])
    judge_run(run, HeuristicJudge())
    found = {row.item_id: row.status for row in run.verdicts()}
    assert [found[row.item_id] for row in text] == [UNSCORED, SCORED]


def test_the_order_of_asking_is_drawn_anew_by_the_seed(tmp_path):
    orders = []
    for seed in (0, 0, 1):
        run = Run.create(tmp_path / str(len(orders)), {"conditions": []})
        run.append_generations(rows([f"answer {i}" for i in range(40)]))
        judge = Dice()
        judge_run(run, judge, seed=seed)
        orders.append(list(judge.asked))
    assert orders[0] == orders[1] != orders[2] and sorted(orders[0]) == sorted(orders[2]) != orders[0]


def test_rules_write_as_they_go(tmp_path):
    run = Run.create(tmp_path / "run", {"conditions": []})
    run.append_generations(rows([f"answer {i}" for i in range(1200)]))
    told = []
    judge_run(run, HeuristicJudge(), lambda done, total: told.append((done, total)))
    assert told[-1] == (1200, 1200) and len(told) >= 4
