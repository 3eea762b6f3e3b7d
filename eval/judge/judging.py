"""Judging a run: what has no verdict yet is judged, verdicts are written as they come, nothing is judged twice."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

from eval.endpoints.spending import Usage
from eval.judge.docket import Docket, DocketEntry, Progress
from eval.judge.protocol import Judge
from eval.records.rows import SCORED, Verdict
from eval.records.run import Run
from surgery.console.errors import RefusalError

N_WORKERS = 256


class JudgingError(RefusalError):
    """There is nothing to judge, or nothing could be scored."""


@dataclass(frozen=True)
class JudgingSummary:
    """What one call of `judge_run` did, and how the run stands with this judge after it.

    Attributes:
        judge_id: key of the verdicts.
        n_scored, n_unscored: responses of the run with a scored verdict and without any, from this and earlier calls.
        reasons: why verdicts are unscored -> how many.
        n_judged: verdicts made by this call.
        n_cached: verdicts taken over by this call from an identical (prompt, response).
        seconds: wall time of this call.
        usage: requests and tokens of this call; all 0 for rules.
        repeats: verdicts asked for per response.
    """

    judge_id: str
    n_scored: int
    n_unscored: int
    reasons: Counter[str]
    n_judged: int
    n_cached: int
    seconds: float
    usage: Usage = field(default_factory=Usage)
    repeats: int = 1

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens of this call."""
        return self.usage.total_tokens


def judge_run(
    run: Run,
    judge: Judge,
    progress: Progress | None = None,
    *,
    repeats: int = 1,
    retry_unscored: bool = False,
    seed: int = 0,
) -> JudgingSummary:
    """Judge every response of a run that this judge has not judged; safe to repeat after any interruption.

    Responses left unscored for a reason that may pass (transport) are tried again. A judge sees each distinct
    (prompt, response) once per repeat, in an order randomized over conditions. The judge's description goes into the
    run's manifest under `judges`.

    Args:
        run: not held by another process.
        progress: called with (verdicts done, verdicts to do) of this call.
        repeats: verdicts for each response, to measure the judge's own noise; rules have none.
        retry_unscored: try all unscored responses again, whatever the reason.
        seed: of the order.
    Raises:
        JudgingError: the run has no responses, none of them could be scored, or rules are to be repeated.
        RedactedRunError: a response to be judged has no text any more.
        JudgeEndpointError: the endpoint is out of use; verdicts so far are kept.
        ArtifactError: another process is writing the run.
    """
    check_repeats(judge, repeats)
    meter = Meter(judge)
    with run.writing():
        run.refresh_manifest()
        docket = Docket(run, judge, repeats, retry_unscored=retry_unscored, progress=progress)
        if not docket.n_responses:
            raise JudgingError(f"{run.path}: no responses to judge; make some with refusal generate or sweep")
        questions = docket.admit(docket.unjudged)
        if questions:
            random.Random(seed).shuffle(questions)
            asyncio.run(_judge_all(docket, judge, questions))
        return summarize(docket, meter)


def check_repeats(judge: Judge, repeats: int) -> None:
    """Raises: JudgingError when a judge by rules is to be asked more than once, or any less than once."""
    if repeats < 1:
        raise JudgingError(f"repeats must be at least 1, found {repeats}")
    if repeats > 1 and judge.by_rules:
        raise JudgingError(
            f"{judge.judge_id} judges by rules, so {repeats} repeats would be equal; ask a model, or once"
        )


class Meter:
    """Time and requests spent since it was made."""

    def __init__(self, judge: Judge):
        self._judge, self._started = judge, time.monotonic()
        self._before = replace(judge.usage)

    def read(self) -> tuple[float, Usage]:
        """Seconds of wall time, and the judge's requests and tokens."""
        return time.monotonic() - self._started, self._judge.usage.since(self._before)


def summarize(docket: Docket, meter: Meter) -> JudgingSummary:
    """Count the run's verdicts by this judge. Raises: JudgingError when none is scored."""
    run, judge_id = docket.run, docket.judge.judge_id
    items = {item.item_id for item in run.generations()}
    rows = [row for row in run.verdicts(judge_id) if row.item_id in items and row.repeat < docket.repeats]
    scored = {row.item_id for row in rows if row.status == SCORED}
    reasons = Counter(row.reason for row in rows if row.status != SCORED)
    if not scored:
        told = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        example = next((row.evidence for row in rows if row.evidence), "")
        raise JudgingError(f"{run.path}: {judge_id} scored none of {len(items)} responses ({told}; {example})")
    seconds, usage = meter.read()
    return JudgingSummary(
        judge_id=judge_id,
        n_scored=len(scored),
        n_unscored=len({row.item_id for row in rows} - scored),
        reasons=reasons,
        n_judged=docket.n_judged,
        n_cached=docket.n_cached,
        seconds=seconds,
        usage=usage,
        repeats=docket.repeats,
    )


async def _judge_all(docket: Docket, judge: Judge, questions: Sequence[DocketEntry]) -> None:
    async def at_once() -> AsyncIterator[Sequence[DocketEntry]]:
        yield questions

    async with judge:
        await judge_questions(docket, judge, at_once())


async def judge_questions(docket: Docket, judge: Judge, arrivals: AsyncIterator[Sequence[DocketEntry]]) -> None:
    """Workers judge one question after another as they arrive; what they finish is written at once, also when one fails.

    Args:
        judge: entered.
        arrivals: questions of the docket; returns when they end and all are settled.
    Raises: the first fault of judge, disk or arrivals.
    """
    todo: asyncio.Queue[DocketEntry | None] = asyncio.Queue()
    finished: asyncio.Queue[tuple[DocketEntry, Verdict]] = asyncio.Queue()

    async def feed() -> None:
        async for questions in arrivals:
            for question in questions:
                todo.put_nowait(question)
        for _ in range(N_WORKERS):
            todo.put_nowait(None)

    async def work() -> None:
        while (question := await todo.get()) is not None:
            finished.put_nowait((question, await judge.judge(question.item)))
            await asyncio.sleep(0)  # the writer has its turn, also where no judge waits for a wire

    async def write() -> None:
        while True:
            first = await finished.get()
            docket.settle([first, *_drained(finished)])

    try:
        async with asyncio.TaskGroup() as tasks:
            writing = tasks.create_task(write())
            async with asyncio.TaskGroup() as working:
                working.create_task(feed())
                for _ in range(N_WORKERS):
                    working.create_task(work())
            writing.cancel()
    except BaseExceptionGroup as errors:
        raise _first_fault(errors) from errors
    finally:
        docket.settle(_drained(finished))


def _drained(finished: "asyncio.Queue[tuple[DocketEntry, Verdict]]") -> list[tuple[DocketEntry, Verdict]]:
    return [finished.get_nowait() for _ in range(finished.qsize())]


def _first_fault(errors: BaseExceptionGroup) -> BaseException:
    """The fault of the user's input or endpoint among what failed, else the whole group."""
    fault: BaseException | None = errors.subgroup(RefusalError)
    while isinstance(fault, BaseExceptionGroup):
        fault = fault.exceptions[0]
    return fault or errors
