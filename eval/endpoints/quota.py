"""Requests and tokens per minute: what an endpoint allows, kept to without asking it first."""

import asyncio
import time
from collections.abc import Callable

BURST_SECONDS = 1.0


class TokenBucket:
    """A token bucket: it fills at a steady rate and each reservation takes from it, into debt if need be.

    Its depth is one second's worth (at least 1), so that no minute passes more than 61/60 of the limit and one more
    reservation.
    """

    def __init__(self, per_minute: float, clock: Callable[[], float] = time.monotonic):
        """Set up, full.

        Args:
            per_minute: what may pass in a minute, above 0.
            clock: seconds, for tests.
        """
        if not per_minute > 0:
            raise ValueError(f"a rate must be above 0 per minute, found {per_minute}")
        self._rate = per_minute / 60.0
        self._depth = max(1.0, self._rate * BURST_SECONDS)
        self._level = self._depth
        self._clock = clock
        self._at = clock()

    def reserve(self, amount: float) -> float:
        """Take an amount; returns the seconds to wait before using it. Later reservations wait for it."""
        self._fill()
        wait = max(0.0, (min(amount, self._depth) - self._level) / self._rate)
        self._level -= amount
        return wait

    def give_back(self, amount: float) -> None:
        """Return what was reserved and not used; a negative amount takes what was used beyond it."""
        self._fill()
        self._level = min(self._depth, self._level + amount)

    def _fill(self) -> None:
        now = self._clock()
        self._level = min(self._depth, self._level + (now - self._at) * self._rate)
        self._at = now


class Quota:
    """The requests and tokens per minute that one judge may use, over all its replicas."""

    def __init__(self, rpm: float | None = None, tpm: float | None = None):
        self._requests = TokenBucket(rpm) if rpm is not None else None
        self._tokens = TokenBucket(tpm) if tpm is not None else None

    async def reserve(self, n_tokens: int) -> None:
        """Wait for the turn of one request of at most so many tokens."""
        waits = [self._requests.reserve(1.0)] if self._requests else []
        waits += [self._tokens.reserve(n_tokens)] if self._tokens else []
        if any(waits):
            await asyncio.sleep(max(waits))

    def settle(self, reserved: int, used: int) -> None:
        """Give back the tokens that a request did not use."""
        if self._tokens:
            self._tokens.give_back(reserved - used)
