"""An endpoint that fails in every way: retries, pauses, adaptive concurrency, the circuit breaker."""

import asyncio

import pytest
from aiohttp import web

from eval.endpoints.address import public_url
from eval.endpoints.concurrency import AdaptiveConcurrency
from eval.endpoints.pool import Pool
from eval.endpoints.replica import Replica, retry_after
from eval.judge.endpoint.client import JudgeEndpointError
from eval.judge.judging import judge_run
from eval.records.rows import SCORED
from tests.judge_endpoint import (
    Endpoint,
    completion,
    drip,
    drop,
    drop_midway,
    failure,
    make_judge,
    make_run,
    material,
    only_verdict,
)

pytestmark = pytest.mark.usefixtures("few_certificates")


@pytest.mark.parametrize(
    "fault",
    [
        lambda: failure(500),
        lambda: failure(503),
        lambda: failure(429),
        lambda: failure(429, headers={"Retry-After": "0.01"}),
        lambda: web.Response(text="{", content_type="application/json"),
        lambda: drop,
        lambda: drop_midway,
    ],
    ids=["500", "503", "429", "429 with Retry-After", "broken JSON", "dropped", "dropped midway"],
)
def test_a_passing_fault_is_retried_and_the_response_is_scored(tmp_path, fault):
    verdict, endpoint = only_verdict(lambda body, n: fault() if n < 2 else completion(), tmp_path)
    assert verdict.status == SCORED
    assert endpoint.asked["odd"] == 3


def test_attempts_are_bounded(tmp_path):
    verdict, endpoint = only_verdict(lambda body, n: failure(500), tmp_path, max_attempts=3)
    assert endpoint.asked["odd"] == 3
    assert verdict.evidence == "HTTP 500 (3 attempts)"


def test_a_rejected_request_is_not_repeated(tmp_path):
    _, endpoint = only_verdict(lambda body, n: failure(400, "context length exceeded"), tmp_path)
    assert endpoint.asked["odd"] == 1


@pytest.mark.parametrize("fault", [drip, None], ids=["drips", "hangs"])
def test_an_answer_that_takes_too_long_is_given_up(tmp_path, fault):
    async def hang(request):
        await asyncio.sleep(30)

    verdict, _ = only_verdict(lambda body, n: fault or hang, tmp_path, timeout=0.2, max_attempts=1)
    assert verdict.reason == "transport failure" and "no answer within 0.2 s" in verdict.evidence


def test_retry_after_holds_every_request_back(tmp_path):
    run = make_run(tmp_path / "run", [f"answer {i}" for i in range(6)])
    refused = []

    def script(body, n):
        if not refused:
            refused.append(material(body)[1])
            return failure(429, headers={"Retry-After": "0.4"})
        return completion()

    endpoint = Endpoint(script)
    with endpoint.serving() as url:
        summary = judge_run(run, make_judge(url, concurrency=1, max_concurrency=1))
    gaps = [after - before for before, after in zip(endpoint.times, endpoint.times[1:], strict=False)]
    assert summary.n_scored == 6
    assert gaps[1] >= 0.39  # probe, first, pause: also for requests that were not refused


def test_concurrency_falls_by_a_fifth_once_for_a_wave_of_429_and_grows_again():
    async def scenario():
        gate = AdaptiveConcurrency(20)
        early, same_wave = gate.take(), gate.take()
        gate.throttled(early, 0.0)
        gate.throttled(same_wave, 0.0)
        fallen = gate.limit
        for _ in range(16):
            gate.succeeded()
        grown = gate.limit
        for _ in range(100):
            gate.throttled(gate.take(), 0.0)
        return fallen, grown, gate.limit

    assert asyncio.run(scenario()) == (16.0, 17.0, 1.0)


def test_no_more_requests_are_in_flight_than_allowed(tmp_path):
    async def slow(request):
        await asyncio.sleep(0.03)
        return completion()

    run = make_run(tmp_path / "run", [f"answer {i}" for i in range(12)])
    endpoint = Endpoint(lambda body, n: slow)
    with endpoint.serving() as url:
        judge_run(run, make_judge(url, concurrency=3))
    assert 2 <= endpoint.most_in_flight <= 5  # 3, and one more after each run of successes


def test_a_request_that_is_cancelled_while_it_waits_gives_its_turn_on():
    async def scenario():
        pool = Pool([Replica("http://h/v1", concurrency=(1, 1))])
        entered = []

        async def enter(name):
            async with pool.slot():
                entered.append(name)

        async with pool.slot():
            first, second = asyncio.create_task(enter("first")), asyncio.create_task(enter("second"))
            await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first, second], timeout=5)
        return entered

    assert asyncio.run(scenario()) == ["second"]


def test_the_breaker_stops_a_dead_endpoint_and_keeps_what_was_judged(tmp_path):
    run = make_run(tmp_path / "run", [f"answer {i}" for i in range(60)])
    n_good = []

    def script(body, n):
        if len(n_good) < 10:
            n_good.append(1)
            return completion()
        return failure(503)

    endpoint = Endpoint(script)
    with endpoint.serving() as url:
        judge = make_judge(url, concurrency=4, max_attempts=2, breaker=5)
        with pytest.raises(JudgeEndpointError, match="failed 5 times in a row, last: HTTP 503"):
            judge_run(run, judge)
        kept = run.verdicts(judge.judge_id)
        assert sum(row.status == SCORED for row in kept) == 10 and len(kept) < 20
        endpoint.script = lambda body, n: completion()
        asked_before = dict(endpoint.asked)
        summary = judge_run(run, judge)
    assert (summary.n_scored, summary.n_unscored) == (60, 0)
    scored_before = {row.item_id for row in kept if row.status == SCORED}
    texts = {row.response for row in run.generations() if row.item_id in scored_before}
    assert all(endpoint.asked[text] == asked_before[text] for text in texts)  # nothing is judged twice


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "nan"}, None),
    ],
)
def test_retry_after_is_read_in_all_its_forms(headers, seconds):
    assert retry_after(headers) == seconds


def test_addresses_are_shown_without_credentials():
    assert public_url("https://user:pw@h.example:8443/v1/?key=x#y") == "https://h.example:8443/v1"
    assert public_url("http://[::1]:80/v1") == "http://[::1]:80/v1"
