"""Which replica takes the next request: the least loaded one that is in use, as soon as one has room."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count

from eval.endpoints.judge_replica import Replica


class Dispatcher:
    """A queue of requests before several replicas, first come first served.

    A request is bound to a replica only when that one has room for it, so that a slow, paused or dead one holds nobody up.
    """

    def __init__(self, replicas: Sequence[Replica]):
        """Set up, in the event loop of the requests."""
        self._replicas = list(replicas)
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._turn = count()
        for replica in self._replicas:
            replica.concurrency.on_free = self._wake

    @asynccontextmanager
    async def slot(self, avoid: Replica | None = None) -> AsyncIterator[tuple[Replica, int]]:
        """Wait for room at a replica, other than `avoid` if there is one, and hold it; yields it and its mark."""
        replica = await self._await_room(avoid)
        replica.try_again()
        async with replica.concurrency.slot() as mark:
            self._wake()  # there may be room for the next one as well
            try:
                yield replica, mark
            finally:
                if replica.is_out:
                    delay = max(0.0, replica.out_until - time.monotonic())
                    asyncio.get_running_loop().call_later(delay, self._wake)

    async def _await_room(self, avoid: Replica | None) -> Replica:
        replica = None if self._waiters else self._with_room(avoid)
        waited = False
        while replica is None:
            waiter = asyncio.get_running_loop().create_future()
            (self._waiters.appendleft if waited else self._waiters.append)(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._wake()  # the turn goes to the next one
                raise
            waited = True
            replica = self._with_room(avoid)
        return replica

    def _with_room(self, avoid: Replica | None) -> Replica | None:
        """The least loaded replica in use, by turns among equals; while all are out, the one to be tried the soonest."""
        now, turn = time.monotonic(), next(self._turn)
        admitting = [replica for replica in self._replicas if replica.admits(now)]
        if not admitting:
            admitting = [min(self._replicas, key=lambda replica: replica.out_until)]
        admitting = [replica for replica in admitting if replica is not avoid] or admitting
        at = {id(replica): (index - turn) % len(self._replicas) for index, replica in enumerate(self._replicas)}
        free = [replica for replica in admitting if replica.concurrency.n_free > 0]
        return min(free, key=lambda replica: (replica.concurrency.load, at[id(replica)]), default=None)

    def has_other(self, replica: Replica) -> bool:
        """Whether another replica is in use and not told to wait."""
        now = time.monotonic()
        return any(
            other is not replica and other.admits(now) and not other.concurrency.is_paused for other in self._replicas
        )

    def _wake(self) -> None:
        """Let the first one that waits look again."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
