"""The product's gate, third side: the LoRA adapter in stock vLLM is the same model as runtime ablation of the writes."""

import json

import pytest
from tiny_models import D_MODEL, save_servable_model

from surgery.adapter import write_adapter
from surgery.models import describe_model
from surgery.subspace import random_subspace
from vllm_refusal.engine import Request, Sampling

pytestmark = pytest.mark.engine

ALPHAS = (0.5, 1.0, 1.5)
LAYERS = "0,2-3"
TOKEN_IDS = list(range(3, 14))
LOGPROB_TOLERANCE = 2e-4  # float32 sums in another order; observed below 2e-5
EFFECT = 1e-2


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_servable_model(tmp_path_factory.mktemp("adapter") / "model", "Qwen2ForCausalLM")


@pytest.fixture(scope="module")
def subspace():
    return random_subspace(D_MODEL, 4, seed=4)


@pytest.fixture(scope="module")
def at_run_time(model, subspace, tmp_path_factory, start_engine):
    """Responses by strength, 0 for none."""
    path = subspace.save(tmp_path_factory.mktemp("sub") / "sub.safetensors")
    requests = [
        Request(str(alpha), TOKEN_IDS, {"ablation": "sub", "ablation_alpha": alpha, "ablation_layers": LAYERS})
        for alpha in (0.0, *ALPHAS)
    ]
    with start_engine(model, {"sub": {"path": str(path), "site": "writes"}}, skip_tokenizer_init=True) as engine:
        responses = engine.generate(requests, Sampling(max_tokens=10, logprobs=5))
        return {float(response.id): response for response in responses}


@pytest.fixture(scope="module")
def stock(model):
    """Stock vLLM with LoRA switched on."""
    from vllm import LLM

    llm = LLM(
        model=str(model),
        dtype="float32",
        enforce_eager=True,
        skip_tokenizer_init=True,
        max_model_len=128,
        distributed_executor_backend="uni",
        enable_lora=True,
        max_lora_rank=8,
    )
    yield llm
    llm.llm_engine.engine_core.shutdown()


def answer(stock, adapter=None):
    """(token ids, log probabilities by token at each step) with an adapter's folder, or without one."""
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest

    sampling = SamplingParams(max_tokens=10, temperature=0, logprobs=5, detokenize=False)
    request = LoRARequest(adapter.name, 1 + ALPHAS.index(float(adapter.name)), str(adapter)) if adapter else None
    (output,) = stock.generate([{"prompt_token_ids": TOKEN_IDS}], sampling, use_tqdm=False, lora_request=request)
    (completion,) = output.outputs
    steps = [{token: found.logprob for token, found in step.items()} for step in completion.logprobs]
    return tuple(completion.token_ids), steps


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_adapter_equals_ablation_of_the_writes(model, subspace, at_run_time, stock, tmp_path, alpha):
    write_adapter(describe_model(model), subspace.basis, alpha, tmp_path / str(alpha), LAYERS)
    token_ids, logprobs = answer(stock, tmp_path / str(alpha))
    assert token_ids == at_run_time[alpha].token_ids
    for ours, theirs in zip(at_run_time[alpha].logprobs, logprobs, strict=True):
        assert theirs == pytest.approx(dict(ours), abs=LOGPROB_TOLERANCE)
    plain = at_run_time[0.0].logprobs[0]
    assert plain.keys() != logprobs[0].keys() or logprobs[0] != pytest.approx(dict(plain), abs=EFFECT)


def test_without_a_request_for_the_adapter_the_model_is_the_plain_one(at_run_time, stock):
    token_ids, logprobs = answer(stock)
    assert token_ids == at_run_time[0.0].token_ids
    assert logprobs[0] == pytest.approx(dict(at_run_time[0.0].logprobs[0]), abs=LOGPROB_TOLERANCE)


def test_vllm_reads_the_configuration_with_scaling_one(model, subspace, tmp_path):
    from vllm.lora.peft_helper import PEFTHelper

    write_adapter(describe_model(model), subspace.basis, 1.0, tmp_path / "out")
    helper = PEFTHelper.from_dict(json.loads((tmp_path / "out/adapter_config.json").read_text()))
    assert (helper.r, helper.vllm_lora_scaling_factor) == (4, 1.0)
