"""The wire to a judge endpoint: one chat completion, with bounded retries, backoff and a circuit breaker."""

import asyncio
import json
import random
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from eval.judge.concurrency import AdaptiveConcurrency
from surgery.errors import RefusalError

RETRIED_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
MAX_WAIT = 120.0


class JudgeEndpointError(RefusalError):
    """The judge endpoint cannot be used: unreachable, key or model refused, or failing again and again."""


class TransportFailure(Exception):
    """One request failed for good after its attempts; the text says how, without keys."""


class RequestRejected(Exception):
    """The endpoint will not take this request (a 4xx that repeats); `status` and its message, without keys."""

    def __init__(self, status: int, message: str, code: str = ""):
        super().__init__(f"HTTP {status}: {message}")
        self.status = status
        self.message = message
        self.code = code


@dataclass(frozen=True)
class Completion:
    """One answer of the endpoint.

    Attributes:
        text: content of the first choice; "" when there is none.
        refusal: the endpoint's own refusal text, else "".
        finish_reason: "stop", "length", "content_filter", or the endpoint's other word.
    """

    text: str
    refusal: str
    finish_reason: str


@dataclass
class Usage:
    """What was spent: requests sent (with retries), and tokens where the endpoint counts them."""

    n_requests: int = 0
    n_retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens

    def since(self, earlier: "Usage") -> "Usage":
        """What was spent after `earlier`."""
        return Usage(**{key: value - getattr(earlier, key) for key, value in asdict(self).items()})


