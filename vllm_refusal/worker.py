"""What a vLLM worker tells the front end about its ablations, over `collective_rpc`."""

from typing import Any


def install() -> None:
    """Give this process's worker class the method `ablation_counters`. Idempotent."""
    from vllm.v1.worker.worker_base import WorkerBase

    WorkerBase.ablation_counters = ablation_counters


def ablation_counters(worker: Any) -> dict[str, int]:
    """The distinct interventions in flight, and the token positions computed under one since the start."""
    tables = worker.model_runner.get_model().ablation
    requests = getattr(worker.model_runner, "requests", None)
    if requests is not None:  # Model Runner V1 says nothing when a request ends
        tables.keep_requests(requests)
    return {"n_slots_in_use": tables.n_slots_in_use, "n_intervened_tokens": tables.n_intervened_tokens}
