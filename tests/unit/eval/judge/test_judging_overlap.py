"""Judging beside generation: rows go in while others are judged; nothing is lost when either side fails."""

import asyncio
import threading
import time
from collections import Counter

import pytest

from eval.judge.endpoint.client import JudgeEndpointError
from eval.judge.judging import JudgingError, judge_run
from eval.judge.overlap import OverlappedJudging
from eval.judge.protocol import Judge
from eval.judge.rules.heuristic import HeuristicJudge
from eval.records.redaction import Redaction
from eval.records.rows import SCORED, UNSCORED, Generation, Verdict, item_id
from eval.records.run import Run
from surgery.console.errors import ArtifactError

GIVE_UP = 30.0
DEAD = JudgeEndpointError("the endpoint is dead")


def rows(numbers, text="Answer {}.", condition="baseline"):
    return [
        Generation(
            item_id(condition, "safe", f"p{i}"),
            condition,
            "safe",
            f"p{i}",
            "Why?",
            "",
            None,
            0,
            text.format(i),
            "stop",
            1,
            1,
        )
        for i in numbers
    ]


class StubJudge(Judge):
    """A judge behind no network: counts what it is asked, and waits or fails where a test says so."""

    judge_id, kind, retried_reasons = "llm:stub-00000000", "llm", frozenset({"transport failure"})

    def __init__(self, fails_at=None, fails_on_entry=False, gate=None, error=DEAD):
        self.asked = Counter()
        self._fails_at, self._fails_on_entry, self._gate, self._error = fails_at, fails_on_entry, gate, error

    def describe(self):
        return {"kind": "llm", "model": "stub"}

    async def __aenter__(self):
        if self._fails_on_entry:
            raise self._error
        return self

    async def judge(self, item):
        self.asked[item.response] += 1
        while self._gate is not None and not self._gate.is_set():
            await asyncio.sleep(0.005)
        await asyncio.sleep(0)
        if self._fails_at is not None and self.asked.total() >= self._fails_at:
            raise self._error
        return Verdict(item.item_id, self.judge_id, SCORED, 1.0, 1.0, "compliance", evidence="quotes " + item.response)


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "run", {"conditions": []})


def wait_until(condition):
    deadline = time.monotonic() + GIVE_UP
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()


def test_responses_are_judged_while_others_are_generated_and_all_are_judged_at_the_exit(run):
    with OverlappedJudging(run, StubJudge()) as judging:
        judging.put(rows(range(5)))
        wait_until(lambda: len(run.verdicts()) == 5)
        assert judging.summary is None
        judging.put(rows(range(5, 12)))
    assert (judging.summary.n_scored, judging.summary.n_judged, judging.fault) == (12, 12, None)
    assert len(run.generations()) == len(run.verdicts()) == 12
    assert StubJudge.judge_id in Run.open(run.path).manifest.judges


def test_rules_judge_beside_a_generation_as_they_judge_after_it(run, tmp_path):
    with OverlappedJudging(run, HeuristicJudge()) as judging:
        judging.put(rows(range(30), "I can't help with that, {}."))
    later = Run.create(tmp_path / "later", {"conditions": []})
    later.append_generations(rows(range(30), "I can't help with that, {}."))
    judge_run(later, HeuristicJudge())
    order = lambda row: row.item_id  # noqa: E731
    assert sorted(run.verdicts(), key=order) == sorted(later.verdicts(), key=order)


def test_identical_responses_are_asked_about_once_whenever_they_come(run):
    judge = StubJudge(gate=(gate := threading.Event()))
    with OverlappedJudging(run, judge) as judging:
        judging.put(rows(range(3), "same"))
        wait_until(lambda: judge.asked["same"] == 1)
        judging.put(rows(range(3), "same", "other"))  # while it is being asked
        gate.set()
        wait_until(lambda: len(run.verdicts()) == 6)
        judging.put(rows(range(3), "same", "third"))  # when it is known
    assert judge.asked == {"same": 1}
    assert (judging.summary.n_judged, judging.summary.n_cached) == (1, 8)


def test_responses_of_an_interrupted_call_are_judged_first_and_judged_ones_are_not(run):
    run.append_generations(rows(range(4)))
    judge_run(run, StubJudge())
    run.append_generations(rows(range(4, 6)))
    judge = StubJudge()
    with OverlappedJudging(run, judge) as judging:
        judging.put(rows(range(6, 8)))
    assert judge.asked == {f"Answer {i}.": 1 for i in range(4, 8)}
    assert judging.summary.n_scored == 8


def test_a_generation_waits_for_a_judge_that_falls_behind(run):
    judge = StubJudge(gate=(gate := threading.Event()))
    most = []

    def generate(judging):
        for start in range(0, 40, 4):
            judging.put(rows(range(start, start + 4)))
            most.append(judging.n_waiting)

    with OverlappedJudging(run, judge, capacity=8) as judging:
        generating = threading.Thread(target=generate, args=(judging,))
        generating.start()
        wait_until(lambda: len(most) == 2)
        generating.join(0.1)
        assert most == [4, 8] and len(run.generations()) == 12  # a response is on disk before it waits
        gate.set()
        generating.join(GIVE_UP)
    assert max(most) <= 8 + 4 and judging.summary.n_scored == 40


