"""The way to a judge endpoint: completions from one or several replicas, within quotas and a budget."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, Self

from eval.endpoints.address import checked_urls, public_url
from eval.endpoints.pool import Pool
from eval.endpoints.quota import Quota
from eval.endpoints.replica import Fault, Refused, Replica
from eval.endpoints.spending import Budget, Ledger, TokenBound, Usage
from surgery.console.errors import RefusalError


class JudgeEndpointError(RefusalError):
    """The judge endpoint cannot be used: unreachable, key or model refused, or failing again and again."""


class TransportFailure(Exception):
    """One request failed for good after its attempts; the text says how, without keys."""


@dataclass(frozen=True)
class Completion:
    """One answer of the endpoint.

    Attributes:
        text: content of the first choice; "" when there is none.
        refusal: the endpoint's own refusal text, else "".
        finish_reason: "stop", "length", "content_filter", or the endpoint's other word.
        prompt_tokens, completion_tokens: as the endpoint counted them; None where it does not.
    """

    text: str
    refusal: str
    finish_reason: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class JudgeClient:
    """A client of one OpenAI-compatible API at one or several addresses.

    Attributes:
        base_url: the first address; it stands for all of them.
        urls: all of them, as they may be shown.
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
            max_attempts, backoff, seed: see `Pool`; also a replica's first time out is twice the backoff.
            breaker: requests that may fail for good in a row before the endpoint is given up.
            quota: requests and tokens per minute.
        """
        given = [base_url] if isinstance(base_url, str) else list(base_url)
        urls = checked_urls(given, "judge base URL", JudgeEndpointError)
        shares = (max(1, concurrency // len(urls)), max(1, max(concurrency, max_concurrency) // len(urls)))
        settings: dict[str, Any] = {"concurrency": shares, "timeout": timeout, "cooldown": 2 * backoff}
        replicas = [Replica(url, api_key or "", **settings) for url in urls]
        self.base_url, self.urls = urls[0], [public_url(url) for url in urls]
        self.quota, self.budget = quota or Quota(), budget or Budget()
        self.ledger: Ledger | None = None
        self._pool = Pool(replicas, max_attempts=max_attempts, backoff=backoff, seed=seed)
        self._bound = TokenBound()
        self._breaker, self._failures_in_row = breaker, 0

    @property
    def usage(self) -> Usage:
        """What has been spent so far."""
        return self.budget.usage

    async def __aenter__(self) -> Self:
        self._failures_in_row = 0
        await self._pool.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self.ledger is not None:
            self.ledger.write(self.usage)
        await self._pool.__aexit__()

    async def complete(self, **body: Any) -> Completion:
        """Send one chat completion request (a plain one when it has a `prompt`), again where that can help.

        Raises:
            Refused: a 4xx that would repeat.
            TransportFailure: no usable answer after `max_attempts`.
            JudgeEndpointError: the key or the model is refused, or `breaker` requests in a row failed.
            BudgetReachedError: the request could exceed what may be spent.
        """
        try:
            completion = await self._within_limits(body)
        except Refused as refused:
            _check_usable(refused, self.urls)
            raise
        except Fault as fault:
            failure = TransportFailure(f"{fault.text} ({fault.n_attempts} attempts)")
            self._failures_in_row += 1
            if self._failures_in_row >= self._breaker:
                raise JudgeEndpointError(
                    f"judge endpoint {', '.join(self.urls)} failed {self._failures_in_row} times in a row, last: "
                    f"{failure}; verdicts so far are kept, mend it and run the same command to go on"
                ) from fault
            raise failure from fault
        self._failures_in_row = 0
        return completion

    async def _within_limits(self, body: Mapping[str, Any]) -> Completion:
        """Each attempt takes its turn in budget, concurrency and quota, and what it cost is counted however it ends."""
        n_bytes = _n_bytes(body)
        bound = self._bound.prompt_tokens(n_bytes), body.get("max_tokens") or body.get("max_completion_tokens") or 0
        n_sent = count()

        @asynccontextmanager
        async def turn() -> AsyncIterator[None]:
            with await self.budget.reserve(*bound):
                yield

        async def send(replica: Replica) -> Completion:
            await self.quota.reserve(sum(bound))
            await replica.concurrency.unpaused()
            self.usage.n_requests += 1
            self.usage.n_retries += next(n_sent) > 0
            spent = bound  # when it is interrupted
            try:
                completion = read_reply(await replica.ask(_path(body), body))
                spent = self._spent(completion, n_bytes, bound)
                return completion
            except Fault as fault:
                spent = bound if fault.billed else (0, 0)
                raise
            except Refused:
                spent = 0, 0
                raise
            finally:
                self._settle(bound, spent)

        return await self._pool.ask(send, turn)

    def _spent(self, completion: Completion, n_bytes: int, bound: tuple[int, int]) -> tuple[int, int]:
        """Prompt and completion tokens as the endpoint says, else at most as many as it can have used."""
        if completion.prompt_tokens is None:
            return bound[0], completion.completion_tokens or bound[1]
        self._bound.learn(n_bytes, completion.prompt_tokens)
        return completion.prompt_tokens, completion.completion_tokens or 0

    def _settle(self, bound: tuple[int, int], spent: tuple[int, int]) -> None:
        self.usage.prompt_tokens += spent[0]
        self.usage.completion_tokens += spent[1]
        self.quota.settle(sum(bound), sum(spent))
        if self.ledger is not None:
            self.ledger.settled(self.usage)


def read_reply(reply: Any) -> Completion:
    """Read a reply with status 200. Raises: Fault when it is none of the API's."""
    try:
        choice = reply["choices"][0]
        message = choice["message"] if "message" in choice else {"content": choice["text"]}
        content, refusal = message.get("content") or "", message.get("refusal") or ""
        spent = reply.get("usage") or {}
        tokens = spent.get("prompt_tokens"), spent.get("completion_tokens")
        return Completion(str(content), str(refusal), str(choice.get("finish_reason") or "stop"), *tokens)
    except (LookupError, TypeError, AttributeError) as err:
        raise Fault("the reply is not a chat completion", billed=True) from err


def _check_usable(refused: Refused, urls: Sequence[str]) -> None:
    """Raises: JudgeEndpointError when it is not this request alone that is refused."""
    where = f"judge endpoint {', '.join(urls)}"
    if refused.of_key:
        hint = "set the variable named by --judge-api-key-env"
        raise JudgeEndpointError(f"{where} refuses the key (HTTP {refused.status}); {hint}") from refused
    if refused.status == 404:
        raise JudgeEndpointError(f"{where} has no such model or path ({refused}); see its /models") from refused
    if refused.code == "insufficient_quota":
        raise JudgeEndpointError(f"{where}: the account's quota is used up (HTTP {refused.status})") from refused


def _path(body: Mapping[str, Any]) -> str:
    return "completions" if "prompt" in body else "chat/completions"


def _n_bytes(body: Mapping[str, Any]) -> int:
    return len(json.dumps(body.get("messages") or body.get("prompt"), ensure_ascii=False).encode(errors="replace"))
