"""One address of a server: the wire, how much it bears, and whether it is out of use for a while."""

import asyncio
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from eval.endpoints.concurrency import AdaptiveConcurrency

if TYPE_CHECKING:
    import openai

TIMED_OUT_STATUS = frozenset({408, 504, 524})
RETRIED_STATUS = TIMED_OUT_STATUS | {409, 425, 429, 500, 502, 503, 520, 521, 522, 523, 529}
OUT_AFTER = 3
LONGEST_OUT = 60.0
CONNECT_SECONDS = 10.0


class Fault(Exception):
    """One attempt that failed and may be repeated; says how, in few words and without keys.

    Attributes:
        text: how, without the server's own message.
        status: of HTTP, 0 when no whole answer came.
        wait: seconds that the server asks to wait, else None.
        billed: whether the server may have done the work and charge for it.
        url, n_attempts: where it happened, and after how many attempts it was the last; set by the pool.
    """

    def __init__(self, text: str, status: int = 0, wait: float | None = None, billed: bool = False, message: str = ""):
        super().__init__(f"{text}: {message}" if message else text)
        self.text, self.status, self.wait, self.billed = text, status, wait, billed
        self.url, self.n_attempts = "", 1

    @property
    def is_of_replica(self) -> bool:
        """Whether it speaks against the replica itself, rather than against too many requests."""
        return self.status == 0 or self.status >= 500


class Refused(Exception):
    """The server will not take this request (a 4xx that repeats); `status`, its message and code, without keys."""

    def __init__(self, status: int, message: str, code: str = ""):
        super().__init__(f"HTTP {status}: {message}")
        self.status, self.message, self.code = status, message, code

    @property
    def of_key(self) -> bool:
        """Whether the key is what the server refuses."""
        return self.status in (401, 403)


class Replica:
    """One address.

    Attributes:
        url: e.g. "http://localhost:8000/v1".
        concurrency: how many requests may be in flight, adapted to what the address bears.
        out_until: when one that is out of use may be tried again, on the monotonic clock; 0 for one in use.
        is_gone: whether it is out of use for good.
    """

    def __init__(
        self,
        url: str,
        api_key: str = "",
        *,
        concurrency: tuple[int, int] = (20, 256),
        timeout: float = 120.0,
        out_after: int = OUT_AFTER,
        cooldown: float = 2.0,
        longest_out: float = LONGEST_OUT,
        grace: float | None = None,
    ):
        """Set up; nothing is sent.

        Args:
            api_key: sent as a bearer token; "" sends no Authorization header.
            concurrency: requests in flight at the start, and as far as that may grow.
            timeout: seconds for one attempt from start to last byte.
            out_after: faults in a row that take it out of use.
            cooldown: seconds out of use, doubled after each failed trial up to `longest_out`.
            grace: seconds of failed trials after which it is gone; None for never.
        """
        self.url = url
        self._api_key, self._timeout, self._concurrency_range = api_key, timeout, concurrency
        self._out_after, self._cooldown, self._longest_out, self._grace = out_after, cooldown, longest_out, grace
        self._client: openai.AsyncOpenAI | None = None
        self._reset()

    def _reset(self) -> None:
        self.concurrency = AdaptiveConcurrency(*self._concurrency_range)
        self.is_gone = False
        self.answered()

    async def open(self) -> None:
        """Make ready for requests in this event loop."""
        from openai import AsyncOpenAI, DefaultAioHttpClient, Timeout

        self._reset()
        self._client = AsyncOpenAI(
            base_url=self.url,
            api_key=self._api_key or "none",  # the library wants one; `ask` leaves the header out
            http_client=DefaultAioHttpClient(),
            max_retries=0,
            timeout=Timeout(None, connect=CONNECT_SECONDS),
        )

    async def close(self) -> None:
        """Close its connections."""
        if self._client is not None:
            await self._client.close()

    @property
    def is_out(self) -> bool:
        """Whether it is out of use after failing, its time of trial included."""
        return self.out_until > 0.0

    def admits(self, now: float) -> bool:
        """Whether a request may go there: it is in use, or its time out is over and no other is trying it."""
        return not self.is_gone and (not self.is_out or (now >= self.out_until and not self._on_trial))

    def try_again(self) -> bool:
        """Let one request through to an address that was out; returns whether it was."""
        self._on_trial = self.is_out
        return self._on_trial

    def end_trial(self) -> None:
        """The request that tried it is over, whatever came of it."""
        self._on_trial = False

    def answered(self) -> None:
        """Take it back into use."""
        self._faults_in_row, self._on_trial = 0, False
        self.out_until = self._out_for = self._out_since = 0.0

    def failed(self, fault: Fault, now: float) -> None:
        """Take it out of use after enough faults in a row, or leave it out after a failed trial."""
        if not fault.is_of_replica:
            self.answered()
            return
        self._faults_in_row += 1
        if self._faults_in_row >= self._out_after and (self._on_trial or not self.is_out):
            self._out_since = self._out_since or now
            self._out_for = min(max(2 * self._out_for, self._cooldown), self._longest_out)
            self.out_until = now + self._out_for
            self._on_trial = False
            self.is_gone = self._grace is not None and now - self._out_since >= self._grace

    async def ask(self, path: str, body: Mapping[str, Any] | None = None, seconds: float | None = None) -> Any:
        """The reply to one request as JSON: a POST of `body`, or a GET without one.

        Args:
            seconds: in place of `timeout`.
        Raises: Fault, Refused.
        """
        import openai

        assert self._client is not None, "the replica was not opened"
        seconds = self._timeout if seconds is None else seconds
        headers: dict[str, str | openai.Omit] = {} if self._api_key else {"Authorization": openai.Omit()}
        try:
            async with asyncio.timeout(seconds):
                if body is None:
                    return await self._client.get(path, cast_to=object, options={"headers": headers})
                return await self._client.post(path, body=dict(body), cast_to=object, options={"headers": headers})
        except TimeoutError as err:
            raise Fault(f"no answer within {seconds:g} s", billed=True) from err
        except openai.APIStatusError as err:
            raise self._of_status(err) from err
        except openai.APIConnectionError as err:
            reason = self._clean(str(err.__cause__ or err))
            raise Fault(f"connection failed: {reason}", billed=_was_connected(err)) from err
        except ValueError as err:
            raise Fault("its answer is not JSON", billed=True) from err

    def _of_status(self, err: "openai.APIStatusError") -> Fault | Refused:
        status, detail = err.status_code, err.body if isinstance(err.body, dict) else {}
        code, message = str(detail.get("code") or ""), self._clean(str(detail.get("message") or err.message))
        if status not in RETRIED_STATUS or code == "insufficient_quota":
            return Refused(status, message, code)
        wait = retry_after(err.response.headers)
        return Fault(f"HTTP {status}", status, wait, status in TIMED_OUT_STATUS, message)

    def _clean(self, text: str) -> str:
        text = text.replace(self._api_key, "[key]") if self._api_key else text
        return " ".join(text.split())[:300]


def _was_connected(err: BaseException | None) -> bool:
    """Whether a connection came about before it failed: what was sent over it may have been answered and lost."""
    import aiohttp

    while err is not None and not isinstance(err, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        err = err.__cause__
    return err is None


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
