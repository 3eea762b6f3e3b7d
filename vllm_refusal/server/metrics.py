"""Prometheus metrics on vLLM's own /metrics: what was asked of each ablation, what was refused, what workers did."""

import asyncio
import functools
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge

from surgery.console.errors import AlphaError, LayerRangeError
from vllm_refusal.compatibility.wrapping import wrap
from vllm_refusal.model.proof import proving
from vllm_refusal.model.worker import ask_workers
from vllm_refusal.settings.capture import CaptureError
from vllm_refusal.settings.modules import NONE, AblationConfig, AblationModule
from vllm_refusal.settings.request import RequestError, UnknownAblationError, ablation_of

REASONS = (
    "unknown_model",
    "unknown_ablation",
    "bad_alpha",
    "bad_layers",
    "bad_keys",
    "conflict",
    "beam_search",
    "route",
    "capture",
)
_REASON_OF_FAULT = {
    UnknownAblationError: "unknown_ablation",
    AlphaError: "bad_alpha",
    LayerRangeError: "bad_layers",
    RequestError: "bad_keys",  # after its subclass UnknownAblationError
    CaptureError: "capture",
}
FETCH_SECONDS = 1.0
WAIT_SECONDS = 2.0  # a scrape waits no longer for a worker in the middle of a step


