"""Model Runner V1: before each real step, tell the tables which slot every token has."""

import functools
from typing import Any

from vllm_refusal.tables import SlotTables

_installed = False


def install() -> None:
    """Wrap `GPUModelRunner._model_forward`, which vLLM names as the method to override; once per process.

    It runs once per real step and never in dummy runs, whose tokens keep slot 0.
    """
    global _installed
    if _installed:
        return
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    GPUModelRunner._model_forward = _writing_slots(GPUModelRunner._model_forward)
    _installed = True


def _writing_slots(original: Any) -> Any:
    @functools.wraps(original)
    def _model_forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        tables = getattr(self.get_model(), "ablation", None)
        if tables is not None:
            write_step(tables, self)
        return original(self, *args, **kwargs)

    return _model_forward


def write_step(tables: SlotTables, runner: Any) -> None:
    """Bring the tables up to date with the runner's batch: finished requests out, new ones in, tokens marked."""
    batch = runner.input_batch
    for request_id in tables.request_ids():
        if request_id not in runner.requests:
            tables.remove_request(request_id)
    request_ids = batch.req_ids[: batch.num_reqs]
    starts = runner.query_start_loc.np[: batch.num_reqs + 1]
    tables.write_tokens([_slot(tables, runner, request_id) for request_id in request_ids], starts[1:] - starts[:-1])


def _slot(tables: SlotTables, runner: Any, request_id: str) -> int:
    slot = tables.slot_of(request_id)
    if slot is not None:
        return slot
    params = runner.requests[request_id].sampling_params
    return tables.add_request(request_id, params.extra_args if params is not None else None)
