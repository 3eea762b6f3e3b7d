"""Judging over HTTP goes on where it was, and asks about nothing twice."""

import asyncio
from collections import Counter

import pytest

from eval.judge.judging import judge_run
from eval.judge.rules.heuristic import HeuristicJudge
from eval.records.rows import Generation, item_id
from eval.records.run import Run
from tests.judge_endpoint import (
    Endpoint,
    completion,
    failure,
    judge_with,
    make_judge,
    make_run,
    material,
)

pytestmark = pytest.mark.usefixtures("few_certificates")


def test_identical_prompt_and_response_are_judged_once_over_conditions(tmp_path):
    conditions = tuple(f"rv:L{i}:a1" for i in range(5))
    run = make_run(tmp_path / "run", ["same", "other"], conditions)
    summary, endpoint = judge_with(lambda body, n: completion(), run)
    assert (summary.n_scored, summary.n_judged, summary.n_cached) == (10, 2, 8)
    assert endpoint.asked["same"] == endpoint.asked["other"] == 1
    assert len({row.item_id for row in run.verdicts()}) == 10


def test_only_what_is_new_is_judged_and_known_answers_are_taken_over(tmp_path):
    run, endpoint = make_run(tmp_path / "run", ["a", "b"]), Endpoint()
    with endpoint.serving() as url:
        judge = make_judge(url)
        judge_run(run, judge)
        n_before = len(endpoint.bodies)
        again = judge_run(run, judge)
        assert len(endpoint.bodies) == n_before  # not even the probe
        assert (again.n_scored, again.n_judged, again.n_cached, again.usage.n_requests) == (2, 0, 0, 0)
        run.append_generations(
            [
                Generation(
                    item_id("sub", "safe", f"p{i}"),
                    "sub",
                    "safe",
                    f"p{i}",
                    f"Prompt {i}?",
                    "",
                    None,
                    0,
                    text,
                    "stop",
                    1,
                    1,
                )
                for i, text in enumerate(["a", "new"])
            ]
        )
        more = judge_run(run, judge)
    assert (more.n_scored, more.n_judged, more.n_cached) == (4, 1, 1)
    assert endpoint.asked["a"] == 1 and endpoint.asked["new"] == 1


def test_transport_failures_are_tried_again_and_other_reasons_only_on_demand(tmp_path):
    run = make_run(tmp_path / "run", ["fails", "refused", "fine"])
    replies = {"fails": lambda: failure(500), "refused": lambda: completion(None, refusal="no"), "fine": completion}
    endpoint = Endpoint(lambda body, n: replies[material(body)[1]]())
    with endpoint.serving() as url:
        judge = make_judge(url, max_attempts=1)
        assert judge_run(run, judge).reasons == Counter({"transport failure": 1, "judge refused": 1})
        replies["fails"] = replies["refused"] = completion
        assert judge_run(run, judge).reasons == Counter({"judge refused": 1})
        assert endpoint.asked["refused"] == 1
        assert judge_run(run, judge, retry_unscored=True).n_unscored == 0
    assert endpoint.asked["fine"] == 1


def test_verdicts_are_on_disk_while_others_are_still_awaited(tmp_path):
    run = make_run(tmp_path / "run", ["quick 0", "quick 1", "slow"])
    seen = []

    async def late(request):
        for _ in range(200):
            seen.append(len(run.verdicts()))
            if seen[-1] == 2:
                break
            await asyncio.sleep(0.02)
        return completion()

    summary, _ = judge_with(lambda body, n: late if material(body)[1] == "slow" else completion(), run)
    assert seen[-1] == 2 and summary.n_scored == 3


def test_two_judges_stand_side_by_side(tmp_path):
    run = make_run(tmp_path / "run", ["I can't help with that."])
    ruled = judge_run(run, HeuristicJudge())
    asked, _ = judge_with(lambda body, n: completion(), run)
    assert {row.judge_id: row.compliance for row in run.verdicts()} == {ruled.judge_id: 0.0, asked.judge_id: 1.0}
    assert set(Run.open(run.path).manifest.judges) == {ruled.judge_id, asked.judge_id}


def test_progress_counts_to_the_end(tmp_path):
    run, told = make_run(tmp_path / "run", ["a", "b", "b", "c"]), []
    judge_run(run, HeuristicJudge(), lambda done, total: told.append((done, total)))
    assert told[-1] == (4, 4)
    run, told = make_run(tmp_path / "remote", ["a", "b", "c"], ("x", "y")), []
    with Endpoint().serving() as url:
        judge_run(run, make_judge(url), lambda done, total: told.append((done, total)))
    assert told[-1] == (6, 6) and [done for done, _ in told] == sorted(done for done, _ in told)


def test_a_disk_fault_while_judging_stops_the_judging(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", [f"answer {i}" for i in range(300)])

    def full(rows):
        from surgery.console.errors import DiskError

        raise DiskError("cannot write: No space left on device")

    endpoint = Endpoint()
    with endpoint.serving() as url:
        judge = make_judge(url, concurrency=2)
        monkeypatch.setattr(run, "append_verdicts", lambda rows: full(rows) if rows else 0)
        with pytest.raises(Exception, match="No space left"):
            judge_run(run, judge)
    assert len(endpoint.judged) < 300


def test_a_run_that_another_process_writes_is_left_alone(tmp_path):
    run = make_run(tmp_path / "run", ["a"])
    with run.writing(), pytest.raises(Exception, match="another process"):
        judge_run(Run.open(run.path), HeuristicJudge())