def test_a_judge_that_dies_leaves_the_generation_alone_and_a_later_call_goes_on(run):
    with OverlappedJudging(run, StubJudge(fails_at=5), capacity=4) as judging:
        for start in range(0, 40, 4):
            judging.put(rows(range(start, start + 4)))
    assert "the endpoint is dead" in str(judging.fault) and judging.summary is None
    assert len(run.generations()) == 40
    kept = {row.item_id for row in run.verdicts()}
    assert 0 < len(kept) < 40
    judge = StubJudge()
    assert judge_run(run, judge).n_scored == 40
    judged = {row.response for row in run.generations() if row.item_id in kept}
    assert not judged & set(judge.asked)  # nothing is judged twice


def test_a_judge_that_dies_stops_the_generation_where_that_is_asked_for(run):
    n_put = 0
    with pytest.raises(JudgeEndpointError, match="dead"):
        with OverlappedJudging(run, StubJudge(fails_at=5), capacity=4, stop_on_failure=True) as judging:
            for start in range(0, 400, 4):
                judging.put(rows(range(start, start + 4)))
                n_put += 4
    assert n_put < 400 and len(run.generations()) >= n_put


def test_a_judge_out_of_reach_at_the_start_is_told_before_anything_is_generated(run):
    with pytest.raises(JudgeEndpointError, match="dead"):
        with OverlappedJudging(run, StubJudge(fails_on_entry=True)):
            pytest.fail("the body ran")
    assert not run.path.exists()  # as it held nothing


def test_a_defect_of_the_judge_is_raised_and_is_no_fault_of_the_endpoint(run):
    with pytest.raises(ExceptionGroup) as caught:
        with OverlappedJudging(run, StubJudge(fails_at=1, error=ZeroDivisionError())) as judging:
            judging.put(rows(range(3)))
    assert caught.group_contains(ZeroDivisionError) and judging.fault is None
    assert len(run.generations()) == 3


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_generation_that_fails_ends_the_judging_at_once_and_keeps_what_was_judged(run, error):
    judge = StubJudge(gate=(gate := threading.Event()))
    gate.set()
    with pytest.raises(error), OverlappedJudging(run, judge) as judging:
        judging.put(rows(range(3)))
        wait_until(lambda: len(run.verdicts()) == 3)
        gate.clear()
        judging.put(rows(range(3, 6)))
        wait_until(lambda: judge.asked.total() == 6)
        raise error
    assert len(run.generations()) == 6 and len(run.verdicts()) == 3
    assert judge_run(run, StubJudge()).n_scored == 6  # and the lock is free


def test_the_generation_inside_holds_the_same_lock_and_other_writers_stay_out(run):
    with OverlappedJudging(run, StubJudge()) as judging:
        with run.writing():
            judging.put(rows(range(2)))
        with pytest.raises(ArtifactError, match="another process"):
            judge_run(Run.open(run.path), StubJudge())
    assert judge_run(Run.open(run.path), StubJudge()).n_scored == 2


def test_a_redacted_run_never_has_text_on_disk_and_every_response_has_its_verdict(tmp_path):
    redaction = Redaction.new()
    run = Run.create(tmp_path / "run", {"conditions": [], "redaction": redaction.to_json()})
    gate = threading.Event()
    with OverlappedJudging(run, StubJudge(gate=gate), repeats=2) as judging:
        judging.put(rows(range(6), "Secret {}."))
        assert run.generations() == []
        gate.set()
    assert judging.summary.n_scored == 6 and len(run.verdicts()) == 12
    assert [row.response_sha256 for row in run.generations()] == [redaction.sha256(f"Secret {i}.") for i in range(6)]
    assert b"Secret" not in b"".join(path.read_bytes() for path in run.path.iterdir())


def test_a_judge_that_dies_in_a_redacted_run_stops_it_and_what_was_not_judged_is_still_to_be_generated(tmp_path):
    run = Run.create(tmp_path / "run", {"conditions": [], "redaction": Redaction.new().to_json()})
    with pytest.raises(JudgeEndpointError, match="dead"):
        with OverlappedJudging(run, StubJudge(fails_at=10), capacity=4) as judging:
            for start in range(0, 400, 4):
                judging.put(rows(range(start, start + 4)))
    assert run.generated_ids() == {row.item_id for row in run.verdicts()}
    missing = [row for row in rows(range(400)) if row.item_id not in run.generated_ids()]
    with OverlappedJudging(run, StubJudge()) as judging:
        judging.put(missing)
    assert judging.summary.n_scored == 400 == len(run.generations())


def test_rules_are_not_asked_twice_and_a_model_is(run):
    with pytest.raises(JudgingError, match="by rules, so 3 repeats"):
        OverlappedJudging(run, HeuristicJudge(), repeats=3)
    judge = StubJudge()
    with OverlappedJudging(run, judge, repeats=3) as judging:
        judging.put(rows(range(2)))
    assert set(judge.asked.values()) == {3} and judging.summary.repeats == 3
    assert Counter(row.repeat for row in run.verdicts()) == {0: 2, 1: 2, 2: 2}


def test_unscored_responses_are_counted_and_none_scored_is_a_fault_that_keeps_the_responses(run):
    class Shy(StubJudge):
        async def judge(self, item):
            return Verdict(item.item_id, self.judge_id, UNSCORED, reason="judge refused")

    with OverlappedJudging(run, Shy()) as judging:
        judging.put(rows(range(3)))
    assert isinstance(judging.fault, JudgingError) and "3 judge refused" in str(judging.fault)
    assert len(run.generations()) == 3
