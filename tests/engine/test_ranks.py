"""Subspaces of rank 1 to 64 together in one batch, against Hugging Face forward hooks in float32."""

import pytest
import torch
from tiny_models import D_MODEL, TRACED, VOCAB_SIZE, servable_model

from surgery.files.artifacts import save_artifact
from surgery.reading.hooks import ablated
from surgery.residual.subspace import random_subspace
from vllm_refusal.engine.engine import Request, Sampling
from vllm_refusal.settings.modules import ConfigError

pytestmark = pytest.mark.engine

RANKS = (1, 16, 23, 64)
LOGPROB_TOLERANCE = 2e-4  # as in test_parity
EFFECT = 1e-2
N_TOKENS = 6


@pytest.fixture(scope="module", params=["eager", "traced", pytest.param("compiled", marks=pytest.mark.slow)])
def served(request, tmp_path_factory, start_engine):
    """(Hugging Face model, engine with one module for each rank)."""
    folder = tmp_path_factory.mktemp("ranks")
    model = servable_model("LlamaForCausalLM")
    model.save_pretrained(folder / "model")
    arguments = {"compilation_config": TRACED} if request.param == "traced" else {}
    arguments |= {"eager": request.param == "eager", "skip_tokenizer_init": True}
    with start_engine(folder / "model", write_modules(folder), **arguments) as engine:
        yield model, engine


def write_modules(folder, ranks=RANKS):
    """Modules named by their rank; every other one removes what is written instead of the stream."""
    modules = {}
    for index, rank in enumerate(ranks):
        path = folder / f"{rank}.safetensors"
        save_artifact(path, "subspace", {"basis": random_subspace(D_MODEL, rank, seed=rank).basis}, {})
        modules[f"rank{rank}"] = {"path": str(path), "site": ("stream", "writes")[index % 2]}
    return modules


def requests():
    """No intervention, and each rank at two strengths and on two sets of layers."""
    cases = [None, *((rank, alpha, layers) for rank in RANKS for alpha, layers in ((1.0, "all"), (0.5, "1-3")))]
    for index, case in enumerate(cases):
        token_ids = [3 + (17 * index + 5 * step) % (VOCAB_SIZE - 3) for step in range(5 + index % 4)]
        keys = {}
        if case is not None:
            keys = {"ablation": f"rank{case[0]}", "ablation_alpha": case[1], "ablation_layers": case[2]}
        yield Request(str(index), token_ids, keys), case


def answer(engine, asked):
    return {response.id: response for response in engine.generate(asked, Sampling(max_tokens=N_TOKENS, logprobs=5))}


def logprobs_by_hooks(model, request, response, case):
    """Log probabilities [n_tokens, vocab_size] at the engine's own tokens; a case of None is the plain model."""
    ids = torch.tensor([[*request.token_ids, *response.token_ids]])
    with torch.no_grad():
        if case is None:
            logits = model(ids).logits
        else:
            rank, alpha, layers = case
            basis = random_subspace(D_MODEL, rank, seed=rank).basis
            with ablated(model, basis, alpha, layers, ("stream", "writes")[RANKS.index(rank) % 2]):
                logits = model(ids).logits
    return logits[0, len(request.token_ids) - 1 : -1].log_softmax(-1)


def test_every_rank_equals_forward_hooks_in_one_batch(served):
    model, engine = served
    cases = list(requests())
    answers = answer(engine, [request for request, _ in cases])
    for request, case in cases:
        response = answers[request.id]
        expected = logprobs_by_hooks(model, request, response, case)
        plain = logprobs_by_hooks(model, request, response, None)
        assert response.token_ids == tuple(expected.argmax(-1).tolist()), case
        for position, logprobs in enumerate(response.logprobs):
            for token, value in logprobs.items():
                assert value == pytest.approx(float(expected[position, token]), abs=LOGPROB_TOLERANCE), case
        moved = max(abs(value - float(plain[0, token])) for token, value in response.logprobs[0].items())
        assert (moved > EFFECT) == (case is not None), case


def test_every_rank_answers_in_a_batch_as_alone_bit_for_bit(served):
    _, engine = served
    asked = [request for request, _ in requests()]
    together = answer(engine, asked)
    for request in asked:
        assert answer(engine, [request])[request.id] == together[request.id], request.ablation


def test_a_rank_above_the_bound_stops_the_engine(tmp_path, start_engine):
    servable_model("LlamaForCausalLM").save_pretrained(tmp_path / "model")
    with pytest.raises(ConfigError, match="rank 65 but max_rank is 64"):
        start_engine(tmp_path / "model", write_modules(tmp_path, (65,)), skip_tokenizer_init=True)
