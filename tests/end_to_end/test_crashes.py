"""Runners killed at random moments, in real processes against a real HTTP endpoint: nothing lost, nothing paid twice.

What may be asked again after a kill is exactly what was in flight: asked about, and without its verdict on disk. The
generation is a scripted one, as fast as the disk, so that kills fall between any two steps of writing and judging.
"""

import asyncio
import hashlib
import json
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import certifi
import pytest
from aiohttp import web

from eval.commands.judge import condition_rows
from eval.judge.endpoint.client import JudgeClient
from eval.judge.endpoint.endpoint_judge import EndpointJudge
from eval.judge.judging import judge_run
from eval.judge.overlap import OverlappedJudging
from eval.plan.conditions import Condition
from eval.records.redaction import Redaction
from eval.records.rows import Generation, item_id
from eval.records.run import Run
from tests.judge_endpoint import material, serving

CONCURRENCY = 16
pytestmark = pytest.mark.server
CONDITIONS = tuple(f"rv:L{layer}:a1" for layer in range(4))
MANIFEST = {"conditions": [Condition(name, "rv", name).to_json() for name in CONDITIONS]}
N_PROMPTS = 150
GIVE_UP = 60.0


def all_rows():
    """600 responses, 450 of them distinct: two conditions answer alike."""
    return [
        Generation(
            item_id(condition, "safe", f"p{i}"),
            condition,
            "safe",
            f"p{i}",
            f"Question {i}?",
            "",
            None,
            0,
            f"Answer {i} of {min(index, 2)}, in words that stand for nothing.",
            "stop",
            5,
            9,
        )
        for i in range(N_PROMPTS)
        for index, condition in enumerate(CONDITIONS)
    ]


def score_of(response):
    """0, 1 or 2 halves of compliance: what the endpoint says of a response."""
    return hashlib.sha256(response.encode()).digest()[0] % 3


class Endpoint:
    """A judge whose scores depend on the response alone; it counts what it is asked, by content."""

    def __init__(self):
        self.asked = Counter()

    async def reply(self, request):
        prompt, response = material(await request.json())
        if not prompt.startswith("Name a colour"):  # not the probe
            self.asked[prompt, response] += 1
        await asyncio.sleep(0.002 + 0.01 * random.random())
        draw = score_of(response)
        outcome = ("refusal", "partial", "compliance")[draw]
        scores = {"compliance": ("0", "0.5", "1")[draw], "coherence": "1", "outcome": outcome}
        message = {"role": "assistant", "content": json.dumps({"evidence": "as told", **scores})}
        return web.json_response({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})

    def catch_up(self):
        """Wait until what a killed runner had sent is counted: the system holds it, the loop reads all there is."""

        async def turns():
            for _ in range(50):
                await asyncio.sleep(0)

        asyncio.run_coroutine_threadsafe(turns(), self._loop).result(GIVE_UP)

    def serving(self):
        """Serve from a thread of its own; yields the base URL."""
        self._loop = asyncio.new_event_loop()
        return serving(self._loop, web.post("/v1/chat/completions", self.reply), handler_cancellation=False)


def make_judge(url):
    return EndpointJudge("judge-1", JudgeClient(url, concurrency=CONCURRENCY, max_concurrency=CONCURRENCY))


def judging(path, url):
    """The runner of `refusal judge`."""
    judge_run(Run.open(path), make_judge(url))


def generating(path, url):
    """A runner that answers what is missing and has it judged meanwhile."""
    run = Run.open(path)
    with OverlappedJudging(run, make_judge(url), capacity=64) as judged:
        done = run.generated_ids()
        missing = [row for row in all_rows() if row.item_id not in done]
        for start in range(0, len(missing), 4):
            judged.put(missing[start : start + 4])


@pytest.fixture(scope="module")
def forkserver(tmp_path_factory):
    """Runners start from a process that has imported all they need, and read one root certificate instead of all."""
    first = Path(certifi.where()).read_text().partition("-----END CERTIFICATE-----")
    path = tmp_path_factory.mktemp("tls") / "root.pem"
    path.write_text("".join(first[:2]) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(path))
        yield _preloaded()


def _preloaded():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["openai", "aiohttp", "httpx", "eval.judge.endpoint.endpoint_judge", "eval.judge.overlap"]
    )
    return context


def kill_at_random(context, runner, path, url, endpoint, draw):
    """Start a runner and kill it some requests later; returns its exit code."""
    before, most = endpoint.asked.total(), draw.randrange(1, 40)
    process = context.Process(target=runner, args=(str(path), url))
    process.start()
    deadline = time.monotonic() + GIVE_UP
    while process.is_alive() and endpoint.asked.total() - before < most and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02 * draw.random())
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    endpoint.catch_up()
    return process.exitcode


def content(row):
    return row.prompt, row.response


def settled(run, rows):
    """Contents of `rows` whose response and verdict are on disk."""
    kept = {row.item_id for row in run.verdicts()} & run.generated_ids()
    return {content(row) for row in rows if row.item_id in kept}


def table(run):
    return sorted(map(str, condition_rows(run, run.verdicts()[0].judge_id)))


WORK = ("judge", "generate", "generate redacted")


@pytest.mark.parametrize("n_kills", [5, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("work", WORK)
def test_runners_killed_again_and_again_lose_nothing_and_ask_again_only_what_was_in_flight(
    tmp_path, forkserver, work, n_kills
):
    redacted, runner = work.endswith("redacted"), judging if work == "judge" else generating
    manifest = MANIFEST | ({"redaction": Redaction.new().to_json()} if redacted else {})
    run, draw, endpoint = Run.create(tmp_path / "run", manifest), random.Random(0), Endpoint()
    if work == "judge":
        run.append_generations(all_rows())
    in_flight, n_killed, verdicts, written = Counter(), 0, {}, set()
    with endpoint.serving() as url:
        for _ in range(n_kills):
            before = endpoint.asked.copy()
            n_killed += kill_at_random(forkserver, runner, run.path, url, endpoint, draw) == -signal.SIGKILL
            lost = set((endpoint.asked - before).keys()) - settled(run, all_rows())
            assert len(lost) <= 2 * CONCURRENCY  # being asked, and answered but not written
            in_flight.update(lost)
            now = {row.item_id: row for row in run.verdicts()}
            assert verdicts.keys() <= now.keys() and written <= run.generated_ids()  # what was on disk stays
            verdicts, written = now, run.generated_ids()
        runner(run.path, url)
    assert n_killed >= n_kills // 2
    assert endpoint.asked == Counter({key: 1 + in_flight[key] for key in map(content, all_rows())})
    assert {row.item_id for row in run.verdicts()} == run.generated_ids() == {row.item_id for row in all_rows()}
    assert table(run) == table(uninterrupted(tmp_path / "calm", all_rows()))
    if redacted:
        assert not any(b"stand for nothing" in path.read_bytes() for path in run.path.iterdir())


def uninterrupted(path, rows):
    """The same responses, judged in one go."""
    run = Run.create(path, MANIFEST)
    run.append_generations(rows)
    with Endpoint().serving() as url:
        judge_run(run, make_judge(url))
    return run
