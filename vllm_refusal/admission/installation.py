"""What of vLLM is wrapped in every process: its input processor, its engine core, and the core's start."""

import functools

from vllm.v1.engine.core import EngineCore

from vllm_refusal.admission import core_proof, engine_core, front_end
from vllm_refusal.compatibility.wrapping import wrap


@functools.cache
def install() -> None:
    """Wrap it, once per process."""
    processor, core = "vllm.v1.engine.input_processor:InputProcessor", "vllm.v1.engine.core:EngineCore"
    wrap(f"{processor}.__init__", front_end.loading_settings)
    wrap(f"{processor}.process_inputs", front_end.resolving_keys)
    wrap(f"{core}.preprocess_add_request", engine_core.admitting)
    for wrapper in (engine_core.loading_settings, core_proof.noting_start):
        wrap(f"{core}._initialize_kv_caches", wrapper)
    for wrapper in (engine_core.following_modules, core_proof.proving_when_asked):
        wrap(f"{core}.collective_rpc", wrapper)
    wrap("vllm.v1.engine.core:freeze_gc_heap", core_proof.proving_first)
    setattr(EngineCore, engine_core.count_ablation_requests.__name__, engine_core.count_ablation_requests)
