"""Real vLLM engines for tests: in this process, eager, float32, tiny models."""

import os

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")

import pytest  # noqa: E402


@pytest.fixture(scope="session")
def start_engine():
    """Start an engine on a model folder: start_engine(folder, modules, **vllm_arguments)."""
    from surgery.models import describe_model
    from vllm_refusal.engine import Engine, EngineOptions

    def start(folder, modules=None, dtype="float32", eager=True, capture=False, **arguments):
        vllm = {"max_model_len": 128, **arguments}
        options = EngineOptions(dtype=dtype, eager=eager, max_num_seqs=64, capture=capture, vllm=vllm)
        return Engine(describe_model(folder), modules or {}, options)

    return start
