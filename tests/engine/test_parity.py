"""Runtime ablation against Hugging Face forward hooks in float32, for every architecture of the plugin's table."""

import itertools

import pytest
import torch
from tiny_models import D_MODEL, TRACED, VOCAB_SIZE, servable_model

from surgery.architecture.table import ARCHITECTURES
from surgery.files.artifacts import save_artifact
from surgery.reading.hooks import ablated
from surgery.residual.subspace import random_subspace
from vllm_refusal.engine.engine import Request, Sampling

pytestmark = pytest.mark.engine

LOGPROB_TOLERANCE = 2e-4  # sums run in another order in the two float32 engines; observed below 3e-5
EXPERTS_TOLERANCE = 1e-5  # alone against in a batch; stock vLLM differs by 1e-6
EFFECT = 1e-2  # an intervention moves some logprob at least this far; observed above 0.014
N_TOKENS = 10
BLOCK_SIZE = 32
RANKS = {"one": 1, "four": 4, "affine": 2, "writes": 4}
COMPILED = [  # one for each thing that a block returns, and one of vLLM's backend for models of transformers
    "LlamaForCausalLM compiled",
    "GraniteForCausalLM traced",
    "CohereForCausalLM traced",
    "Olmo2ForCausalLM traced",
    *(
        pytest.param(f"{name} compiled", marks=pytest.mark.slow)
        for name in ("GraniteForCausalLM", "CohereForCausalLM", "Olmo2ForCausalLM")
    ),
]


@pytest.fixture(scope="module", params=[*sorted(ARCHITECTURES), *COMPILED])
def served(request, tmp_path_factory, start_engine):
    """(Hugging Face model, engine, bases by module name, offset of "affine") of one architecture."""
    architecture, _, graph = request.param.partition(" ")
    folder = tmp_path_factory.mktemp(architecture)
    model = servable_model(architecture)
    model.save_pretrained(folder / "model")
    bases = {name: random_subspace(D_MODEL, rank, seed=rank).basis for name, rank in RANKS.items()}
    offset = torch.tensor([0.7, -1.1])
    modules = {}
    for name, basis in bases.items():
        path = folder / f"{name}.safetensors"
        tensors = {"basis": basis} | ({"offset": offset} if name == "affine" else {})
        save_artifact(path, "subspace", tensors, {})
        modules[name] = {"path": str(path), "site": "writes" if name == "writes" else "stream"}
    arguments = {"skip_tokenizer_init": True, "block_size": BLOCK_SIZE} | (
        {"compilation_config": TRACED} if graph == "traced" else {}
    )
    with start_engine(folder / "model", modules, eager=not graph, **arguments) as engine:
        yield model, engine, bases, offset


def interventions():
    """Twenty-one mixtures of module, strength and layers, and no intervention."""
    yield None
    yield from itertools.product(("one", "four"), (0.5, 1.0, 1.5), ("all", "1-3", "4"))
    yield from (("affine", 1.0, "all"), ("writes", 0.5, "all"), ("writes", 1.0, "0,2-3"))


def request_for(index, intervention):
    length = 5 + index % 4  # prompts of several lengths in one batch
    token_ids = [3 + (17 * index + 5 * step) % (VOCAB_SIZE - 3) for step in range(length)]
    if intervention is None:
        return Request(f"{index}", token_ids)
    name, alpha, layers = intervention
    return Request(f"{index}", token_ids, {"ablation": name, "ablation_alpha": alpha, "ablation_layers": layers})


def hooks_logprobs(model, request, response, intervention, bases, offset):
    """Log probabilities [n_tokens, vocab_size] at the engine's own generated tokens, by forward hooks."""
    ids = torch.tensor([[*request.token_ids, *response.token_ids]])
    with torch.no_grad():
        if intervention is None:
            logits = model(ids).logits
        else:
            name, alpha, layers = intervention
            site = "writes" if name == "writes" else "stream"
            with ablated(model, bases[name], alpha, layers, site, offset if name == "affine" else None):
                logits = model(ids).logits
    return logits[0, len(request.token_ids) - 1 : -1].log_softmax(-1)


def answer(engine, requests):
    sampling = Sampling(max_tokens=N_TOKENS, logprobs=5)
    return {response.id: response for response in engine.generate(requests, sampling)}


def test_a_mixed_batch_equals_forward_hooks_for_every_architecture(served):
    model, engine, bases, offset = served
    cases = list(enumerate(interventions()))
    requests = {index: request_for(index, intervention) for index, intervention in cases}
    answers = answer(engine, requests.values())
    assert len(answers) == len(cases) == 22
    for index, intervention in cases:
        expected = hooks_logprobs(model, requests[index], answers[str(index)], intervention, bases, offset)
        response = answers[str(index)]
        assert response.token_ids == tuple(expected.argmax(-1).tolist()), intervention
        for position, logprobs in enumerate(response.logprobs):
            for token, value in logprobs.items():
                assert value == pytest.approx(float(expected[position, token]), abs=LOGPROB_TOLERANCE), intervention


