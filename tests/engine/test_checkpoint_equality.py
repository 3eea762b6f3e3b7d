"""The product's gate: an orthogonalized checkpoint in stock vLLM is the same model as runtime ablation of the writes."""

import pytest
from tiny_models import D_MODEL, save_servable_model

from surgery.models import describe_model
from surgery.orthogonalize import orthogonalize
from surgery.subspace import random_subspace
from vllm_refusal.architectures import ARCHITECTURES
from vllm_refusal.engine import Request, Sampling

pytestmark = pytest.mark.engine

ALPHAS = (0.5, 1.0, 1.5)
LAYERS = "0,2-3"
TOKEN_IDS = list(range(3, 14))
LOGPROB_TOLERANCE = 2e-4  # float32 sums in another order, and weights rounded once; observed below 2e-5
EFFECT = 1e-2


def answer(engine, *requests):
    sampling = Sampling(max_tokens=10, logprobs=5)
    return {response.id: response for response in engine.generate(requests, sampling)}


@pytest.fixture(scope="module", params=sorted(ARCHITECTURES))
def runtime(request, tmp_path_factory, start_engine):
    """(model folder, subspace, answers of the runtime engine by strength, 0 for none) of one architecture."""
    folder = tmp_path_factory.mktemp(request.param)
    model = save_servable_model(folder / "model", request.param)
    subspace = random_subspace(D_MODEL, 4, seed=4)
    path = subspace.save(folder / "sub.safetensors")
    requests = [
        Request(str(alpha), TOKEN_IDS, {"ablation": "sub", "ablation_alpha": alpha, "ablation_layers": LAYERS})
        for alpha in (0.0, *ALPHAS)
    ]
    with start_engine(model, {"sub": {"path": str(path), "site": "writes"}}, skip_tokenizer_init=True) as engine:
        return model, subspace, answer(engine, *requests)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_checkpoint_equals_ablation_of_the_writes(runtime, alpha, start_engine, tmp_path):
    model, subspace, answers = runtime
    orthogonalize(describe_model(model), subspace.basis, alpha, tmp_path / "edited", layers=LAYERS)
    with start_engine(tmp_path / "edited", skip_tokenizer_init=True) as stock:
        edited = answer(stock, Request("edited", TOKEN_IDS))["edited"]
    assert edited.token_ids == answers[str(alpha)].token_ids
    for ours, theirs in zip(answers[str(alpha)].logprobs, edited.logprobs, strict=True):
        assert theirs == pytest.approx(ours, abs=LOGPROB_TOLERANCE)
    plain, first = answers["0.0"].logprobs[0], edited.logprobs[0]
    assert plain.keys() != first.keys() or plain != pytest.approx(first, abs=EFFECT)