class JudgeClient:
    """A client of one OpenAI-compatible chat completions endpoint.

    Attributes:
        concurrency: how many requests may be in flight, adapted to what the endpoint bears.
        usage: what has been spent so far.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        concurrency: int = 20,
        max_concurrency: int = 256,
        timeout: float = 120.0,
        max_attempts: int = 5,
        backoff: float = 1.0,
        breaker: int = 10,
        seed: int = 0,
    ):
        """Set up; nothing is sent.

        Args:
            base_url: e.g. "http://localhost:8000/v1".
            api_key: sent as a bearer token; None or "" sends no Authorization header.
            concurrency: requests in flight at the start.
            max_concurrency: as far as that may grow.
            timeout: seconds for one attempt from start to last byte.
            max_attempts: attempts for one request, the first included.
            backoff: seconds before the first retry, doubled for each further one, with jitter of half to one and a half.
            breaker: requests that may fail for good in a row before the endpoint is given up.
            seed: of the jitter.
        """
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise JudgeEndpointError(f"judge base URL {public_url(base_url)!r}: expected http(s)://host[:port]/v1")
        if "@" in parts.netloc:
            raise JudgeEndpointError(
                "judge base URL: holds a user or password; put the key into the environment instead"
            )
        self.base_url = base_url
        self._concurrency_range = (concurrency, max(concurrency, max_concurrency))
        self.concurrency = AdaptiveConcurrency(*self._concurrency_range)
        self.usage = Usage()
        self._api_key = api_key or ""
        self._timeout, self._max_attempts, self._backoff, self._breaker = timeout, max_attempts, backoff, breaker
        self._random = random.Random(seed)
        self._failures_in_row = 0
        self._openai: Any = None

    async def __aenter__(self) -> "JudgeClient":
        from openai import AsyncOpenAI, DefaultAioHttpClient

        self.concurrency = AdaptiveConcurrency(*self._concurrency_range)
        self._failures_in_row = 0
        self._openai = AsyncOpenAI(
            base_url=self.base_url,
            api_key=self._api_key or "none",  # the library wants one; `complete` leaves the header out
            http_client=DefaultAioHttpClient(),
            max_retries=0,
            timeout=self._timeout,
        )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._openai.close()

    async def complete(self, **body: Any) -> Completion:
        """Send one chat completion request, again where that can help.

        Raises:
            RequestRejected: a 4xx that would repeat.
            TransportFailure: no usable answer after `max_attempts`.
            JudgeEndpointError: the key or the model is refused, or `breaker` requests in a row failed.
        """
        try:
            completion = await self._with_retries(body)
        except TransportFailure as err:
            self._failures_in_row += 1
            if self._failures_in_row >= self._breaker:
                raise JudgeEndpointError(
                    f"judge endpoint {public_url(self.base_url)} failed {self._failures_in_row} times in a row, last: "
                    f"{err}; verdicts so far are kept, mend it and run the same command to go on"
                ) from err
            raise
        self._failures_in_row = 0
        return completion

    async def _with_retries(self, body: Mapping[str, Any]) -> Completion:
        failure = ""
        for attempt in range(self._max_attempts):
            if attempt:
                self.usage.n_retries += 1
            async with self.concurrency.slot() as mark:
                result = await self._attempt(body)
                if isinstance(result, Completion):
                    self.concurrency.succeeded()
                    return result
                too_long = (result.wait or 0.0) > MAX_WAIT
                if result.status == 429:
                    self.concurrency.throttled(mark, 0.0 if too_long else result.wait or 0.0)
            failure = result.text
            if too_long:
                failure += f", asked to wait {result.wait:.0f} s"
                break
            if attempt + 1 < self._max_attempts:
                await asyncio.sleep(self._delay(attempt) if result.wait is None else result.wait)
        raise TransportFailure(f"{failure} ({attempt + 1} attempts)")

    def _delay(self, attempt: int) -> float:
        return min(self._backoff * 2**attempt, MAX_WAIT) * self._random.uniform(0.5, 1.5)

    async def _attempt(self, body: Mapping[str, Any]) -> "Completion | _Failure":
        import openai

        self.usage.n_requests += 1
        headers = {} if self._api_key else {"Authorization": openai.Omit()}
        try:
            async with asyncio.timeout(self._timeout):
                raw = await self._openai.chat.completions.with_raw_response.create(**body, extra_headers=headers)
                return self._read(raw.text)
        except TimeoutError:
            return _Failure(f"no answer within {self._timeout:g} s")
        except openai.APIStatusError as err:
            return self._status_failure(err)
        except openai.APIConnectionError as err:
            return _Failure(self._clean(f"connection failed: {err.__cause__ or err}"))

    def _status_failure(self, err: Any) -> "_Failure":
        status, detail = err.status_code, err.body if isinstance(err.body, dict) else {}
        code, message = str(detail.get("code") or ""), self._clean(str(detail.get("message") or err.message))
        where = f"judge endpoint {public_url(self.base_url)}"
        if status in (401, 403):
            hint = "set the variable named by --judge-api-key-env"
            raise JudgeEndpointError(f"{where} refuses the key (HTTP {status}); {hint}") from err
        if status == 404:
            raise JudgeEndpointError(
                f"{where} has no such model or path (HTTP 404: {message}); see its /models"
            ) from err
        if code == "insufficient_quota":
            raise JudgeEndpointError(f"{where}: the account's quota is used up (HTTP {status})") from err
        if status not in RETRIED_STATUS:
            raise RequestRejected(status, message, code) from err
        return _Failure(f"HTTP {status}", status, retry_after(err.response.headers))

    def _read(self, text: str) -> "Completion | _Failure":
        try:
            reply = json.loads(text)
            choice = reply["choices"][0]
            message = choice["message"]
            content, refusal = message.get("content") or "", message.get("refusal") or ""
        except (ValueError, LookupError, TypeError, AttributeError):
            return _Failure("the reply is not a chat completion")
        spent = reply.get("usage") or {}
        self.usage.prompt_tokens += spent.get("prompt_tokens") or 0
        self.usage.completion_tokens += spent.get("completion_tokens") or 0
        return Completion(str(content), str(refusal), str(choice.get("finish_reason") or "stop"))

    def _clean(self, text: str) -> str:
        text = text.replace(self._api_key, "[key]") if self._api_key else text
        return " ".join(text.split())[:200]


@dataclass(frozen=True)
class _Failure:
    """One attempt that failed and may be repeated: `wait` seconds if the endpoint said so."""

    text: str
    status: int = 0
    wait: float | None = None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a reply asks to wait (`Retry-After` in seconds or as a date, or `retry-after-ms`), else None."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * unit
        except ValueError:
            try:
                seconds = parsedate_to_datetime(value).timestamp() - time.time()
            except ValueError:
                continue
        if seconds == seconds:  # not NaN
            return max(0.0, seconds)
    return None


def public_url(url: str) -> str:
    """The address without user, password, query or fragment, as it may be shown and recorded."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return urlunsplit((parts.scheme, host + (f":{parts.port}" if parts.port else ""), parts.path.rstrip("/"), "", ""))
