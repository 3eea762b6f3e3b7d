"""Several addresses of one judge: work is spread, the dead are left out, nothing is lost."""

import asyncio
import threading
from contextlib import ExitStack

import pytest

from eval.endpoints.pool import Pool
from eval.endpoints.replica import OUT_AFTER, Fault, Replica
from eval.judge.endpoint.client import JudgeClient, JudgeEndpointError
from eval.judge.judging import judge_run
from eval.records.run import Run
from tests.judge_endpoint import Endpoint, completion, drop, failure, make_judge, make_run

pytestmark = pytest.mark.usefixtures("few_certificates")

GONE = "http://127.0.0.1:9/v1"  # the discard port: nothing listens there


def serving(stack, n, script=None):
    """So many endpoints and their addresses."""
    endpoints = [Endpoint(script) if script else Endpoint() for _ in range(n)]
    return endpoints, [stack.enter_context(endpoint.serving()) for endpoint in endpoints]


def texts(n):
    return [f"answer {i}" for i in range(n)]


def test_requests_are_spread_over_the_replicas_and_each_response_is_asked_about_once(tmp_path):
    run = make_run(tmp_path / "run", texts(60))
    with ExitStack() as stack:
        endpoints, urls = serving(stack, 3)
        summary = judge_run(run, make_judge(urls))
    shares = [len(endpoint.judged) for endpoint in endpoints]
    assert summary.n_scored == 60 and sum(shares) == 60
    assert all(share >= 3 for share in shares)  # 20 each by turns, fewer where a busy machine keeps one waiting


def test_a_slow_replica_gets_less_to_do(tmp_path):
    async def slow(request):
        await asyncio.sleep(0.15)
        return completion()

    run = make_run(tmp_path / "run", texts(80))
    with ExitStack() as stack:
        quick, lazy = Endpoint(), Endpoint(lambda body, n: slow)
        urls = [stack.enter_context(endpoint.serving()) for endpoint in (quick, lazy)]
        judge_run(run, make_judge(urls, concurrency=4, max_concurrency=4))
    assert len(lazy.judged) < len(quick.judged)


def test_half_of_the_replicas_dying_midway_loses_nothing_and_judges_nothing_twice(tmp_path):
    run = make_run(tmp_path / "run", texts(120))
    dead = threading.Event()

    def mortal(body, n):
        if len(served) >= 15:
            dead.set()
        served.append(1)
        return drop if dead.is_set() else completion()

    served = []
    with ExitStack() as stack:
        alive, alive_urls = serving(stack, 2)
        dying, dying_urls = serving(stack, 2, mortal)
        summary = judge_run(run, make_judge([*dying_urls, *alive_urls], concurrency=16))
    assert dead.is_set()
    assert (summary.n_scored, summary.n_unscored, len(run.verdicts())) == (120, 0, 120)
    answered = sum(len(endpoint.judged) for endpoint in alive) + 15
    assert answered == 120
    assert sum(len(endpoint.judged) for endpoint in dying) - 15 < 60  # taken out of use, not asked on and on


def test_an_address_where_nothing_listens_from_the_start_costs_no_verdict(tmp_path):
    run = make_run(tmp_path / "run", texts(20))
    with Endpoint().serving() as url:
        summary = judge_run(run, make_judge([GONE, url]))
    assert (summary.n_scored, summary.n_unscored) == (20, 0)


def test_all_replicas_dead_is_one_line_that_names_them_and_the_rest_is_judged_later(tmp_path):
    run = make_run(tmp_path / "run", texts(60))
    n_good = []

    def mortal(body, n):
        n_good.append(1)
        return completion() if len(n_good) <= 10 else failure(503)

    with ExitStack() as stack:
        endpoints, urls = serving(stack, 2, mortal)
        judge = make_judge(urls, concurrency=4, max_attempts=2, breaker=5)
        with pytest.raises(JudgeEndpointError, match="failed 5 times in a row, last: HTTP 503") as caught:
            judge_run(run, judge)
        assert all(url in str(caught.value) for url in urls) and "\n" not in str(caught.value)
        for endpoint in endpoints:
            endpoint.script = lambda body, n: completion()
        assert judge_run(run, judge).n_scored == 60


