"""One address that answers prompts: the wire, what it serves, and how much it has in flight."""

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from eval.endpoints.served_models import Needs, ServedModels, ServersError
from vllm_refusal.engine.engine import Request, Response, Sampling

CONNECT_SECONDS, LISTING_SECONDS, SILENT_SECONDS = 10.0, 30.0, 1800.0
NEUTRAL = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
"""Sent always: a server would else apply what the model's generation_config.json says, and an engine of ours does not."""


class ReplicaFault(Exception):
    """A replica did not answer as it should; another may. The text says how, in few words."""


class Busy(Exception):
    """A replica has too much to do and is to be left alone for `seconds`."""

    def __init__(self, seconds: float):
        super().__init__(f"busy for {seconds:g} s")
        self.seconds = seconds


class Replica:
    """One server.

    Attributes:
        url: its address, ending in /v1 as a rule.
        served: what it serves, once it was asked.
        is_alive: whether requests may go there.
        is_probed: whether it is being asked if it is alive again.
        n_in_flight: requests that it is working on.
    """

    def __init__(
        self,
        url: str,
        needs: Needs,
        api_key: str = "",
        served_model: str | None = None,
        concurrency: int = 128,
    ):
        """Set up; nothing is sent. Raises: ServersError when `url` is no address."""
        self.url = checked_url(url)
        self.served = ServedModels(self.url, served_model or "", {})
        self.is_alive = self.is_probed = False
        self.n_in_flight = 0
        self._needs, self._served_model, self._concurrency = needs, served_model, concurrency
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._resting = False
        self._session: Any = None

    @property
    def is_free(self) -> bool:
        """Whether it may be sent one more request now."""
        return self.is_alive and not self._resting and self.n_in_flight < self._concurrency

    def release(self) -> None:
        """One request fewer in flight."""
        self.n_in_flight -= 1

    def end_probing(self) -> None:
        """It is no longer being asked if it is alive."""
        self.is_probed = False

    async def open(self) -> ReplicaFault | None:
        """Connect and ask what it serves; returns why it cannot be reached. Raises: ServersError, as `ask_models`."""
        import aiohttp

        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), headers=self._headers, trust_env=True
        )
        return await self.ask_models()

    async def close(self) -> None:
        """Close its connections."""
        if self._session is not None:
            await self._session.close()

    async def ask_models(self) -> ReplicaFault | None:
        """Ask what it serves, and let requests go there if that is what they need; returns why it did not answer.

        Raises: ServersError when it lacks an ablation or the unedited model, or refuses the key.
        """
        try:
            status, _, body = await self._send("GET", "models", LISTING_SECONDS)
        except ReplicaFault as fault:
            return fault
        if status >= 500 or status == 429:
            return ReplicaFault(f"HTTP {status}")
        if status != 200:
            raise ServersError(f"{self.url}/models: HTTP {status}: {_message(body)}{_key_hint(status)}")
        self.served = ServedModels.from_listing(self.url, body, self._served_model)
        self.served.check(self._needs)
        self.is_alive = True
        return None

    async def complete(self, request: Request, sampling: Sampling) -> Response:
        """Have one request answered.

        Raises: ReplicaFault, Busy; ServersError when the server refuses the request or answered something else.
        """
        asked = self.served.asks_for(request.ablation, self._needs)
        status, headers, body = await self._send(
            "POST", "completions", SILENT_SECONDS, {**asked, **_body(request, sampling)}
        )
        if status == 429:
            raise Busy(_seconds(headers.get("Retry-After")))
        if status >= 500:
            raise ReplicaFault(f"HTTP {status}: {_message(body)}")
        if status != 200:
            raise ServersError(f"{self.url} refuses a request: HTTP {status}: {_message(body)}{_key_hint(status)}")
        return _response(self.url, request, asked["model"], body)

    def rest(self, seconds: float, then: Callable[[], object]) -> None:
        """Send it nothing for a while, then call `then`."""

        def end() -> None:
            self._resting = False
            then()

        if not self._resting:
            self._resting = True
            asyncio.get_running_loop().call_later(seconds, end)

    def to_json(self) -> dict[str, Any]:
        """What a run's manifest says of it."""
        date = {"date": self.served.date} if self.served.date else {}
        return {"url": self.url, "model": self.served.base, "ablations": sorted(self.served.ablations), **date}

    async def _send(
        self, method: str, path: str, seconds: float, body: Mapping[str, Any] | None = None
    ) -> tuple[int, Mapping[str, str], Any]:
        """(status, headers, body as JSON or, where it is none, None)."""
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS)
        try:
            async with self._session.request(method, f"{self.url}/{path}", json=body, timeout=timeout) as reply:
                return reply.status, reply.headers, _json(await reply.read(), reply.status)
        except aiohttp.ClientError as err:
            raise ReplicaFault(str(err) or type(err).__name__) from err
        except TimeoutError as err:
            raise ReplicaFault(f"no answer within {seconds:g} s") from err


def _body(request: Request, sampling: Sampling) -> dict[str, Any]:
    body = {"prompt": request.token_ids, "max_tokens": sampling.max_tokens, "temperature": sampling.temperature}
    if sampling.temperature > 0:
        body["seed"] = sampling.seed if request.seed is None else request.seed
    return {**body, **NEUTRAL}


def _response(url: str, request: Request, asked: str, body: Any) -> Response:
    try:
        (choice,), usage, answered = body["choices"], body["usage"], body["model"]
        text, finish_reason = choice["text"], choice["finish_reason"]
        n_prompt_tokens, n_tokens = usage["prompt_tokens"], usage["completion_tokens"]
    except (TypeError, KeyError, ValueError) as err:
        raise ReplicaFault(f"its answer is no completion ({type(err).__name__})") from err
    if answered != asked:
        raise ServersError(f"{url} answered by model {answered!r} where {asked!r} was asked for")
    if n_prompt_tokens != len(request.token_ids):
        raise ServersError(
            f"{url} counts {n_prompt_tokens} tokens in a prompt of {len(request.token_ids)}; it must take token ids as "
            "/v1/completions of vLLM does"
        )
    return Response(request.id, text, finish_reason or "unknown", n_prompt_tokens, n_tokens)


def _json(text: bytes, status: int) -> Any:
    try:
        return json.loads(text)
    except ValueError as err:
        if status == 200:
            raise ReplicaFault("its answer is not JSON") from err
        return None


def _message(body: Any) -> str:
    error = body.get("error", body) if isinstance(body, Mapping) else body
    message = error.get("message", error) if isinstance(error, Mapping) else error
    return " ".join(str(message).split())[:300]


def _key_hint(status: int) -> str:
    return "; is the right key in the variable of --api-key-env?" if status in (401, 403) else ""


def _seconds(retry_after: str | None) -> float:
    try:
        return min(max(float(retry_after or 1.0), 0.1), 120.0)
    except ValueError:  # a date
        return 5.0


def checked_url(url: str) -> str:
    """An address as it is kept. Raises: ServersError when it is none, or holds a password."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ServersError(f"--base-url {url}: expected an address such as http://127.0.0.1:8000/v1")
    if "@" in parts.netloc:
        raise ServersError("--base-url: a user or password in an address would be written down; use --api-key-env")
    return url.rstrip("/")
