"""The product's gate, third side: the LoRA adapter in stock vLLM is the same model as runtime ablation of the writes."""

import json
from contextlib import contextmanager

import pytest
from edited_writes import ALPHAS, CASES, LAYERS, N_TOKENS, TOKEN_IDS, assert_apart, assert_equal

from surgery.architecture.table import ARCHITECTURES
from surgery.console.errors import ModelError
from surgery.model.models import describe_model
from surgery.weights.adapter import write_adapter

pytestmark = pytest.mark.engine

BIASED = ("GPTNeoXForCausalLM", "LlamaForCausalLM")  # these tiny models write with biases, which no adapter can edit
EXPERTS = [name for name, entry in ARCHITECTURES.items() if entry.experts]  # vLLM's LoRA of experts is a Triton kernel
ARCHITECTURES = sorted({name for name, _ in CASES} - {*BIASED, *EXPERTS})


@contextmanager
def stock_vllm(model):
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

    sampling = SamplingParams(max_tokens=N_TOKENS, temperature=0, logprobs=5, detokenize=False)
    request = LoRARequest(adapter.name, 1 + ALPHAS.index(float(adapter.name)), str(adapter)) if adapter else None
    (output,) = stock.generate([{"prompt_token_ids": TOKEN_IDS}], sampling, use_tqdm=False, lora_request=request)
    (completion,) = output.outputs
    steps = [{token: found.logprob for token, found in step.items()} for step in completion.logprobs]
    return completion.token_ids, steps


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_adapter_equals_ablation_of_the_writes(architecture, writes_at_run_time, tmp_path):
    model, subspace, at_run_time = writes_at_run_time(architecture)
    with stock_vllm(model) as stock:
        for alpha in (alpha for name, alpha in CASES if name == architecture):
            write_adapter(describe_model(model), subspace.basis, alpha, tmp_path / str(alpha), LAYERS)
            token_ids, logprobs = answer(stock, tmp_path / str(alpha))
            assert_equal(at_run_time[alpha], token_ids, logprobs)
            assert_apart(at_run_time[0.0], logprobs)
        assert_equal(at_run_time[0.0], *answer(stock))  # without a request for the adapter the model is the plain one


@pytest.mark.parametrize("architecture", BIASED)
def test_biases_that_an_adapter_cannot_edit_are_refused(architecture, writes_at_run_time, tmp_path):
    model, subspace, _ = writes_at_run_time(architecture)
    with pytest.raises(ModelError, match="bias"):
        write_adapter(describe_model(model), subspace.basis, 1.0, tmp_path / "out")


def test_vllm_reads_the_configuration_with_scaling_one(writes_at_run_time, tmp_path):
    from vllm.lora.peft_helper import PEFTHelper

    model, subspace, _ = writes_at_run_time("Qwen2ForCausalLM")
    write_adapter(describe_model(model), subspace.basis, 1.0, tmp_path / "out")
    helper = PEFTHelper.from_dict(json.loads((tmp_path / "out/adapter_config.json").read_text()))
    assert (helper.r, helper.vllm_lora_scaling_factor) == (4, 1.0)
