"""Answering by OpenAI-compatible servers: requests go to the least loaded replica, and one that dies is left out."""

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from typing import Any

from eval.endpoints.replicas import Busy, Replica, ReplicaFault
from eval.endpoints.served_models import Needs, ServersError
from vllm_refusal.engine.engine import Request, Response, Sampling

MOST_ATTEMPTS = 5
GRACE_SECONDS = 15.0
PROBES = 15
UNKNOWN_LENGTH = 1 << 30
_LOOK_AGAIN = 0.25  # seconds
_MOST_UNREAD = 4096


class Servers:
    """Several replicas of one server as one answerer. Use as a context manager.

    Prompts are sent as token ids to /v1/completions, rendered here: the same ids that an engine of ours would get,
    whatever chat template the server has.

    A replica that cannot be reached or fails is left out and asked for its models again and again; it comes back when it
    answers within `grace` seconds, and its ablations are then checked anew. Meanwhile its requests go to the others.

    Attributes:
        description: for the run's manifest.
    """

    def __init__(
        self,
        urls: Sequence[str],
        needs: Needs,
        *,
        api_key: str = "",
        served_model: str | None = None,
        concurrency: int = 128,
        grace: float = GRACE_SECONDS,
        notify: Callable[[str], object] = print,
    ):
        """Set up; nothing is sent.

        Args:
            urls: e.g. "http://localhost:8000/v1".
            needs: every ablation that requests name; each replica must have all of them.
            api_key: sent as a bearer token, if any.
            served_model: name of the unedited model there; None for the only one.
            concurrency: requests in flight at each replica.
            notify: told in one line of replicas that are left out.
        Raises: ServersError for an address that is none, or given twice.
        """
        self.replicas = [Replica(url, needs, api_key, served_model, concurrency) for url in urls]
        if len({replica.url for replica in self.replicas}) < len(urls):
            raise ServersError("--base-url: an address is given twice; name each server once")
        self._grace, self._notify = grace, notify
        self.description: dict[str, Any] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="servers", daemon=True)

    def __enter__(self) -> "Servers":
        """Ask every replica what it serves. Raises: ServersError when one lacks what is needed, or none answers."""
        self._thread.start()
        try:
            self._call(self._open())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def max_model_len(self) -> int:
        """Longest prompt and response together, in tokens, at the replica where it is shortest."""
        return min(replica.served.max_model_len or UNKNOWN_LENGTH for replica in self._alive())

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Response]:
        """Answer requests, yielding each response as soon as it has finished; order is not kept.

        Raises: ServersError when a request is refused, fails again and again, or no replica is left.
        """
        unread: queue.SimpleQueue[Response | None] = queue.SimpleQueue()
        dispatch = _Dispatch(self.replicas, requests, sampling, unread, self._grace, self._notify)
        future = asyncio.run_coroutine_threadsafe(dispatch.run(), self._loop)
        try:
            while (response := unread.get()) is not None:
                yield response
            future.result()
        finally:
            future.cancel()

    def _alive(self) -> list[Replica]:
        return [replica for replica in self.replicas if replica.is_alive]

    async def _open(self) -> None:
        faults = await asyncio.gather(*(replica.open() for replica in self.replicas))
        for replica, fault in zip(self.replicas, faults, strict=True):
            if fault is not None:
                self._notify(f"{replica.url} is left out: {fault}")
        if not self._alive():
            raise ServersError(f"none of the servers answers ({faults[0]}); start them and repeat the command")
        self.description = {"servers": [replica.to_json() for replica in self._alive()]}

    async def _close(self) -> None:
        running = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for replica in self.replicas:
            await replica.close()

    def _call(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


class _Dispatch:
    """Hands the requests of one `generate` to the replicas."""

    def __init__(
        self,
        replicas: Sequence[Replica],
        requests: Sequence[Request],
        sampling: Sampling,
        unread: "queue.SimpleQueue[Response | None]",
        grace: float,
        notify: Callable[[str], object],
    ):
        self._replicas, self._sampling, self._unread = replicas, sampling, unread
        self._grace, self._notify = grace, notify
        self._waiting = deque((request, 0) for request in requests)
        self._changed = asyncio.Event()
        self._fault: BaseException | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Answer everything. Raises: ServersError."""
        try:
            while (self._waiting or self._tasks) and self._fault is None:
                self._changed.clear()
                self._send_what_fits()
                self._check_any_left()
                await self._something_happens()
            if self._fault is not None:
                raise self._fault
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._unread.put(None)

    async def _something_happens(self) -> None:
        """Waits also where the reader of the responses is behind, so that they do not pile up."""
        with suppress(TimeoutError):  # room that another `generate` leaves comes free without a word to this one
            async with asyncio.timeout(_LOOK_AGAIN):  # not wait_for, which can swallow a cancellation (Python 3.11)
                await self._changed.wait()
        while self._unread.qsize() > _MOST_UNREAD:
            await asyncio.sleep(0.05)

    def _send_what_fits(self) -> None:
        while self._waiting:
            free = [replica for replica in self._replicas if replica.is_free]
            if not free:
                return
            replica = min(free, key=lambda replica: replica.n_in_flight)
            replica.n_in_flight += 1
            self._start(self._answer(replica, *self._waiting.popleft()), replica.release)

    def _check_any_left(self) -> None:
        if self._waiting and not any(replica.is_alive or replica.is_probed for replica in self._replicas):
            raise ServersError(
                "no server is left; what was answered is kept, and the same command goes on when one is back"
            )

    async def _answer(self, replica: Replica, request: Request, n_failed: int) -> None:
        try:
            self._unread.put(await replica.complete(request, self._sampling))
        except Busy as busy:
            replica.rest(busy.seconds, self._changed.set)
            self._waiting.appendleft((request, n_failed))
        except ReplicaFault as fault:
            self._take_out(replica, fault)
            if n_failed + 1 >= MOST_ATTEMPTS:
                raise ServersError(
                    f"a request failed {MOST_ATTEMPTS} times, the last at {replica.url}: {fault}"
                ) from fault
            self._waiting.appendleft((request, n_failed + 1))

    def _take_out(self, replica: Replica, fault: ReplicaFault) -> None:
        if replica.is_alive:
            replica.is_alive, replica.is_probed = False, True
            self._start(self._probe(replica, fault), replica.end_probing)

    async def _probe(self, replica: Replica, fault: ReplicaFault) -> None:
        """Take a replica back in when it answers within the grace."""
        deadline = asyncio.get_running_loop().time() + self._grace
        while not replica.is_alive and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(self._grace / PROBES)
            await replica.ask_models()
        if not replica.is_alive:
            self._notify(f"{replica.url} is left out: {fault}")

    def _start(self, coroutine: Coroutine[Any, Any, None], at_end: Callable[[], None]) -> None:
        """Run something beside; `at_end` is called in any case, also for a task that is cancelled before it began."""
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(lambda _: at_end())
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None and self._fault is None:
            self._fault = task.exception()
        self._changed.set()