class ServerMetrics:
    """Counters of one server. Labels are the names of its ablations and REASONS: clients' requests cannot add series.

    Requests and tokens are counted in this process, which sees every admission and every output; slots and intervened
    tokens are the workers' own figures, fetched at each scrape.
    """

    def __init__(self, config: AblationConfig, registry: CollectorRegistry | None = None):
        """Create all series, at zero; `registry` None is the one that vLLM's /metrics shows."""
        known = REGISTRY if registry is None else registry

        def counter(name: str, meaning: str, *labels: str) -> Counter:
            return Counter(f"vllm_refusal:{name}", meaning, labels, registry=known)

        def gauge(name: str, meaning: str, *labels: str) -> Gauge:
            return Gauge(f"vllm_refusal:{name}", meaning, labels, registry=known, multiprocess_mode="mostrecent")

        self.requests = counter("requests", "Admitted requests.", "ablation")
        self.prompt_tokens = counter("prompt_tokens", "Prompt tokens answered.", "ablation")
        self.generated_tokens = counter("generation_tokens", "Generated tokens.", "ablation")
        self.refused = counter("refused_requests", "Requests answered 4xx.", "reason")
        self.intervened = counter("intervened_tokens", "Token positions computed under an ablation.")
        self.slots = gauge("slots", "Distinct interventions that fit at one time.")
        self.slots_in_use = gauge("slots_in_use", "Distinct interventions in flight.")
        self.info = gauge("ablation_info", "1 for each ablation.", "ablation", "sha256", "site")
        self._by_ablation = (self.requests, self.prompt_tokens, self.generated_tokens)
        self._max_slots = config.max_slots
        self._n_intervened: int | None = None
        self._fetch: asyncio.Task[None] | None = None
        self._next_fetch = 0.0  # on the monotonic clock
        self._create_series(config)

    def _create_series(self, config: AblationConfig) -> None:
        for counter in self._by_ablation:
            counter.labels(NONE)
        for reason in REASONS:
            self.refused.labels(reason)
        for module in config.modules.values():
            self.add(module)
        self.slots.set(config.max_slots)

    def add(self, module: AblationModule) -> None:
        """Create the series of one ablation, at zero."""
        for counter in self._by_ablation:
            counter.labels(module.name)
        self.info.labels(module.name, module.file_sha256, module.site).set(1)

    def remove(self, module: AblationModule) -> None:
        """End the series of an ablation that was unloaded: whoever may load cannot fill memory with names."""
        for counter in self._by_ablation:
            counter.remove(module.name)
        self.info.remove(module.name, module.file_sha256, module.site)

    def count_refused(self, fault: BaseException | str) -> None:
        """Count a refused request by its reason, or by the fault that it raised; faults of others are not ours."""
        reason = fault if isinstance(fault, str) else _reason_of(fault)
        if reason is not None:
            self.refused.labels(reason).inc()

    def take_counters(self, engines: Sequence[Sequence[Mapping[str, int]]]) -> None:
        """Take over what the workers of each engine report; data-parallel engines add up.

        Tensor and pipeline ranks of an engine run the same batch, so any one speaks for it. The first report is where
        counting starts: the proof at start-up is not a client's.
        """
        n_tokens = sum(max(found["n_intervened_tokens"] for found in workers) for workers in engines)
        if self._n_intervened is not None:
            self.intervened.inc(max(0, n_tokens - self._n_intervened))
        self._n_intervened = n_tokens
        self.slots_in_use.set(sum(max(found["n_slots_in_use"] for found in workers) for workers in engines))
        self.slots.set(self._max_slots * len(engines))

    async def refresh(self, client: Any) -> None:
        """Fetch the workers' figures; while they do not answer, slots in use are NaN, Prometheus' "unknown".

        Whoever asks waits for a fetch that begins afterwards. All who wait share it, and one begins at most every
        FETCH_SECONDS: no key guards /metrics, and a fetch costs a call of every worker.
        """
        if self._fetch is None:
            self._fetch = asyncio.create_task(self._fetch_in_turn(client))
        await asyncio.shield(self._fetch)  # who hangs up ends nobody else's

    async def _fetch_in_turn(self, client: Any) -> None:
        from vllm.v1.engine.exceptions import EngineDeadError

        await asyncio.sleep(self._next_fetch - time.monotonic())
        self._fetch, self._next_fetch = None, time.monotonic() + FETCH_SECONDS
        try:
            engines = await asyncio.wait_for(ask_workers(client, "ablation_counters"), WAIT_SECONDS)
        except (TimeoutError, EngineDeadError):
            self.slots_in_use.set(math.nan)
        else:
            self.take_counters(engines)

    def install(self) -> None:
        """Count from here on in vLLM's front end; once per process, since prometheus_client refuses a second set."""
        wrap("vllm.v1.engine.async_llm:AsyncLLM.add_request", self._counting_refused)
        wrap("vllm.v1.engine.output_processor:RequestState.from_new_request", self._counting_requests)
        wrap("vllm.v1.engine.output_processor:RequestState.make_request_output", self._counting_tokens)

    def _counting_refused(self, original: Any) -> Any:
        from vllm.exceptions import VLLMClientError

        @functools.wraps(original)
        async def add_request(engine: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return await original(engine, *args, **kwargs)
            except VLLMClientError as err:
                self.count_refused(err)
                raise

        return add_request

    def _counting_requests(self, original: Any) -> Any:
        """A request is one, however many samples (n) it asks for; each sample has its own state."""

        @functools.wraps(original)
        def from_new_request(cls: Any, *args: Any, **kwargs: Any) -> Any:
            state = original(cls, *args, **kwargs)
            state.ablation = ablation_of(kwargs["request"])
            state.counted = proving.get() is None  # the proof of a loading is not a client's
            state.prompt_counted = False
            if state.request_index == 0 and state.counted:
                self.requests.labels(state.ablation).inc()
            return state

        return from_new_request

    def _counting_tokens(self, original: Any) -> Any:
        """Called for each output of the engine core, also those that a client is not shown one by one."""

        @functools.wraps(original)
        def make_request_output(state: Any, new_token_ids: Any, *args: Any, **kwargs: Any) -> Any:
            if not new_token_ids or not state.counted:
                return original(state, new_token_ids, *args, **kwargs)
            if not state.prompt_counted:
                state.prompt_counted = True
                self.prompt_tokens.labels(state.ablation).inc(state.prompt_len)
            self.generated_tokens.labels(state.ablation).inc(len(new_token_ids))
            return original(state, new_token_ids, *args, **kwargs)

        return make_request_output


def _reason_of(err: BaseException) -> str | None:
    fault = err.__cause__ or err
    return next((reason for kind, reason in _REASON_OF_FAULT.items() if isinstance(fault, kind)), None)
