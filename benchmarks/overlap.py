#!/usr/bin/env python3
"""What judging beside a generation costs: the same requests with their responses judged meanwhile and not, in turn.

    python benchmarks/overlap.py                            # the organisms' shape, an endpoint of 0.5 s latency
    python benchmarks/overlap.py --size 100m --requests 64 --new-tokens 128 --rounds 7

Weights are random; a response is filler of 4 characters a token, so that the judge's requests are as long as real ones.
The endpoint is a process of its own. Prints, over rounds, the median ratio judged / not judged of this process's CPU time
(engine and judging together) and of wall time, until the last response, and the seconds that the judge took after it.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import runtime  # sets one thread, before torch is imported
from judging import endpoint

from eval.judge.endpoint.client import JudgeClient
from eval.judge.endpoint.endpoint_judge import EndpointJudge
from eval.judge.overlap import OverlappedJudging
from eval.records.rows import Generation, item_id
from eval.records.run import Run
from vllm_refusal.engine.engine import Engine

FLUSH_ROWS = 64


@dataclass(frozen=True)
class Measured:
    """One generation: seconds of CPU and wall time until the last response, and until the last verdict after that."""

    cpu: float
    wall: float
    after: float


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=runtime.SIZES, default="tiny")
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--latency", type=float, default=0.5, help="seconds of the endpoint")
    parser.add_argument("--concurrency", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--compiled", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, endpoint(arguments.latency) as url:
        model = runtime.write_model(Path(folder) / "model", arguments.size)
        with runtime.start(model, {}, arguments) as engine:
            compare(engine, Path(folder), url, arguments)


def compare(engine: Engine, folder: Path, url: str, arguments: argparse.Namespace) -> None:
    """Alternating rounds, the first one to warm up; which goes first alternates too."""
    rounds: list[dict[bool, Measured]] = []
    for number in range(arguments.rounds + 1):
        found = {}
        for judged in (True, False) if number % 2 else (False, True):
            run = Run.create(folder / f"run-{number}-{judged}", {"conditions": []})
            found[judged] = generate(engine, run, url if judged else None, arguments)
        rounds += [found] if number else []
    ratios = {name: [getattr(f[True], name) / getattr(f[False], name) for f in rounds] for name in ("cpu", "wall")}
    alone = statistics.median(found[False].wall for found in rounds)
    after = statistics.median(found[True].after for found in rounds)
    rate = arguments.requests / alone
    print(f"{arguments.size}: {rate:.1f} responses/s of {arguments.new_tokens} tokens without judging")
    for name, kept in ratios.items():
        print(f"  {name:4} with / without judging: {statistics.median(kept):.3f} ({min(kept):.3f}-{max(kept):.3f})")
    print(f"  last verdict {after:.2f} s after the last response (latency {arguments.latency:g} s)")


def generate(engine: Engine, run: Run, url: str | None, arguments: argparse.Namespace) -> Measured:
    """Answer all requests into a run, judged meanwhile where there is an endpoint."""
    workload = runtime.Workload(arguments.requests, 8, arguments.new_tokens)
    if url is None:
        with run.writing():
            cpu, wall = timed(engine, workload, run.append_generations)
        return Measured(cpu, wall, 0.0)
    limit = arguments.concurrency
    judge = EndpointJudge("judge-1", JudgeClient(url, concurrency=limit, max_concurrency=limit))
    with OverlappedJudging(run, judge) as judging:
        cpu, wall = timed(engine, workload, judging.put)
        ended = time.perf_counter()
    assert judging.summary is not None and judging.summary.n_scored == arguments.requests, judging.fault
    return Measured(cpu, wall, time.perf_counter() - ended)


def timed(engine: Engine, workload: runtime.Workload, write: Any) -> tuple[float, float]:
    """CPU and wall seconds until every response was handed to `write`."""
    cpu, wall = time.process_time(), time.perf_counter()
    for rows in batches(engine, workload):
        write(rows)
    return time.process_time() - cpu, time.perf_counter() - wall


def batches(engine: Engine, workload: runtime.Workload) -> Iterator[Sequence[Generation]]:
    """Responses as they finish, as many together as a generation writes."""
    rows: list[Generation] = []
    for response in engine.generate(runtime.requests(workload, "unused"), workload.sampling):
        text = f"Response {response.id}. " + "word " * (4 * workload.n_new // 5)
        key = item_id("baseline", "safe", response.id)
        rows.append(
            Generation(key, "baseline", "safe", response.id, "Why?", "", None, 0, text, "stop", 8, response.n_tokens)
        )
        if len(rows) == FLUSH_ROWS:
            yield rows
            rows = []
    yield rows


if __name__ == "__main__":
    main()
