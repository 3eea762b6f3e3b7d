"""Addresses that serve the same as one: the least loaded takes the next request, and another one what it failed."""

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from itertools import count
from typing import NamedTuple, Self, TypeVar

from eval.endpoints.replica import Fault, Refused, Replica

MAX_WAIT = 120.0

T = TypeVar("T")


class NoneLeft(Exception):
    """Every replica is out of use for good."""


class Slot(NamedTuple):
    """Room for one request at a replica.

    Attributes:
        mark: for `AdaptiveConcurrency.throttled`.
        is_trial: whether the request finds out if the replica is back.
    """

    replica: Replica
    mark: int
    is_trial: bool


class Pool:
    """A queue of requests before several replicas, first come first served. Use as an async context manager.

    A request is bound to a replica only when that one has room for it, so that a slow, paused or dead one holds nobody
    up. A replica that fails is out of use for a while and then tried by a single request; what it left undone goes to
    the others.
    """

    def __init__(
        self,
        replicas: Sequence[Replica],
        *,
        max_attempts: int = 5,
        backoff: float = 1.0,
        patient: bool = False,
        readmit: Callable[[Replica], Awaitable[object]] | None = None,
        gone: Callable[[Replica, Fault], object] = lambda replica, fault: None,
        seed: int = 0,
    ):
        """Set up; nothing is sent.

        Args:
            max_attempts: attempts for one request, the first included.
            backoff: seconds before the first retry, doubled for each further one, with jitter of half to one and a half;
                none before a retry at another address.
            patient: whether a 429 is no attempt, and any wait that it asks for is kept, up to `MAX_WAIT`.
            readmit: asks a replica that was out whether it may be used again, before any request goes there; raises
                Fault when not. Without it a request is the trial, and while all are out the next one to be tried is used.
            gone: told of a replica that is out of use for good, and of its last fault.
            seed: of the jitter.
        """
        self.replicas = list(replicas)
        self._max_attempts, self._backoff, self._patient = max_attempts, backoff, patient
        self._readmit, self._gone = readmit, gone
        self._random = random.Random(seed)
        self._waiters: deque[tuple[asyncio.Future[Slot], Replica | None]] = deque()
        self._turn = count()

    async def __aenter__(self) -> Self:
        self._waiters.clear()
        for replica in self.replicas:
            await replica.open()
            replica.concurrency.on_resume = self._hand_out
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for replica in self.replicas:
            await replica.close()

    async def ask(
        self,
        send: Callable[[Replica], Awaitable[T]],
        turn: Callable[[], AbstractAsyncContextManager[object]] = nullcontext,
    ) -> T:
        """Have one request answered, again where that can help.

        Args:
            send: one attempt at a replica; raises Fault where another may succeed.
            turn: entered before each attempt waits for room, left after it.
        Raises: Fault, the last one, after `max_attempts`; NoneLeft; Refused and whatever else `send` raises, at once.
        """
        avoid, n_counted = None, 0
        for n_sent in count():
            async with turn(), self.slot(avoid) as slot:
                avoid = slot.replica
                if not await self._is_back(slot):
                    continue
                try:
                    return await self._attempt(slot, send)
                except Fault as err:
                    fault = err
            n_counted += not (self._patient and fault.status == 429)
            fault.url, fault.n_attempts = avoid.url, n_counted
            is_alone = not self.has_other(avoid)
            if is_alone and self._waits_too_long(fault):
                fault.text += f", asked to wait {fault.wait:.0f} s"
                raise fault
            if n_counted >= self._max_attempts:
                raise fault
            if is_alone:
                await asyncio.sleep(self._delay(n_sent, fault))
        raise AssertionError("unreachable")

    async def _attempt(self, slot: Slot, send: Callable[[Replica], Awaitable[T]]) -> T:
        """Send, and count for the replica what came of it."""
        replica = slot.replica
        try:
            result = await send(replica)
        except Fault as fault:
            self._failed(replica, fault)
            if fault.status == 429:
                pause = 0.0 if self._waits_too_long(fault) else min(fault.wait or 0.0, MAX_WAIT)
                replica.concurrency.throttled(slot.mark, pause)
            raise
        except Refused:
            replica.answered()
            raise
        replica.answered()
        replica.concurrency.succeeded()
        return result

    async def _is_back(self, slot: Slot) -> bool:
        """Whether a request may go there: asks a replica that was out."""
        if not slot.is_trial or self._readmit is None:
            return True
        try:
            await self._readmit(slot.replica)
        except Fault as fault:
            self._failed(slot.replica, fault)
            return False
        slot.replica.answered()
        self._hand_out()
        return True

    def _failed(self, replica: Replica, fault: Fault) -> None:
        was_gone = replica.is_gone
        replica.failed(fault, time.monotonic())
        if replica.is_gone and not was_gone:
            self._gone(replica, fault)

    def _waits_too_long(self, fault: Fault) -> bool:
        return not self._patient and (fault.wait or 0.0) > MAX_WAIT

    def _delay(self, n_before: int, fault: Fault) -> float:
        if fault.wait is not None:
            return min(fault.wait, MAX_WAIT)
        return min(self._backoff * 2.0 ** min(n_before, 20), MAX_WAIT) * self._random.uniform(0.5, 1.5)

    def has_other(self, replica: Replica) -> bool:
        """Whether another replica is in use and not told to wait."""
        now = time.monotonic()
        return any(
            other is not replica and other.admits(now) and not other.concurrency.is_paused for other in self.replicas
        )

    @asynccontextmanager
    async def slot(self, avoid: Replica | None = None) -> AsyncIterator[Slot]:
        """Wait for room at a replica, other than `avoid` if there is one, and hold it. Raises: NoneLeft."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append((waiter, avoid))
        self._hand_out()
        try:
            slot = await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._leave(waiter.result())  # given to a request that no longer wants it
            raise
        try:
            yield slot
        finally:
            self._leave(slot)

    def _leave(self, slot: Slot) -> None:
        if slot.is_trial:
            slot.replica.end_trial()
        slot.replica.concurrency.release()
        if slot.replica.is_out:
            delay = max(0.0, slot.replica.out_until - time.monotonic())
            asyncio.get_running_loop().call_later(delay + 0.001, self._hand_out)
        self._hand_out()

    def _hand_out(self) -> None:
        """Give those who wait the room there is."""
        passed_over = []
        while self._waiters:
            waiter, avoid = self._waiters.popleft()
            if waiter.done():
                continue
            if all(replica.is_gone for replica in self.replicas):
                waiter.set_exception(NoneLeft())
                continue
            slot = self._take(avoid)
            if slot is not None:
                waiter.set_result(slot)
                continue
            passed_over.append((waiter, avoid))
            if avoid is None:
                break
        self._waiters.extendleft(reversed(passed_over))

    def _take(self, avoid: Replica | None) -> Slot | None:
        """Room at the least loaded replica that may be used, by turns among equals."""
        now, turn = time.monotonic(), next(self._turn)
        admitting = [replica for replica in self.replicas if replica.admits(now)]
        if not admitting and self._readmit is None:
            admitting = [min(self.replicas, key=lambda replica: replica.out_until)]
        admitting = [replica for replica in admitting if replica is not avoid] or admitting
        at = {id(replica): (index - turn) % len(self.replicas) for index, replica in enumerate(self.replicas)}
        free = [replica for replica in admitting if replica.concurrency.n_free > 0]
        if not free:
            return None
        replica = min(free, key=lambda replica: (replica.concurrency.load, at[id(replica)]))
        is_trial = replica.try_again()
        return Slot(replica, replica.concurrency.take(), is_trial)
