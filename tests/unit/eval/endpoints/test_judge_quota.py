"""Requests and tokens per minute are kept to, and what was reserved and not used is given back."""

import time

import pytest

from eval.endpoints.quota import Quota, TokenBucket
from eval.judge.judging import judge_run
from tests.judge_endpoint import Endpoint, completion, failure, make_judge, make_run, material

pytestmark = pytest.mark.usefixtures("few_certificates")


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def passed(bucket, clock, amount, seconds):
    """How much a caller that always waits its turn takes within so many seconds."""
    taken = 0.0
    while True:
        clock.now += bucket.reserve(amount)
        if clock.now >= seconds:
            return taken
        taken += amount


@pytest.mark.parametrize(("per_minute", "amount"), [(600, 1), (30, 1), (100_000, 700), (60, 200)])
def test_a_minute_passes_the_limit_and_at_most_a_second_and_one_more(per_minute, amount):
    clock = Clock()
    taken = passed(TokenBucket(per_minute, clock), clock, amount, 60.0)
    assert per_minute - 2 * amount <= taken <= per_minute * 61 / 60 + amount + 1


def test_an_idle_bucket_saves_up_no_more_than_a_second():
    clock = Clock()
    bucket = TokenBucket(600, clock)
    clock.now = 3600.0
    waits = [bucket.reserve(1) for _ in range(20)]
    assert waits[:10] == [0.0] * 10 and waits[10] > 0


def test_what_was_not_used_lets_the_next_one_go_sooner():
    clock = Clock()
    eager, honest = TokenBucket(6000, clock), TokenBucket(6000, clock)
    for bucket in (eager, honest):
        bucket.reserve(1000)
    honest.give_back(900)
    assert honest.reserve(100) < eager.reserve(100)


def test_a_rate_of_nothing_is_refused():
    for rate in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="above 0"):
            TokenBucket(rate)


def test_requests_are_spaced_by_the_limit_over_the_wire(tmp_path):
    run, endpoint = make_run(tmp_path / "run", [f"answer {i}" for i in range(5)]), Endpoint()
    begun = time.monotonic()
    with endpoint.serving() as url:
        judge_run(run, make_judge(url, quota=Quota(rpm=240)))
    # 6 requests with the probe at 4 a second, 4 of them free: the last two wait; a busy machine only adds to that
    assert endpoint.times[-1] - begun >= 0.5


def test_tokens_that_the_endpoint_did_not_count_up_to_the_bound_are_given_back(tmp_path):
    """Reserved are half the bytes of the prompt and 512; used are 110. Without settling, 6 requests would take minutes."""
    run, endpoint = make_run(tmp_path / "run", [f"answer {i}" for i in range(5)]), Endpoint()
    quota = Quota(tpm=600_000)
    with endpoint.serving() as url:
        assert judge_run(run, make_judge(url, quota=quota)).n_scored == 5
    assert quota._tokens._level > 600_000 / 60 - 6 * 200


def test_a_request_that_is_rejected_or_fails_gives_its_tokens_back(tmp_path):
    run = make_run(tmp_path / "run", ["rejected", "fails", "fine"])
    replies = {"rejected": lambda: failure(400, "too long"), "fails": lambda: failure(500), "fine": completion}
    endpoint, quota = Endpoint(lambda body, n: replies[material(body)[1]]()), Quota(tpm=600_000)
    with endpoint.serving() as url:
        judge_run(run, make_judge(url, quota=quota, max_attempts=1))
    assert quota._tokens._level > 600_000 / 60 - 2 * 200
