"""Judging beside generation: responses are judged in a thread of their own while others are still generated."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack
from types import TracebackType

from eval.judge.docket import Docket, DocketEntry, Progress
from eval.judge.judging import JudgingSummary, Meter, check_repeats, judge_questions, summarize
from eval.judge.protocol import Judge
from eval.records.rows import Generation
from eval.records.run import Run
from surgery.console.errors import RefusalError

CAPACITY = 4096


class OverlappedJudging:
    """A context manager around a generation: `put` writes responses to the run and has them judged meanwhile.

    On entry it takes the run's writer lock (the generation inside may hold it too, through the same Run), reaches for
    the judge, and starts on responses of an earlier call that lack a verdict. On a good exit it waits until everything
    is judged. When the body fails or is interrupted, judging stops at once; what it finished is written.

    A judge that fails meanwhile stops judging only: responses go on being written, `fault` says what it was, and
    `refusal judge` goes on later. In a redacted run a response is written together with its verdicts, since nothing
    could be judged later: there, and with `stop_on_failure`, `put` raises the fault instead. A response that was not
    judged is then generated again by the same command.

    Attributes:
        fault: why judging stopped, or None.
        summary: of the judging, after the exit; None after a fault.
    """

    def __init__(
        self,
        run: Run,
        judge: Judge,
        *,
        repeats: int = 1,
        capacity: int = CAPACITY,
        stop_on_failure: bool = False,
        progress: Progress | None = None,
    ):
        """Set up; nothing is read or sent.

        Args:
            repeats: verdicts for each response.
            capacity: responses that may wait for their verdicts before `put` waits for the judge.
            stop_on_failure: raise a fault of the judge in `put`, and so stop the generation.
            progress: called in the judging's thread with (verdicts written, verdicts of the responses put so far).
        Raises: JudgingError.
        """
        check_repeats(judge, repeats)
        self.fault: RefusalError | None = None
        self.summary: JudgingSummary | None = None
        self._run, self._judge, self._repeats, self._progress = run, judge, repeats, progress
        self._capacity, self._stop_on_failure = capacity, stop_on_failure
        self._changed = threading.Condition()
        self._n_waiting, self._stopped, self._wanted = 0, False, True
        self._error: BaseException | None = None
        self._inbox: asyncio.Queue[list[Generation] | None] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._work, name="judging", daemon=True)
        self._held = ExitStack()

    def put(self, rows: Sequence[Generation], wait: bool = True) -> None:
        """Write responses and have them judged; waits while the judge is `capacity` responses behind.

        Args:
            wait: False where nothing may hold the caller up: for what an interrupted generation had finished.
        Raises: DiskError; with `stop_on_failure` or in a redacted run the judge's fault.
        """
        if not self._withholds:
            self._run.append_generations(rows)
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or not wait or self._n_waiting < self._capacity)
            if not self._stopped:
                self._n_waiting += len(rows)
                self._loop.call_soon_threadsafe(self._inbox.put_nowait, list(rows))
        if self._stopped and (self._stop_on_failure or self._withholds) and self._error is not None:
            raise self._error

    @property
    def n_waiting(self) -> int:
        """Responses put whose verdicts are not all written."""
        return self._n_waiting

    @property
    def _withholds(self) -> bool:
        """Whether responses are written only with their verdicts, since their text will not be there later."""
        return self._run.redaction is not None

    def __enter__(self) -> "OverlappedJudging":
        with ExitStack() as held:
            held.enter_context(self._run.writing())
            with self._run.discarded_if_empty():
                self._open()
            self._held = held.pop_all()
        return self

    def _open(self) -> None:
        """Read how the run stands and reach the judge. Raises: what `Docket` raises, the judge's fault."""
        self._run.refresh_manifest()
        self._meter = Meter(self._judge)
        self._docket = Docket(self._run, self._judge, self._repeats, progress=self._progress, settled=self._settled)
        self._earlier = {item.item_id for item in self._docket.unjudged}
        self._thread.start()
        try:
            self._ready.wait()
            if self._error is not None:
                raise self._error
        except BaseException:  # an interrupt as well
            self._abandon()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._held:
            try:
                if kind is None:
                    self._post(self._inbox.put_nowait, None)
                    self._thread.join()
            finally:
                self._abandon()
            self._conclude(error)

    def _conclude(self, error: BaseException | None) -> None:
        """Sum up after a good exit; keep a fault, raise what is no fault but a defect."""
        if error is not None:
            if self._error is not None and self._error is not error:
                error.add_note(f"judging had stopped before: {self._error}")
            return
        try:
            if self._error is not None:
                raise self._error
            self.summary = summarize(self._docket, self._meter)
        except RefusalError as fault:
            if self._stop_on_failure or self._withholds:
                raise
            self.fault = fault

    def _abandon(self) -> None:
        """End the judging's thread now; what was judged is written."""
        with self._changed:
            self._wanted = False
            if self._task is not None:
                self._post(self._task.cancel)
        self._thread.join()

    def _post(self, call: Callable[..., object], *args: object) -> None:
        """Have something done in the judging's thread, unless that has ended."""
        with self._changed:
            if not self._stopped:
                self._loop.call_soon_threadsafe(call, *args)

    # ------------------------------------------------------------ in the judging's thread

    def _work(self) -> None:
        try:
            asyncio.run(self._main())
        finally:
            self._stop()

    async def _main(self) -> None:
        with self._changed:
            self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
            if not self._wanted:
                return
        try:
            async with self._judge:
                self._ready.set()
                await judge_questions(self._docket, self._judge, self._arrivals())
        except asyncio.CancelledError:
            if self._wanted:
                raise
        except BaseException as err:  # handed to the generation's thread: raised by _open, put or __exit__
            self._error = err
        finally:
            self._stop()

    async def _arrivals(self) -> AsyncIterator[Sequence[DocketEntry]]:
        yield self._docket.admit(self._docket.unjudged)
        while (rows := await self._inbox.get()) is not None:
            yield self._docket.admit(rows)

    def _settled(self, items: Sequence[Generation]) -> None:
        """Make room, and in a redacted run write the responses, after their verdicts."""
        put = [item for item in items if item.item_id not in self._earlier]
        if self._withholds:
            self._run.append_generations(put)
        with self._changed:
            self._n_waiting -= len(put)
            self._changed.notify_all()

    def _stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._ready.set()
