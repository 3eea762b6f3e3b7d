"""Answering by OpenAI-compatible servers that all have what a run needs."""

import asyncio
import queue
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

from eval.endpoints.address import CONCURRENCY, checked_urls
from eval.endpoints.completions import NEUTRAL, SILENT_SECONDS, ask_models, complete
from eval.endpoints.pool import NoneLeft, Pool
from eval.endpoints.replica import Fault, Replica
from eval.endpoints.served_models import Needs, ServedModels, ServersError
from vllm_refusal.engine.engine import Request, Response, Sampling

GRACE_SECONDS = 15.0
PROBES = 15
UNKNOWN_LENGTH = 1 << 30
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
        concurrency: int = CONCURRENCY,
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
        pause = grace / PROBES
        replicas = [
            Replica(
                url,
                api_key,
                concurrency=(concurrency, concurrency),
                timeout=SILENT_SECONDS,
                out_after=1,
                cooldown=pause,
                longest_out=pause,
                grace=grace,
            )
            for url in checked_urls(list(urls), "--base-url", ServersError)
        ]
        self._pool = Pool(replicas, backoff=pause, patient=True, readmit=self._check, gone=self._tell)
        self._needs, self._served_model, self._notify = needs, served_model, notify
        self._n_workers = concurrency * len(replicas)
        self._served: dict[str, ServedModels] = {}
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
        return min(served.max_model_len or UNKNOWN_LENGTH for served in self._alive())

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Response]:
        """Answer requests, yielding each response as soon as it has finished; order is not kept.

        Raises: ServersError when a request is refused, fails again and again, or no replica is left.
        """
        unread: queue.SimpleQueue[Response | None] = queue.SimpleQueue()
        future = asyncio.run_coroutine_threadsafe(self._answer_all(requests, sampling, unread), self._loop)
        try:
            while (response := unread.get()) is not None:
                yield response
            future.result()
        finally:
            future.cancel()

    def _alive(self) -> list[ServedModels]:
        return [self._served[replica.url] for replica in self._pool.replicas if not replica.is_gone]

    async def _open(self) -> None:
        await self._pool.__aenter__()
        faults = await asyncio.gather(*(self._reached(replica) for replica in self._pool.replicas))
        if not self._alive():
            raise ServersError(f"none of the servers answers ({faults[0]}); start them and repeat the command")
        self.description = {"servers": [_described(served) for served in self._alive()]}

    async def _reached(self, replica: Replica) -> Fault | None:
        """Leave out a replica that does not answer; returns why it does not."""
        try:
            await self._check(replica)
        except Fault as fault:
            replica.is_gone = True
            self._tell(replica, fault)
            return fault
        return None

    async def _check(self, replica: Replica) -> None:
        """Ask a replica what it serves. Raises: Fault; ServersError when it lacks what is needed, or refuses the key."""
        served = await ask_models(replica, self._served_model)
        served.check(self._needs)
        self._served[replica.url] = served

    def _tell(self, replica: Replica, fault: Fault) -> None:
        self._notify(f"{replica.url} is left out: {fault}")

    async def _answer_all(
        self, requests: Sequence[Request], sampling: Sampling, unread: "queue.SimpleQueue[Response | None]"
    ) -> None:
        todo = iter(requests)

        async def work() -> None:
            for request in todo:
                unread.put(await self._answer(request, sampling))
                while unread.qsize() > _MOST_UNREAD:  # the reader is behind
                    await asyncio.sleep(0.05)

        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(min(self._n_workers, len(requests))):
                    tasks.create_task(work())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        finally:
            unread.put(None)

    async def _answer(self, request: Request, sampling: Sampling) -> Response:
        async def send(replica: Replica) -> Response:
            asked = self._served[replica.url].asks_for(request.ablation, self._needs)
            choice, usage = await complete(replica, {**asked, **_body(request, sampling)})
            return _response(replica.url, request, choice, usage)

        try:
            return await self._pool.ask(send)
        except Fault as fault:
            raise ServersError(
                f"a request failed {fault.n_attempts} times, the last at {fault.url}: {fault}"
            ) from fault
        except NoneLeft as err:
            raise ServersError(
                "no server is left; what was answered is kept, and the same command goes on when one is back"
            ) from err

    async def _close(self) -> None:
        running = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._pool.__aexit__()

    def _call(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


def _described(served: ServedModels) -> dict[str, Any]:
    """What a run's manifest says of a server."""
    date = {"date": served.date} if served.date else {}
    return {"url": served.url, "model": served.base, "ablations": sorted(served.ablations), **date}


def _body(request: Request, sampling: Sampling) -> dict[str, Any]:
    body = {"prompt": request.token_ids, "max_tokens": sampling.max_tokens, "temperature": sampling.temperature}
    if sampling.temperature > 0:
        body["seed"] = sampling.seed if request.seed is None else request.seed
    return {**body, **NEUTRAL}


def _response(url: str, request: Request, choice: Any, usage: Any) -> Response:
    try:
        text, finish_reason = choice["text"], choice["finish_reason"]
        n_prompt_tokens, n_tokens = usage["prompt_tokens"], usage["completion_tokens"]
    except (TypeError, KeyError) as err:
        raise Fault(f"its answer is no completion ({type(err).__name__})") from err
    if n_prompt_tokens != len(request.token_ids):
        raise ServersError(
            f"{url} counts {n_prompt_tokens} tokens in a prompt of {len(request.token_ids)}; it must take token ids as "
            "/v1/completions of vLLM does"
        )
    return Response(request.id, text, finish_reason or "unknown", n_prompt_tokens, n_tokens)
