"""Real vLLM engines for tests: in this process, eager, float32, tiny models."""

import pytest


@pytest.fixture(scope="session")
def writes_at_run_time(tmp_path_factory, start_engine):
    """writes_at_run_time(architecture): (model folder, subspace, responses by strength, 0 for none), made once."""
    import functools

    from edited_writes import ALPHAS, LAYERS, N_TOKENS, RANK, TOKEN_IDS
    from tiny_models import D_MODEL, save_servable_model

    from surgery.residual.subspace import random_subspace
    from vllm_refusal.engine.engine import Request, Sampling

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
