"""Progress of bulk generation on stderr: responses, responses and tokens a second, time left."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Lock, Thread
from typing import TextIO

from surgery.console.progress import LOG_SECONDS, clock_time

TERMINAL_SECONDS = 0.5
_LEAST_SHARE = 0.1  # of the responses of this call: fewer, the short ones that finish first, say little of the rest
_CHECKS = 5  # in each interval: whether a line is due


class Tally:
    """How far a run is. Its clock stands still while engines start, so rates are those of generating.

    Attributes:
        done, total: responses, those of earlier calls included.
        n_to_do: responses that this call is to give.
        n_new: responses of this call.
        longest: tokens that a response has at most.
    """

    def __init__(self, done: int, total: int, longest: int, clock: Callable[[], float] = time.monotonic):
        self.done, self.total, self.n_to_do, self.longest = done, total, total - done, longest
        self.n_new = self._finished_tokens = 0
        self._clock = clock
        self._before = 0.0
        self._since: float | None = None
        self._n_pending: Callable[[], int] | None = None

    @contextmanager
    def running(self, n_pending: Callable[[], int] | None = None) -> Iterator[None]:
        """Let the clock run.

        Args:
            n_pending: tells how many tokens there are of responses that have not finished.
        """
        self._since, self._n_pending = self._clock(), n_pending
        try:
            yield
        finally:
            self._before, self._since, self._n_pending = self.seconds, None, None

    @property
    def is_running(self) -> bool:
        """Whether responses are being generated, not an engine started."""
        return self._since is not None

    def add(self, n_tokens: int) -> None:
        """Count one response."""
        self.done += 1
        self.n_new += 1
        self._finished_tokens += n_tokens

    @property
    def seconds(self) -> float:
        """Spent generating in this call."""
        since = self._since
        return self._before + (0.0 if since is None else self._clock() - since)

    @property
    def seconds_left(self) -> tuple[float, float] | None:
        """(if the rest is as long as what has finished, if every response is as long as can be), at the rate of this call.

        None while little has finished: the short ones finish first and say little of the rest.
        """
        return self._seconds_left(self._pending())

    def _seconds_left(self, n_pending: int) -> tuple[float, float] | None:
        if not self.n_new or self.n_new < _LEAST_SHARE * self.n_to_do:
            return None
        n_left, n_tokens = self.total - self.done, self._finished_tokens + n_pending
        if not n_tokens:
            return (n_left / self.n_new * self.seconds,) * 2
        seconds_a_token = self.seconds / n_tokens
        least = max(0.0, self._finished_tokens / self.n_new * n_left - n_pending)
        return least * seconds_a_token, max(least, n_left * self.longest - n_pending) * seconds_a_token

    def _pending(self) -> int:
        n_pending = self._n_pending
        return 0 if n_pending is None else n_pending()

    def __str__(self) -> str:
        share = f"{self.done}/{self.total} responses ({100 * self.done // max(self.total, 1)} %)"
        seconds, n_pending = self.seconds, self._pending()
        n_tokens, left = self._finished_tokens + n_pending, self._seconds_left(n_pending)
        if seconds <= 0:
            return share
        counted = _rate(self.n_new / seconds) if self.n_new else f"{n_tokens} tokens"
        time_text = f"{clock_time(seconds)} so far" if left is None else f"{_between(*map(clock_time, left))} left"
        return f"{share}, {counted}, {n_tokens / seconds:.0f} tokens/s, {time_text}"


@contextmanager
def shown_progress(
    what: str,
    stream: TextIO | None = None,
    beside: Callable[[], str] = str,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Callable[[Tally], None]]:
    """Yield a callback for `generate_run` that writes where a tally stands: now and then, and where it ends.

    One line drawn over again on a terminal, a line every thirty seconds elsewhere, also within a step that takes longer.
    None while an engine starts, so that an error before the first token stands alone.

    Args:
        stream: stderr by default.
        beside: further words of the line, asked for each time.
    """
    display = _Display(what, sys.stderr if stream is None else stream, beside, clock)
    try:
        yield display.update
    finally:
        display.close()


class _Display:
    def __init__(self, what: str, stream: TextIO, beside: Callable[[], str], clock: Callable[[], float]):
        self._what, self._stream, self._beside, self._clock = what, stream, beside, clock
        self._on_terminal = stream.isatty()
        self._interval = TERMINAL_SECONDS if self._on_terminal else LOG_SECONDS
        self._last = clock()
        self._tally: Tally | None = None
        self._shown = ""
        self._lock, self._closing = Lock(), Event()
        self._ticking = Thread(target=self._tick, daemon=True)
        self._ticking.start()

    def update(self, tally: Tally) -> None:
        """Remember the tally, and write it when it is time."""
        self._tally = tally
        self._write_if_due()

    def close(self) -> None:
        """Write where the tally ended."""
        self._closing.set()
        self._ticking.join()
        if self._tally is not None and self._tally.n_new:
            self._write()
        if self._shown and self._on_terminal:
            print(file=self._stream, flush=True)

    def _tick(self) -> None:
        while not self._closing.wait(self._interval / _CHECKS):
            self._write_if_due()

    def _write_if_due(self) -> None:
        with self._lock:
            if self._tally is None or not self._tally.is_running:
                self._last = self._clock()
            elif self._clock() - self._last >= self._interval:
                self._write()

    def _write(self) -> None:
        self._last = self._clock()
        line = f"{self._what}: {self._tally}{self._beside()}"
        if line == self._shown:
            return
        if self._on_terminal:
            print("\r" + line.ljust(len(self._shown)), end="", file=self._stream, flush=True)
        else:
            print(line, file=self._stream, flush=True)
        self._shown = line


def _rate(per_second: float) -> str:
    return f"{per_second:.1f}/s" if per_second >= 0.1 else f"{60 * per_second:.1f}/min"


def _between(least: str, most: str) -> str:
    return least if least == most else f"{least} to {most}"
