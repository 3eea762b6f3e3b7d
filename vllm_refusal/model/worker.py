"""What the front end asks of every vLLM worker about its ablations, over `collective_rpc`."""

from collections.abc import Mapping, Sequence
from typing import Any

from surgery.console.errors import MismatchError, RefusalError
from vllm_refusal.settings.engine_settings import load_another
from vllm_refusal.settings.modules import AblationModule


class WorkerError(RefusalError):
    """A worker could not load what the front end had checked; it was unloaded everywhere."""


def install() -> None:
    """Give this process's worker class our methods. Idempotent."""
    from vllm.v1.worker.worker_base import WorkerBase

    for method in (ablation_counters, load_ablation, unload_ablation, watch_ablations, watched_ablations):
        setattr(WorkerBase, method.__name__, method)


async def ask_workers(client: Any, method: str, *args: Any) -> list[list[Any]]:
    """Call one method of every worker. Returns the workers' answers, by engine (data-parallel rank)."""
    return await client.engine_core.call_utility_all_async("collective_rpc", method, None, args, None)


def ablation_counters(worker: Any) -> dict[str, int]:
    """The distinct interventions in flight, and the token positions computed under one since the start."""
    tables = _tables(worker)
    requests = getattr(worker.model_runner, "requests", None)
    if requests is not None:  # Model Runner V1 says nothing when a request ends
        tables.keep_requests(requests)
    return {"n_slots_in_use": tables.n_slots_in_use, "n_intervened_tokens": tables.n_intervened_tokens}


def load_ablation(worker: Any, name: str, spec: Mapping[str, Any], digests: Mapping[str, str]) -> dict[str, Any]:
    """Read a module from its file and write it into this worker's tables.

    Args:
        spec: as in additional_config["ablation"]["modules"].
        digests: `digests_of` the module that the front end has checked.
    Returns: {"fault": None, "modules": names of all that are loaded now}, or {"fault": one line} with nothing changed.
    """
    tables = _tables(worker)
    try:
        module = load_another(name, dict(spec), worker.vllm_config)
        if digests_of(module) != dict(digests):
            raise MismatchError(f"ablation {name!r}: its file was replaced while it was loaded; load it again")
        tables.add_module(module)
    except RefusalError as err:
        return {"fault": str(err)}
    return {"fault": None, "modules": list(tables.config.modules)}


def unload_ablation(worker: Any, name: str) -> bool:
    """Free a module's place, when the engine has no request for it. Returns whether this worker had it."""
    tables = _tables(worker)
    loaded = name in tables.config.modules
    if loaded:
        tables.remove_module(name)
    return loaded


def watch_ablations(worker: Any) -> bool:
    """Measure what edits leave, from now on and uncompiled. Returns whether this worker's runner lets it be seen."""
    from vllm_refusal.model.watch import Watch

    model = worker.model_runner.get_model()
    if worker.vllm_config.use_v2_model_runner:
        return False
    model.watch = Watch(model, model.architecture, model.ablation)
    return True


def watched_ablations(worker: Any) -> list[tuple[str, str, int, float, float]]:
    """What was measured since `watch_ablations` (`Watch.take`), and no more measuring; empty where there was none."""
    model = worker.model_runner.get_model()
    watch, model.watch = model.watch, None
    return [] if watch is None else watch.take()


def check_loaded(name: str, answers: Sequence[Mapping[str, Any]]) -> None:
    """Raises: WorkerError unless there are workers and all of them have the module, by their answers."""
    faults = sorted({answer["fault"] for answer in answers if answer["fault"]})
    if faults:
        raise WorkerError(f"not loaded on every worker: {'; '.join(faults)}")
    if not answers or any(name not in answer["modules"] for answer in answers):
        raise WorkerError(f"ablation {name!r} is not in every worker's tables; it was unloaded everywhere")


def digests_of(module: AblationModule) -> dict[str, str]:
    """What the front end and all workers must agree on: SHA-256 of the file, and of the tensors that it gave."""
    return {"file": module.file_sha256, "tensors": module.sha256}


def _tables(worker: Any) -> Any:
    return worker.model_runner.get_model().ablation
