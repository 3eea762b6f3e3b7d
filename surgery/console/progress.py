"""Progress on stderr: a bar on a terminal, elsewhere a line now and then."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

LOG_SECONDS = 30.0


class ProgressLines:
    """A line every `LOG_SECONDS`, of how much is done and how long the rest takes; nothing of what is done sooner.

    Args:
        unit: of what is counted; "B" for bytes.
    """

    def __init__(self, label: str, unit: str, stream: TextIO, clock: Callable[[], float] = time.monotonic):
        self._label, self._unit, self._stream, self._clock = label, unit, stream, clock
        self._since = self._last = clock()

    def update(self, done: int, total: int, label: str | None = None) -> None:
        """Take what is done of how much; another label begins a stage of its own."""
        now = self._clock()
        if label not in (None, self._label):
            self._label, self._since = label, now
        if now - self._last >= LOG_SECONDS and done:
            self._last = now
            left = clock_time((total - done) * (now - self._since) / done)
            share = f"{100 * done // max(total, 1)} %"
            print(f"{self._label}: {self._counted(done, total)} ({share}), {left} left", file=self._stream, flush=True)

    def _counted(self, done: int, total: int) -> str:
        if self._unit == "B":
            return f"{done / 1e9:.1f}/{total / 1e9:.1f} GB"
        return f"{done}/{total} {self._unit}s"


def clock_time(seconds: float) -> str:
    """0:07, 12:30, 1 h 05 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, over = divmod(minutes, 60)
    return f"{hours} h {over:02} min" if hours else f"{minutes}:{rest:02}"


@contextmanager
def progress_bar(label: str, unit: str) -> Iterator[Callable[..., None]]:
    """Progress on stderr, a bar where that is a terminal, else lines: call it with (done, total[, label])."""
    from tqdm import tqdm

    if not sys.stderr.isatty():
        yield ProgressLines(label, unit, sys.stderr).update
        return
    with tqdm(desc=label, unit=unit, unit_scale=unit == "B", file=sys.stderr) as bar:

        def update(done: int, total: int, label: str | None = None) -> None:
            if label is not None:
                bar.set_description(label, refresh=False)
            bar.total = total
            bar.update(done - bar.n)

        yield update
