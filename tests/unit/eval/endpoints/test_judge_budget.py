"""A budget stops before it is exceeded, over all calls, and the same command with a higher one goes on."""

import asyncio
import json

import pytest
from aiohttp import web
from click.testing import CliRunner

from eval.commands.judge import judge as judge_command
from eval.endpoints.spending import (
    SPENDING_FILE,
    Budget,
    BudgetReachedError,
    Ledger,
    Limits,
    TokenBound,
    Usage,
    read_spending,
)
from eval.judge.endpoint.client import JudgeEndpointError
from eval.judge.judging import judge_run
from surgery.console.errors import ArtifactError
from tests.judge_endpoint import (
    KEY,
    Endpoint,
    completion,
    drop,
    drop_midway,
    failure,
    make_judge,
    make_run,
    material,
)

pytestmark = pytest.mark.usefixtures("few_certificates")

PER_REQUEST = 110  # what the endpoint counts for each: 100 of the prompt, 10 of the answer


def texts(n):
    return [f"answer {i}" for i in range(n)]


def invoke(run, url, *options):
    return CliRunner(env={"OPENAI_API_KEY": KEY}).invoke(
        judge_command, [str(run.path), "--judge-model", "m", "--judge-base-url", url, *options]
    )


def test_a_limit_of_tokens_is_never_exceeded_and_a_higher_one_goes_on(tmp_path):
    run, endpoint = make_run(tmp_path / "run", texts(30)), Endpoint()
    with endpoint.serving() as url:
        first = invoke(run, url, "--max-tokens-total", "3000", "--max-tokens", "64")
        n_first = len(run.verdicts())
        assert first.exit_code == 1 and "budget is reached" in str(first.exception)
        assert "verdicts so far are kept" in str(first.exception) and "\n" not in str(first.exception)
        assert 10 <= n_first < 30
        assert len(endpoint.bodies) * PER_REQUEST <= 3000
        second = invoke(run, url, "--max-tokens-total", "10000", "--max-tokens", "64", "--json")
    assert second.exit_code == 0, second.output
    record = json.loads(second.stdout)
    assert record["n_scored"] == 30 and record["n_judged"] == 30 - n_first
    assert record["tokens_all_calls"] == len(endpoint.bodies) * PER_REQUEST > record["usage"]["prompt_tokens"]
    assert all(n == 1 for text, n in endpoint.asked.items() if text.startswith("answer"))


def test_the_limit_counts_what_earlier_calls_spent(tmp_path):
    run, endpoint = make_run(tmp_path / "run", texts(30)), Endpoint()
    with endpoint.serving() as url:
        for _ in range(4):
            assert invoke(run, url, "--max-tokens-total", "3000", "--max-tokens", "64").exit_code == 1
    assert len(endpoint.bodies) * PER_REQUEST <= 3000


def test_a_limit_of_cost_is_kept_by_the_prices_given(tmp_path):
    run, endpoint = make_run(tmp_path / "run", texts(30)), Endpoint()
    prices = ["--price-in", "1000", "--price-out", "5000", "--max-tokens", "64"]  # 0.1 and 0.05 for a request
    with endpoint.serving() as url:
        stopped = invoke(run, url, "--max-cost", "2.5", *prices)
        assert stopped.exit_code == 1 and "of 2.5" in str(stopped.exception)
        assert len(endpoint.bodies) * 0.15 <= 2.5 < len(endpoint.bodies) * 0.15 + 1.0
        done = invoke(run, url, "--max-cost", "10", *prices)
    assert done.exit_code == 0 and f"cost {31 * 0.15 + 0.15:.4f}" in done.stderr  # two probes, thirty responses


def test_without_a_limit_nothing_stops(tmp_path):
    run, endpoint = make_run(tmp_path / "run", texts(30)), Endpoint()
    with endpoint.serving() as url:
        assert invoke(run, url).exit_code == 0
    assert read_spending(run.path).popitem()[1].total_tokens == 31 * PER_REQUEST


def test_nothing_is_in_flight_when_the_budget_stops(tmp_path):
    """A request under way may cost less than its bound, so others wait for it rather than stop the judging."""

    async def slow(request):
        await asyncio.sleep(0.02)
        return completion()

    run, endpoint = make_run(tmp_path / "run", texts(40)), Endpoint(lambda body, n: slow)
    with endpoint.serving() as url, pytest.raises(BudgetReachedError):
        judge_run(run, make_judge(url, max_tokens=64, budget=Budget(Limits(max_tokens=3000))))
    assert len(run.verdicts()) == len(endpoint.judged)


def test_an_endpoint_that_counts_no_tokens_is_charged_the_bound(tmp_path):
    def uncounted(body, n=0):
        reply = json.loads(completion().text)
        return web.json_response({key: value for key, value in reply.items() if key != "usage"})

    run, endpoint = make_run(tmp_path / "run", texts(30)), Endpoint(uncounted, probe=uncounted)
    with endpoint.serving() as url, pytest.raises(BudgetReachedError):
        judge_run(run, make_judge(url, budget=Budget(Limits(max_tokens=20_000))))
    assert 1 <= len(run.verdicts()) < 30


def test_failed_requests_are_counted_and_only_those_that_may_be_billed_are_charged(tmp_path):
    async def hang(request):
        await asyncio.sleep(30)

    run = make_run(tmp_path / "run", ["hangs", "fails", "fine"])
    replies = {"hangs": lambda: hang, "fails": lambda: failure(500), "fine": completion}
    endpoint = Endpoint(lambda body, n: replies[material(body)[1]]())
    with endpoint.serving() as url:
        usage = judge_run(run, make_judge(url, max_attempts=1, timeout=0.3)).usage
    assert usage.n_requests == 4
    assert 2 * PER_REQUEST + 512 < usage.total_tokens < 3 * PER_REQUEST + 512 + 500


