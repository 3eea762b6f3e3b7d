"""How many requests are in flight: more after successes, fewer when the server says it is too many."""

import asyncio
import math
from collections.abc import Callable

DECREASE = 0.8


class AdaptiveConcurrency:
    """A limit on requests in flight: additive increase, multiplicative decrease (Chiu and Jain 1989).

    The limit grows by 1 after as many successes in a row as it is high, and falls to 0.8 of itself on a 429, at most
    once for the requests that were in flight together. A pause holds all requests back, not only the one that was told
    to wait.

    Attributes:
        limit: requests allowed in flight now, a float; at least 1, at most `ceiling`.
        n_in_flight: requests that hold a slot.
        on_resume: called when a pause ends.
    """

    def __init__(self, start: int = 20, ceiling: int = 256):
        if start < 1:
            raise ValueError(f"concurrency must be at least 1, found {start}")
        self.limit = float(start)
        self.ceiling = float(ceiling)
        self.n_in_flight = 0
        self.on_resume: Callable[[], None] = lambda: None
        self._successes = 0
        self._decreases = 0
        self._resume_at = 0.0

    def take(self) -> int:
        """Hold a slot until `release`; returns a mark for `throttled`."""
        self.n_in_flight += 1
        return self._decreases

    def release(self) -> None:
        """Give a slot back."""
        self.n_in_flight -= 1

    def succeeded(self) -> None:
        """Count a success; a run of them raises the limit by 1."""
        self._successes += 1
        if self._successes >= self.limit:
            self._successes = 0
            self.limit = min(self.limit + 1, self.ceiling)

    def throttled(self, mark: int, pause: float) -> None:
        """Lower the limit after a 429 and hold every request back.

        Args:
            mark: what `take` returned; a 429 to a request sent before the last decrease does not lower the limit again.
            pause: seconds before any further request may start.
        """
        self._successes = 0
        if pause > 0:
            loop = asyncio.get_running_loop()
            self._resume_at = max(self._resume_at, loop.time() + pause)
            loop.call_at(self._resume_at, self._resume, self._resume_at)
        if mark == self._decreases:
            self._decreases += 1
            self.limit = max(1.0, self.limit * DECREASE)

    @property
    def is_paused(self) -> bool:
        """Whether every request is held back for now."""
        return self._resume_at > 0.0

    @property
    def n_free(self) -> int:
        """Slots that may be taken now."""
        return 0 if self.is_paused else int(self.limit) - self.n_in_flight

    @property
    def load(self) -> float:
        """Requests in flight in units of the limit; infinite during a pause."""
        return math.inf if self.is_paused else self.n_in_flight / self.limit

    async def unpaused(self) -> None:
        """Wait for the end of a pause that began after a slot was given."""
        loop = asyncio.get_running_loop()
        while (left := self._resume_at - loop.time()) > 0:
            await asyncio.sleep(left)

    def _resume(self, resume_at: float) -> None:
        if resume_at == self._resume_at:  # no later pause has been asked for
            self._resume_at = 0.0
            self.on_resume()
