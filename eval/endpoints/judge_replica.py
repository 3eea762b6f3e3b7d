"""One address of a judge endpoint: the wire, how much it bears, and whether it is out of use for a while."""

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from eval.endpoints.concurrency import AdaptiveConcurrency
from surgery.console.errors import RefusalError

TIMED_OUT_STATUS = frozenset({408, 504, 524})
RETRIED_STATUS = TIMED_OUT_STATUS | {409, 425, 429, 500, 502, 503, 520, 521, 522, 523, 529}
OUT_AFTER = 3
LONGEST_OUT = 60.0


class JudgeEndpointError(RefusalError):
    """The judge endpoint cannot be used: unreachable, key or model refused, or failing again and again."""


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
        prompt_tokens, completion_tokens: as the endpoint counted them; None where it does not.
    """

    text: str
    refusal: str
    finish_reason: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


@dataclass(frozen=True)
class Failure:
    """One attempt that failed and may be repeated.

    Attributes:
        status: of HTTP, 0 when no whole answer came.
        wait: seconds that the endpoint asks to wait, else None.
        billed: whether the endpoint may have done the work and charge for it.
    """

    text: str
    status: int = 0
    wait: float | None = None
    billed: bool = False

    @property
    def is_fault(self) -> bool:
        """Whether it speaks against the replica itself, rather than against too many requests."""
        return self.status == 0 or self.status >= 500


class Replica:
    """One address that serves the judge's model.

    Attributes:
        concurrency: how many requests may be in flight, adapted to what the address bears.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        concurrency: tuple[int, int] = (20, 256),
        timeout: float = 120.0,
        cooldown: float = 2.0,
    ):
        """Set up; nothing is sent.

        Args:
            concurrency: requests in flight at the start, and as far as that may grow.
            timeout: seconds for one attempt from start to last byte.
            cooldown: seconds out of use after failing again and again, doubled each time up to a minute.
        """
        check_base_url(base_url)
        self.base_url = base_url
        self.concurrency = AdaptiveConcurrency(*concurrency)
        self._concurrency_range = concurrency
        self._api_key, self._timeout, self._cooldown = api_key, timeout, cooldown
        self._openai: Any = None
        self._reset()

    def _reset(self) -> None:
        self.concurrency = AdaptiveConcurrency(*self._concurrency_range)
        self._faults_in_row = 0
        self._out_for = 0.0
        self.out_until = 0.0
        self._on_trial = False

    async def open(self) -> None:
        """Make ready for requests in this event loop."""
        from openai import AsyncOpenAI, DefaultAioHttpClient

        self._reset()
        self._openai = AsyncOpenAI(
            base_url=self.base_url,
            api_key=self._api_key or "none",  # the library wants one; `attempt` leaves the header out
            http_client=DefaultAioHttpClient(),
            max_retries=0,
            timeout=self._timeout,
        )

    async def close(self) -> None:
        """Close its connections."""
        await self._openai.close()

    @property
    def is_out(self) -> bool:
        """Whether it is out of use after failing again and again, its time of probing included."""
        return self.out_until > 0.0

    def admits(self, now: float) -> bool:
        """Whether a request may go there: it is in use, or its time out is over and no other is trying it."""
        return not self.is_out or (now >= self.out_until and not self._on_trial)

    def try_again(self) -> None:
        """Let one request through to an address that was out."""
        self._on_trial = self.is_out

    def judge_result(self, result: "Completion | Failure", now: float) -> None:
        """Take it out of use after `OUT_AFTER` faults in a row, or back into use after an answer."""
        if isinstance(result, Completion) or not result.is_fault:
            self._faults_in_row, self._out_for, self.out_until, self._on_trial = 0, 0.0, 0.0, False
            return
        self._faults_in_row += 1
        if self._faults_in_row >= OUT_AFTER and (self._on_trial or not self.is_out):
            self._out_for = min(max(2 * self._out_for, self._cooldown), LONGEST_OUT)
            self.out_until = now + self._out_for
            self._on_trial = False

    async def attempt(self, body: Mapping[str, Any]) -> Completion | Failure:
        """Send one request: a chat completion, or a plain completion when `body` has a `prompt`.

        Raises: RequestRejected, JudgeEndpointError (key, model or quota refused).
        """
        import openai

        headers = {} if self._api_key else {"Authorization": openai.Omit()}
        endpoint = self._openai.completions if "prompt" in body else self._openai.chat.completions
        try:
            async with asyncio.timeout(self._timeout):
                raw = await endpoint.with_raw_response.create(**body, extra_headers=headers)
                return read_reply(raw.text)
        except TimeoutError:
            return Failure(f"no answer within {self._timeout:g} s", billed=True)
        except openai.APIStatusError as err:
            return self._status_failure(err)
        except openai.APIConnectionError as err:
            return Failure(self._clean(f"connection failed: {err.__cause__ or err}"), billed=_was_connected(err))

    def _status_failure(self, err: Any) -> Failure:
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
        return Failure(f"HTTP {status}", status, retry_after(err.response.headers), status in TIMED_OUT_STATUS)

    def _clean(self, text: str) -> str:
        text = text.replace(self._api_key, "[key]") if self._api_key else text
        return " ".join(text.split())[:200]


def _was_connected(err: BaseException | None) -> bool:
    """Whether a connection came about before it failed: what was sent over it may have been answered and lost."""
    import aiohttp

    while err is not None and not isinstance(err, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        err = err.__cause__
    return err is None


def read_reply(text: str) -> Completion | Failure:
    """Read the body of a reply with status 200."""
    try:
        reply = json.loads(text)
        choice = reply["choices"][0]
        message = choice["message"] if "message" in choice else {"content": choice["text"]}
        content, refusal = message.get("content") or "", message.get("refusal") or ""
        spent = reply.get("usage") or {}
        tokens = spent.get("prompt_tokens"), spent.get("completion_tokens")
    except (ValueError, LookupError, TypeError, AttributeError):
        return Failure("the reply is not a chat completion", billed=True)
    return Completion(str(content), str(refusal), str(choice.get("finish_reason") or "stop"), *tokens)


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


def check_base_url(base_url: str) -> None:
    """Raises: JudgeEndpointError when it is no address, or holds credentials."""
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
        raise JudgeEndpointError(f"judge base URL {public_url(base_url)!r}: expected http(s)://host[:port]/v1")
    if "@" in parts.netloc:
        raise JudgeEndpointError("judge base URL: holds a user or password; put the key into the environment instead")


def public_url(url: str) -> str:
    """The address without user, password, query or fragment, as it may be shown and recorded."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return urlunsplit((parts.scheme, host + (f":{parts.port}" if parts.port else ""), parts.path.rstrip("/"), "", ""))
