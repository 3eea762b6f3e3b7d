"""Ablation on quantized base weights, written here in compressed-tensors' formats, as far as vLLM's CPU engine runs them."""

import json

import pytest
import torch
from edited_requests import INTERVENTIONS, Reference, prompt, sampling, start_llm
from safetensors.torch import load_file, save_file
from torch import nn

from vllm_refusal.engine.captured import take_captured
from vllm_refusal.settings.capture import capture_arguments

pytestmark = pytest.mark.engine

N_TOKENS = 6
GROUP = 32  # weights that share a scale, four bits each
PROMPTS = [prompt(20 + index, index) for index in range(len(INTERVENTIONS))]
INT8 = {"num_bits": 8, "type": "int", "symmetric": True}
INT4 = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": GROUP, "dynamic": False}
FORMATS = {
    "w8a8": (
        "int-quantized",
        {
            "weights": {**INT8, "strategy": "channel", "dynamic": False},
            "input_activations": {**INT8, "strategy": "token", "dynamic": True},
        },
    ),
    "w4a16": ("pack-quantized", {"weights": INT4, "input_activations": None}),
}
DTYPES = {"w8a8": "float32", "w4a16": "bfloat16"}  # the kernel of four bits takes no float32
# A log probability's distance. w8a8: float32 sums in another order send an activation over to the next of its 255 codes
# now and then; observed up to 0.044, and without such a step below 2e-6 (the reference alone, its activations moved by 3e-7
# of their size, moves as far). w4a16: bfloat16 against a reference in float32; observed 0.03 to 0.055, the plain row too.
TOLERANCE = 0.1
EXACT = 1e-4  # of answers without such a step
N_EXACT = 3  # such answers under an intervention, at least; observed 5 of 11


def int8_codes(weight):
    """One scale for each row of W, [d_out, d_in]: the tensors of a map, and the values that they stand for."""
    scale = weight.abs().amax(1, keepdim=True) / 127
    codes = (weight / scale).round().to(torch.int8)
    return {"weight": codes, "weight_scale": scale}, codes * scale


def int4_codes(weight):
    """One scale for each GROUP inputs of a row; eight codes plus 8 in each int32, the first in the lowest bits."""
    groups = weight.unflatten(1, (-1, GROUP))
    scale = (groups.abs().amax(2) / 7).bfloat16().float()
    codes = (groups / scale.unsqueeze(2)).round().clamp(-8, 7)
    shifted = (codes.flatten(1).long() + 8).unflatten(1, (-1, 8)) << torch.arange(0, 32, 4)
    packed = shifted.sum(2).to(torch.int32)
    tensors = {"weight_packed": packed, "weight_scale": scale, "weight_shape": torch.tensor(weight.shape)}
    return tensors, (codes * scale.unsqueeze(2)).flatten(1)


QUANTIZERS = {"w8a8": int8_codes, "w4a16": int4_codes}


class Quantized(Reference):
    """The reference with the values of its quantized weights; its folder holds the codes."""

    def __init__(self, folder, scheme):
        super().__init__(folder)
        file, (name, group) = self.folder / "model.safetensors", FORMATS[scheme]
        tensors = load_file(file)
        for path, module in self.model.model.named_modules(prefix="model"):
            if isinstance(module, nn.Linear):
                codes, values = QUANTIZERS[scheme](tensors.pop(f"{path}.weight"))
                tensors |= {f"{path}.{part}": tensor for part, tensor in codes.items()}
                module.weight.data = values
                if group["input_activations"]:
                    module.register_forward_pre_hook(rounded_to_codes)
        save_file(tensors, file, {"format": "pt"})
        config = json.loads((self.folder / "config.json").read_text())
        groups = {"group_0": {"targets": ["Linear"], **group}}
        config["quantization_config"] = {
            "quant_method": "compressed-tensors",
            "quantization_status": "compressed",
            "format": name,
            "ignore": ["lm_head"],
            "config_groups": groups,
        }
        (self.folder / "config.json").write_text(json.dumps(config))


def rounded_to_codes(module, inputs):
    """What a map of int8 activations is fed: each token's own scale, 127 codes on each side of zero."""
    (resid,) = inputs
    scale = resid.abs().amax(-1, keepdim=True) / 127
    return ((resid / scale).round() * scale,)


def steps(output):
    """(token, its log probabilities by token) of each step, to the last bit."""
    (completion,) = output.outputs
    found = [{token: entry.logprob for token, entry in step.items()} for step in completion.logprobs]
    return list(zip(completion.token_ids, found, strict=True))


def answer(llm, interventions, **keys):
    params = [sampling(each, max_tokens=N_TOKENS, ignore_eos=True, detokenize=False) for each in interventions]
    for each in params:
        each.extra_args = {**(each.extra_args or {}), **keys} or None
    return llm.generate([{"prompt_token_ids": ids} for ids in PROMPTS], params, use_tqdm=False)


@pytest.fixture(scope="module", params=list(DTYPES))
def quantized(request, tmp_path_factory):
    """(scheme, reference, output of each of INTERVENTIONS, the streams that they left, by request)."""
    reference = Quantized(tmp_path_factory.mktemp(request.param), request.param)
    arguments = capture_arguments()
    arguments["additional_config"] |= {"ablation": {"modules": reference.modules}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_USE_V2_MODEL_RUNNER", "0")
        llm = start(reference, request.param, **arguments)
    try:
        outputs = answer(llm, INTERVENTIONS, capture_layers="all")
        yield request.param, reference, outputs, take_captured(llm)
    finally:
        llm.llm_engine.engine_core.shutdown()


def start(reference, scheme, **arguments):
    size = {"max_num_seqs": len(INTERVENTIONS), "skip_tokenizer_init": True}
    return start_llm(reference, dtype=DTYPES[scheme], **size, **arguments)


def test_every_intervention_of_a_mixed_batch_equals_forward_hooks_on_the_dequantized_model(quantized):
    scheme, reference, outputs, _ = quantized
    distances = {}
    for output, intervention in zip(outputs, INTERVENTIONS, strict=True):
        (completion,) = output.outputs
        distances[intervention] = reference.distance(output, completion, intervention)
        assert distances[intervention] < TOLERANCE, intervention
        if intervention is not None:
            apart = reference.distance(output, completion, None)
            assert apart > 2 * distances[intervention], intervention
    if DTYPES[scheme] == "float32":
        assert sum(each < EXACT for each in distances.values()) > N_EXACT, distances


def test_nothing_of_the_subspace_is_left_in_the_stream_of_a_request_that_removes_it(quantized):
    scheme, reference, outputs, streams = quantized
    basis = reference.bases["four"]
    rounding = (
        1e-5 if DTYPES[scheme] == "float32" else 2**-7
    )  # each number of the stream is rounded once, after the edit

    def left(index):
        resid = streams[outputs[index].request_id].resid[0]
        return (resid @ basis.T).norm(dim=1) / resid.norm(dim=1)

    assert left(INTERVENTIONS.index(("four", 1.0, "all"))).max() < rounding
    assert left(INTERVENTIONS.index(None)).min() > 4 * rounding


def test_rows_without_an_intervention_are_those_of_stock_vllm_on_the_same_codes_bit_for_bit(quantized):
    scheme, reference, outputs, _ = quantized
    stock = start(reference, scheme, additional_config={})
    try:
        plain = answer(stock, [None] * len(PROMPTS))
    finally:
        stock.llm_engine.engine_core.shutdown()
    for output, expected, intervention in zip(outputs, plain, INTERVENTIONS, strict=True):
        assert (steps(output) == steps(expected)) == (intervention is None), intervention