def test_a_replica_that_comes_back_is_used_again(tmp_path):
    run = make_run(tmp_path / "run", texts(120))
    faults = []

    def ill(body, n):
        faults.append(1)
        return failure(503) if len(faults) <= OUT_AFTER else completion()

    async def slow(request):
        await asyncio.sleep(0.02)
        return completion()

    with ExitStack() as stack:
        healthy, recovering = Endpoint(lambda body, n: slow), Endpoint(ill)
        urls = [stack.enter_context(endpoint.serving()) for endpoint in (healthy, recovering)]
        summary = judge_run(run, make_judge(urls, concurrency=4, max_concurrency=4, backoff=0.02))
    assert summary.n_scored == 120
    assert len(recovering.judged) > OUT_AFTER + 1


def test_a_replica_told_to_wait_leaves_its_work_to_the_other(tmp_path):
    run = make_run(tmp_path / "run", texts(20))
    with ExitStack() as stack:
        busy = Endpoint(lambda body, n: failure(429, headers={"Retry-After": "100"}))
        free = Endpoint()
        urls = [stack.enter_context(endpoint.serving()) for endpoint in (busy, free)]
        summary = judge_run(run, make_judge(urls, concurrency=4))
    assert summary.n_scored == 20 and len(busy.judged) <= 2 and len(free.judged) == 20


def test_the_first_address_names_the_judge_and_the_manifest_lists_all(tmp_path):
    one, other = "http://a/v1", "http://b/v1"
    assert make_judge([one, other]).judge_id == make_judge(one).judge_id != make_judge([other, one]).judge_id
    run = make_run(tmp_path / "run", ["a"])
    with ExitStack() as stack:
        _, urls = serving(stack, 2)
        summary = judge_run(run, make_judge(urls))
    assert Run.open(run.path).manifest.judges[summary.judge_id]["replicas"] == urls


def test_the_same_address_twice_is_refused():
    with pytest.raises(JudgeEndpointError, match="different addresses"):
        JudgeClient(["http://h/v1", "http://h/v1/"])


def test_a_retry_goes_to_another_address_even_when_it_must_wait_there():
    async def scenario():
        one, other = (Replica(f"http://{name}/v1", concurrency=(2, 2)) for name in "ab")
        pool, chosen = Pool([one, other]), []

        async def choose():
            async with pool.slot(avoid=one) as slot:
                chosen.append(slot.replica)

        for _ in range(4):
            await choose()
        async with pool.slot(avoid=one), pool.slot(avoid=one):
            waiting = asyncio.create_task(choose())
            await asyncio.sleep(0.01)
            assert not waiting.done()
            async with pool.slot() as slot:  # holds up nobody who would go anywhere
                assert slot.replica is one
        await waiting
        async with Pool([one]).slot(avoid=one) as slot:
            assert slot.replica is one
        return len(chosen) == 5 and all(replica is other for replica in chosen)

    assert asyncio.run(scenario())


def test_a_circuit_opens_after_faults_in_a_row_tries_one_request_and_closes_on_an_answer():
    replica, fault = Replica("http://h/v1", cooldown=2.0), Fault("HTTP 503", 503)
    for _ in range(OUT_AFTER - 1):
        replica.failed(fault, 0.0)
    assert replica.admits(0.0)
    replica.failed(Fault("HTTP 429", 429), 0.0)  # too many requests is no fault of the replica
    for _ in range(OUT_AFTER):
        assert replica.admits(0.0)
        replica.failed(fault, 0.0)
    assert not replica.admits(1.9) and replica.admits(2.0)
    replica.try_again()
    assert not replica.admits(2.0)  # one at a time
    replica.failed(fault, 2.0)
    assert not replica.admits(5.9) and replica.admits(6.0)  # twice as long
    replica.answered()
    assert replica.admits(6.0) and not replica.is_out
