"""Real vLLM engines for tests, eager, float32, tiny models: in this process, and one server that tests share."""

import subprocess
import sys

import pytest
from served import KEY, REFUSAL, running_server


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
def rvs(tmp_path_factory):
    """Refusal vectors of the organism, made by the command."""
    folder = tmp_path_factory.mktemp("rvs")
    from surgery.organisms.release import write_organism

    model = write_organism("single", folder / "model")
    command = [
        sys.executable,
        REFUSAL,
        "extract",
        model,
        "--pairs",
        model / "pairs.jsonl",
        "-o",
        folder / "rvs.safetensors",
    ]
    subprocess.run([*map(str, command), "--dtype", "float32"], check=True, capture_output=True)
    return folder / "rvs.safetensors"


@pytest.fixture(scope="session")
def server(rvs, tmp_path_factory):
    """(base URL, process, log file) of a server with two ablations behind an API key."""
    options = ["--ablation", f"refusal={rvs},source_layer=4"]
    options += ["--ablation", f"late={rvs},source_layers=3-5,alpha=0.5,layers=2,4-6", "--enable-scale-out"]
    with running_server(rvs.parent / "model", tmp_path_factory.mktemp("server") / "server.log", *options) as found:
        yield found


@pytest.fixture
def client(server):
    import openai

    return openai.OpenAI(base_url=server[0], api_key=KEY, max_retries=0, timeout=120)


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
