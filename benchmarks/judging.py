#!/usr/bin/env python3
"""Verdicts a second of the LLM judge against a local endpoint that answers after a fixed time.

    taskset -c 0 python benchmarks/judging.py          # the judge on one core; the endpoint sets itself on another

The endpoint is a process of its own. Each round judges a fresh run of distinct responses from start to last verdict on
disk: records, requests, reading of answers. Rate and CPU time are of the judging process; a start-up probe is included.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eval.judge.endpoint.client import JudgeClient
from eval.judge.endpoint.endpoint_judge import EndpointJudge
from eval.judge.judging import judge_run
from eval.records.rows import Generation, item_id
from eval.records.run import Run

ANSWER = {"evidence": "gives the steps", "compliance": "1", "coherence": "1", "outcome": "compliance"}
WORDS = "Choose a pot a little larger than the old one and loosen the roots with your fingers. " * 8


def main() -> None:
    """Parse, start the endpoint, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--responses", type=int, default=4000)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--latency", type=float, default=0.5, help="seconds of each answer")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with endpoint(arguments.latency) as url:
        rounds = [measure(url, arguments) for _ in range(arguments.rounds)]
    ceiling = arguments.in_flight / arguments.latency
    print(
        f"{arguments.responses} responses, {arguments.in_flight} in flight, latency {arguments.latency} s (at most {ceiling:.0f}/s)"
    )
    for rate, per_cpu, cpu in rounds:
        print(f"  {rate:6.1f} verdicts/s, {cpu:5.1f} CPU-s ({per_cpu:.1f} verdicts per CPU-second)")
    print(
        f"median {statistics.median(r for r, _, _ in rounds):.1f} verdicts/s, {statistics.median(p for _, p, _ in rounds):.1f} per CPU-s"
    )


def measure(url: str, arguments: argparse.Namespace) -> tuple[float, float, float]:
    """(verdicts per second, verdicts per CPU-second, CPU-seconds) of one run."""
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder) / "run", arguments.responses)
        client = JudgeClient(url, concurrency=arguments.in_flight, max_concurrency=arguments.in_flight)
        wall, cpu = time.perf_counter(), cpu_seconds()
        summary = judge_run(run, EndpointJudge("judge", client))
        wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    if summary.n_scored != arguments.responses:
        raise SystemExit(f"only {summary.n_scored} of {arguments.responses} scored: {dict(summary.reasons)}")
    return arguments.responses / wall, arguments.responses / cpu, cpu


def cpu_seconds() -> float:
    """User and system time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def make_run(path: Path, n: int) -> Run:
    """A run of distinct responses of about 120 words."""
    run = Run.create(path, {"conditions": []})
    names = [f"p{number}" for number in range(n)]
    run.append_generations(
        Generation(
            *(item_id("baseline", "safe", name), "baseline", "safe", name, "How do I repot a fern?"),
            *("", None, 0, f"{name}. {WORDS}", "stop", 1, 1),
        )
        for name in names
    )
    return run


@contextmanager
def endpoint(latency: float) -> Iterator[str]:
    """A judge that gives the same verdict after a while, in a process of its own; yields its base URL."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=serve, args=(latency, os.sched_getaffinity(0), theirs), daemon=True)
    process.start()
    try:
        yield mine.recv()
    finally:
        process.terminate()
        process.join()


def serve(latency: float, taken: set[int], pipe: Any) -> None:
    """Answer chat completions until terminated, on cores that the judge does not use, where there are any."""
    from aiohttp import web

    free = set(range(os.cpu_count() or 1)) - taken
    if free:
        os.sched_setaffinity(0, free)
    message = {"role": "assistant", "content": json.dumps(ANSWER), "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 900, "completion_tokens": 40, "total_tokens": 940}
    reply = {"id": "c", "object": "chat.completion", "created": 0, "model": "judge", "choices": [choice]}
    body = json.dumps(reply | {"usage": usage}).encode()

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        await asyncio.sleep(latency)
        return web.Response(body=body, content_type="application/json")

    async def run() -> None:
        app = web.Application(client_max_size=2**24)
        app.router.add_post("/v1/chat/completions", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
        await site.start()
        pipe.send(f"http://127.0.0.1:{runner.addresses[0][1]}/v1")
        await asyncio.Event().wait()

    asyncio.run(run())


if __name__ == "__main__":
    main()