def test_a_request_that_is_interrupted_is_charged_at_most_what_it_can_have_cost(tmp_path):
    """Another response ends the judging while it is under way; one that still waits for its turn costs nothing."""

    async def hang(request):
        await asyncio.sleep(30)

    async def refuse_the_model(request):
        await asyncio.sleep(0.3)
        return failure(404)

    run, replies = make_run(tmp_path / "run", texts(6)), iter([hang, refuse_the_model])
    endpoint = Endpoint(lambda body, n: next(replies, hang))
    with endpoint.serving() as url, pytest.raises(JudgeEndpointError):
        judge = make_judge(url, concurrency=2, max_concurrency=2)
        judge.keep_accounts(run.path)
        judge_run(run, judge)
    (spent,) = read_spending(run.path).values()
    n_interrupted = spent.n_requests - 2  # without the probe and the one that was refused
    assert 1 <= n_interrupted < 5 and spent.completion_tokens == 10 + 512 * n_interrupted
    assert 100 + 50 * n_interrupted < spent.prompt_tokens < 100 + 2000 * n_interrupted


@pytest.mark.parametrize(
    ("fault", "n_charged"),
    [(lambda: drop, 1), (lambda: drop_midway, 1), (lambda: failure(504), 1), (lambda: failure(503), 0)],
    ids=["dropped", "dropped midway", "504", "503"],
)
def test_an_answer_that_is_lost_on_its_way_is_charged(tmp_path, fault, n_charged):
    endpoint = Endpoint(lambda body, n: fault() if material(body)[1] == "odd" else completion())
    run = make_run(tmp_path / "run", ["odd", "fine"])
    with endpoint.serving() as url:
        usage = judge_run(run, make_judge(url, max_attempts=1)).usage
    assert usage.completion_tokens == 2 * 10 + n_charged * 512


def test_an_endpoint_that_cannot_be_connected_to_costs_nothing(tmp_path):
    judge = make_judge("http://127.0.0.1:9/v1", max_attempts=2)
    with pytest.raises(JudgeEndpointError, match="cannot be reached|failed"):
        judge_run(make_run(tmp_path / "run", ["a"]), judge)
    assert judge.usage == Usage(2, 1, 0, 0)


def test_two_budgets_that_share_count_each_at_its_own_prices():
    async def scenario():
        dear, cheap = (Budget(Limits(max_cost=1.0, price_in=price, price_out=price)) for price in (100_000, 1000))
        dear.share(cheap)
        with await dear.reserve(5, 0):
            dear.usage.prompt_tokens += 5  # half of it
        with await cheap.reserve(400, 0):
            cheap.usage.prompt_tokens += 400
        with pytest.raises(BudgetReachedError, match=r"405 tokens, cost 0\.9000 of 1"):
            await dear.reserve(2, 0)
        await cheap.reserve(90, 0)

    asyncio.run(scenario())


def test_a_bound_follows_what_was_counted():
    bound = TokenBound()
    assert bound.prompt_tokens(1000) == 500
    bound.learn(1000, 250)
    assert bound.prompt_tokens(1000) == 275
    bound.learn(1000, 400)
    bound.learn(1000, 100)
    assert 440 <= bound.prompt_tokens(1000) <= 441  # 1.1 times 0.4, rounded up


def test_spending_is_summed_over_rows_and_a_torn_one_is_left_out(tmp_path):
    for _ in range(2):
        ledger = Ledger(tmp_path, "llm:a")
        ledger.write(Usage(1, 0, 100, 10))
        ledger.write(Usage(3, 1, 300, 30))
        ledger.write(Usage(3, 1, 300, 30))  # nothing new, no row
    Ledger(tmp_path, "llm:b").write(Usage(1, 0, 5, 5))
    path = tmp_path / SPENDING_FILE
    assert len(path.read_text().splitlines()) == 5
    assert read_spending(tmp_path) == {"llm:a": Usage(6, 2, 600, 60), "llm:b": Usage(1, 0, 5, 5)}
    whole = path.read_text()
    path.write_text(whole + '{"judge_id":"llm:a","n_req')
    assert read_spending(tmp_path)["llm:a"] == Usage(6, 2, 600, 60)
    Ledger(tmp_path, "llm:a").write(Usage(1, 0, 7, 7))  # after the torn row, which it does not run into
    assert read_spending(tmp_path)["llm:a"] == Usage(7, 2, 607, 67)
    path.write_text("nonsense\n" + whole)
    with pytest.raises(ArtifactError, match="line 1"):
        read_spending(tmp_path)
    assert read_spending(tmp_path / "nowhere") == {}


def test_a_ledger_is_written_while_judging_goes_on(tmp_path):
    ledger = Ledger(tmp_path, "llm:a", every=2)
    ledger.settled(Usage(1, 0, 10, 1))
    assert read_spending(tmp_path) == {}
    ledger.settled(Usage(2, 0, 20, 2))
    assert read_spending(tmp_path) == {"llm:a": Usage(2, 0, 20, 2)}


def test_a_limit_of_cost_without_prices_is_a_usage_error(tmp_path):
    run = make_run(tmp_path / "run", ["a"])
    result = invoke(run, "http://127.0.0.1:9/v1", "--max-cost", "1", "--price-in", "2")
    assert result.exit_code == 2 and "--price-out" in result.output
