"""The way to a judge endpoint: completions from one or several replicas, with bounded retries, quotas and a budget."""

import asyncio
import json
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

from eval.endpoints.judge_dispatch import Dispatcher
from eval.endpoints.judge_replica import (
    Completion,
    Failure,
    JudgeEndpointError,
    Replica,
    RequestRejected,
    public_url,
    retry_after,
)
from eval.endpoints.quota import Quota
from eval.endpoints.spending import Budget, Ledger, TokenBound, Usage

__all__ = [
    "Completion",
    "JudgeClient",
    "JudgeEndpointError",
    "RequestRejected",
    "TransportFailure",
    "Usage",
    "public_url",
    "retry_after",
]

MAX_WAIT = 120.0


class TransportFailure(Exception):
    """One request failed for good after its attempts; the text says how, without keys."""


class JudgeClient:
    """A client of one OpenAI-compatible API at one or several addresses.

    Each request goes to the least loaded address. One that fails again and again is out of use for a while and then
    tried by a single request; what it left undone goes to the others.

    Attributes:
        base_url: the first address; it stands for all of them.
        budget: what may be spent and has been.
        ledger: where spending is written down; None to keep it in memory.
    """

    def __init__(
        self,
        base_url: str | Sequence[str],
        api_key: str | None = None,
        *,
        concurrency: int = 20,
        max_concurrency: int = 256,
        timeout: float = 120.0,
        max_attempts: int = 5,
        backoff: float = 1.0,
        breaker: int = 10,
        quota: Quota | None = None,
        budget: Budget | None = None,
        seed: int = 0,
    ):
        """Set up; nothing is sent.

        Args:
            base_url: e.g. "http://localhost:8000/v1", or several that serve the same model.
            api_key: sent as a bearer token; None or "" sends no Authorization header.
            concurrency: requests in flight at the start, over all addresses.
            max_concurrency: as far as that may grow, likewise.
            timeout: seconds for one attempt from start to last byte.
            max_attempts: attempts for one request, the first included.
            backoff: seconds before the first retry, doubled for each further one, with jitter of half to one and a half;
                none before a retry at another address. Also a replica's first time out is twice this.
            breaker: requests that may fail for good in a row before the endpoint is given up.
            quota: requests and tokens per minute.
            seed: of the jitter.
        """
        urls = [base_url] if isinstance(base_url, str) else list(base_url)
        if len({public_url(url) for url in urls}) != len(urls) or not urls:
            raise JudgeEndpointError(f"judge base URLs: expected different addresses, found {len(urls)} with repeats")
        self.base_url = urls[0]
        shares = (max(1, concurrency // len(urls)), max(1, max(concurrency, max_concurrency) // len(urls)))
        self.replicas = [
            Replica(url, api_key or "", concurrency=shares, timeout=timeout, cooldown=2 * backoff) for url in urls
        ]
        self.quota, self.budget = quota or Quota(), budget or Budget()
        self.ledger: Ledger | None = None
        self._bound = TokenBound()
        self._max_attempts, self._backoff, self._breaker = max_attempts, backoff, breaker
        self._random = random.Random(seed)
        self._failures_in_row = 0
        self._dispatcher = Dispatcher(self.replicas)
        self._stack = AsyncExitStack()

    @property
    def usage(self) -> Usage:
        """What has been spent so far."""
        return self.budget.usage

    async def __aenter__(self) -> "JudgeClient":
        self._failures_in_row = 0
        self._stack = AsyncExitStack()
        for replica in self.replicas:
            await replica.open()
            self._stack.push_async_callback(replica.close)
        self._dispatcher = Dispatcher(self.replicas)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self.ledger is not None:
            self.ledger.write(self.usage)
        await self._stack.aclose()

    async def complete(self, **body: Any) -> Completion:
        """Send one chat completion request (a plain one when it has a `prompt`), again where that can help.

        Raises:
            RequestRejected: a 4xx that would repeat.
            TransportFailure: no usable answer after `max_attempts`.
            JudgeEndpointError: the key or the model is refused, or `breaker` requests in a row failed.
            BudgetReachedError: the request could exceed what may be spent.
        """
        try:
            completion = await self._with_retries(body)
        except TransportFailure as err:
            self._failures_in_row += 1
            if self._failures_in_row >= self._breaker:
                raise JudgeEndpointError(
                    f"judge endpoint {self._where()} failed {self._failures_in_row} times in a row, last: "
                    f"{err}; verdicts so far are kept, mend it and run the same command to go on"
                ) from err
            raise
        self._failures_in_row = 0
        return completion

    def _where(self) -> str:
        return ", ".join(public_url(replica.base_url) for replica in self.replicas)

    async def _with_retries(self, body: Mapping[str, Any]) -> Completion:
        failure, replica = "", None
        for attempt in range(self._max_attempts):
            self.usage.n_retries += attempt > 0
            replica, result = await self._attempt(body, avoid=replica)
            if isinstance(result, Completion):
                return result
            failure = result.text
            if (result.wait or 0.0) > MAX_WAIT and not self._dispatcher.has_other(replica):
                failure += f", asked to wait {result.wait:.0f} s"
                break
            if attempt + 1 < self._max_attempts and not self._dispatcher.has_other(replica):
                await asyncio.sleep(self._delay(attempt) if result.wait is None else result.wait)
        raise TransportFailure(f"{failure} ({attempt + 1} attempts)")

    def _delay(self, attempt: int) -> float:
        return min(self._backoff * 2**attempt, MAX_WAIT) * self._random.uniform(0.5, 1.5)

    async def _attempt(self, body: Mapping[str, Any], avoid: Replica | None) -> tuple[Replica, Completion | Failure]:
        """One attempt at the least loaded address, after its turn in budget, concurrency and quota."""
        n_bytes = _n_bytes(body)
        bound = self._bound.prompt_tokens(n_bytes), _max_tokens(body)
        with await self.budget.reserve(*bound):
            async with self._dispatcher.slot(avoid) as (replica, mark):
                await self.quota.reserve(sum(bound))
                await replica.concurrency.unpaused()
                self.usage.n_requests += 1
                return replica, await self._sent(replica, mark, body, n_bytes, bound)

    async def _sent(
        self, replica: Replica, mark: int, body: Mapping[str, Any], n_bytes: int, bound: tuple[int, int]
    ) -> Completion | Failure:
        """Send, and count what came of it, however it ends, for the replica, the quota and the budget."""
        result: Completion | Failure = Failure("interrupted", billed=True)
        try:
            result = await replica.attempt(body)
        except RequestRejected as err:
            result = Failure(str(err), err.status)
            replica.judge_result(result, time.monotonic())
            raise
        except JudgeEndpointError as err:
            result = Failure(str(err))
            raise
        finally:
            self._settle(result, n_bytes, bound)
        replica.judge_result(result, time.monotonic())
        if isinstance(result, Completion):
            replica.concurrency.succeeded()
        elif result.status == 429:
            too_long = (result.wait or 0.0) > MAX_WAIT
            replica.concurrency.throttled(mark, 0.0 if too_long else result.wait or 0.0)
        return result

    def _settle(self, result: Completion | Failure, n_bytes: int, bound: tuple[int, int]) -> None:
        """Count what an attempt cost: as the endpoint says, else at most as much as it can have."""
        if isinstance(result, Failure):
            spent = bound if result.billed else (0, 0)
        elif result.prompt_tokens is None:
            spent = bound[0], result.completion_tokens or bound[1]
        else:
            spent = result.prompt_tokens, result.completion_tokens or 0
            self._bound.learn(n_bytes, result.prompt_tokens)
        self.usage.prompt_tokens += spent[0]
        self.usage.completion_tokens += spent[1]
        self.quota.settle(sum(bound), sum(spent))
        if self.ledger is not None:
            self.ledger.settled(self.usage)


def _n_bytes(body: Mapping[str, Any]) -> int:
    return len(json.dumps(body.get("messages") or body.get("prompt"), ensure_ascii=False).encode(errors="replace"))


def _max_tokens(body: Mapping[str, Any]) -> int:
    return body.get("max_tokens") or body.get("max_completion_tokens") or 0
