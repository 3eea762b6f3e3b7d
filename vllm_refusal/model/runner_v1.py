"""Model Runner V1: before each real step, tell the tables which slot every token has, and the reader what to read."""

import functools
from typing import Any

from vllm_refusal.compatibility.wrapping import wrap
from vllm_refusal.edit.slot_tables import SlotTables
from vllm_refusal.settings.capture import RESOLVED, CaptureRequest
from vllm_refusal.settings.engine_settings import settings_of


@functools.cache
def install() -> None:
    """Wrap `GPUModelRunner._model_forward`, which vLLM names as the method to override; once per process.

    It runs once per real step and never in dummy runs, whose tokens keep slot 0.
    """
    wrap("vllm.v1.worker.gpu_model_runner:GPUModelRunner._model_forward", _with_tables)


def _with_tables(original: Any) -> Any:
    @functools.wraps(original)
    def _model_forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        model = self.get_model()
        tables, reader = getattr(model, "ablation", None), getattr(model, "capture", None)
        if tables is not None:
            write_step(tables, self)
        elif settings_of(self.vllm_config) is not None:
            raise RuntimeError("this engine was started with ablation, but the model that it serves was built without")
        if getattr(model, "watch", None) is not None:
            _run_uncompiled()
        captures = captures_of_step(self) if reader is not None else []
        if reader is None or not captures:
            return original(self, *args, **kwargs)
        _run_uncompiled()
        with reader.reading(*zip(*captures, strict=True), self.device):
            return original(self, *args, **kwargs)

    return _model_forward


def write_step(tables: SlotTables, runner: Any) -> None:
    """Bring the tables up to date with the runner's batch: others out, new requests in, tokens marked.

    A preempted request leaves the batch but stays known to the runner; it takes its slot again when it comes back, so
    that a batch of max_num_seqs requests always finds as many slots.
    """
    batch = runner.input_batch
    request_ids = batch.req_ids[: batch.num_reqs]
    tables.keep_requests(set(request_ids))
    starts = runner.query_start_loc.np[: batch.num_reqs + 1]
    tables.write_tokens([_slot(tables, runner, request_id) for request_id in request_ids], starts[1:] - starts[:-1])


def _slot(tables: SlotTables, runner: Any, request_id: str) -> int:
    params = runner.requests[request_id].sampling_params
    return tables.slot_now(request_id, params.extra_args if params is not None else None)


def captures_of_step(runner: Any) -> list[tuple[CaptureRequest, int]]:
    """The requests whose last prompt token is computed in this step, each with that token's row of the batch.

    Prompts come in chunks, a cached prefix is left out, and a preempted request comes again with what it has generated:
    the row follows from the prompt's length and what was computed before.
    """
    batch = runner.input_batch
    found = []
    for index, request_id in enumerate(batch.req_ids[: batch.num_reqs]):
        request = runner.requests[request_id]
        wire = (getattr(request.sampling_params, "extra_args", None) or {}).get(RESOLVED)
        if wire is None:
            continue
        start, end = runner.query_start_loc.np[index : index + 2]
        row = start + request.num_prompt_tokens - 1 - batch.num_computed_tokens_cpu[index]
        if start <= row < end:
            found.append((CaptureRequest.from_wire(wire), int(row)))
    return found


def _run_uncompiled() -> None:
    """This step runs the model's own forward: a compiled graph holds no reader, a CUDA graph runs no Python.

    vLLM has the switch for encoder-decoder models, whose first pass cannot be compiled.
    """
    from vllm.config import CUDAGraphMode
    from vllm.forward_context import get_forward_context

    context = get_forward_context()
    context.skip_compiled = True
    context.cudagraph_runtime_mode = CUDAGraphMode.NONE
