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


@pytest.fixture(scope="session")
def writes_at_run_time(tmp_path_factory, start_engine):
    """writes_at_run_time(architecture): (model folder, subspace, responses by strength, 0 for none), made once."""
    import functools

    from edited_writes import ALPHAS, LAYERS, N_TOKENS, RANK, TOKEN_IDS
    from tiny_models import D_MODEL, save_servable_model

    from surgery.subspace import random_subspace
    from vllm_refusal.engine import Request, Sampling

    @functools.cache
    def responses(architecture):
        folder = tmp_path_factory.mktemp(architecture)
        model = save_servable_model(folder / "model", architecture)
        subspace = random_subspace(D_MODEL, RANK, seed=4)
        modules = {"sub": {"path": str(subspace.save(folder / "sub.safetensors")), "site": "writes"}}
        requests = [
            Request(str(alpha), TOKEN_IDS, {"ablation": "sub", "ablation_alpha": alpha, "ablation_layers": LAYERS})
            for alpha in (0.0, *ALPHAS)
        ]
        with start_engine(model, modules, skip_tokenizer_init=True) as engine:
            answers = engine.generate(requests, Sampling(max_tokens=N_TOKENS, logprobs=5))
            return model, subspace, {float(response.id): response for response in answers}

    return responses