def test_every_intervention_moves_the_output_away_from_the_plain_model(served):
    """The negative control of the parity test: without the edits the same comparison fails."""
    model, engine, bases, offset = served
    cases = [(index, intervention) for index, intervention in enumerate(interventions()) if intervention is not None]
    answers = answer(engine, [request_for(*case) for case in cases])
    for index, intervention in cases:
        response = answers[str(index)]
        plain = hooks_logprobs(model, request_for(index, intervention), response, None, bases, offset)
        moved = max(abs(value - float(plain[0, token])) for token, value in response.logprobs[0].items())
        assert moved > EFFECT, intervention


def test_a_mixed_batch_equals_each_run_alone_bit_for_bit(served):
    model, engine, _, _ = served
    requests = [request_for(index, intervention) for index, intervention in enumerate(interventions())]
    together = answer(engine, requests)
    for request in requests[::3]:  # single runs are slow; every module, strength and layer set is among these
        (alone,) = answer(engine, [request]).values()
        if ARCHITECTURES[
            type(model).__name__
        ].experts:  # stock vLLM's experts sum in an order that depends on the batch
            assert alone.token_ids == together[request.id].token_ids
            for ours, theirs in zip(alone.logprobs, together[request.id].logprobs, strict=True):
                assert theirs == pytest.approx(ours, abs=EXPERTS_TOLERANCE), request.ablation
        else:
            assert alone == together[request.id], request.ablation


def test_alpha_zero_and_none_equal_a_request_without_keys_bit_for_bit(served):
    _, engine, _, _ = served
    token_ids = list(range(3, 12))
    requests = [
        Request("plain", token_ids),
        Request("none", token_ids, {"ablation": "none"}),
        Request("zero", token_ids, {"ablation": "four", "ablation_alpha": 0.0}),
        Request("ablated", token_ids, {"ablation": "four"}),
    ]
    answers = answer(engine, requests)
    for name in ("none", "zero"):
        assert answers[name].logprobs == answers["plain"].logprobs
    assert answers["ablated"].logprobs != answers["plain"].logprobs


def test_cached_prefixes_are_never_shared_between_different_interventions(served):
    """Blocks computed under one intervention must not answer for another: the same long prompt, one after the other."""
    model, engine, bases, offset = served
    token_ids = [3 + (11 * step) % (VOCAB_SIZE - 3) for step in range(2 * BLOCK_SIZE + 5)]
    order = [None, ("four", 1.0, "all"), ("four", 0.5, "all"), None, ("one", 1.0, "1-3"), ("four", 1.0, "all")]
    for index, intervention in enumerate(order):
        keys = request_for(index, intervention).ablation
        (response,) = answer(engine, [Request(f"{index}", token_ids, keys)]).values()
        expected = hooks_logprobs(model, Request("", token_ids), response, intervention, bases, offset)
        assert response.token_ids == tuple(expected.argmax(-1).tolist()), (index, intervention)
        assert response.n_cached_tokens == (2 * BLOCK_SIZE if intervention in order[:index] else 0), (
            index,
            intervention,
        )


def test_a_request_that_cannot_be_honoured_is_refused_and_the_engine_goes_on(served):
    from vllm.exceptions import VLLMClientError

    _, engine, _, _ = served
    token_ids = [3, 4, 5]
    for keys, reason in (
        ({"ablation": "unknown"}, "not loaded"),
        ({"ablation": "one", "ablation_alpha": float("nan")}, "finite"),
        ({"ablation": "one", "ablation_layers": "3-99"}, "outside the model"),
        ({"ablation_alpha": 0.5}, "names no ablation"),
        ({"ablation": "one", "ablation_strength": 1}, "unknown request key"),
    ):
        with pytest.raises(VLLMClientError, match=reason):
            answer(engine, [Request("refused", token_ids, keys)])
    assert len(answer(engine, [Request("accepted", token_ids, {"ablation": "one"})])) == 1


def test_a_beam_search_that_names_an_ablation_is_refused_and_others_are_not(served):
    """Behind any front end, stock `vllm serve` included: vLLM's beam search would drop the keys."""
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest
    from vllm.exceptions import VLLMClientError

    def beams(**vllm_xargs):
        request = CompletionRequest(model="m", prompt="p", use_beam_search=True, vllm_xargs=vllm_xargs or None)
        return request.to_beam_search_params(4, {})

    with pytest.raises(VLLMClientError, match="beam search cannot apply ablation 'one'"):
        beams(ablation="one")
    assert beams().max_tokens == beams(ablation="none").max_tokens == 4
