"""Refusal vectors from a vLLM engine against those from forward hooks: the whole file, on a trained organism."""

import pytest
import torch

from surgery.model.models import describe_model, load_model, load_tokenizer
from surgery.prompts import load_pairs
from surgery.residual.vectors import RefusalVectors
from surgery.statistics.extraction import ExtractionPlan, extract
from vllm_refusal.engine.activation_source import VllmSource

pytestmark = pytest.mark.engine

# Largest difference relative to the largest value of a tensor. float32: sums run in another order; observed below 4e-7.
# bfloat16: vLLM rounds the residual elsewhere than transformers does; observed below 6e-3.
TOLERANCES = {"float32": 5e-6, "bfloat16": 0.02}
# Squares of small differences between halves of a tier: in bfloat16 hooks and vLLM are each 0.02-0.03 from float32.
LOOSER = {"tier_half_grams": 5}
ENGINE_OF = ("engine", "vllm", "method", "batch_size", "shared_prefix_tokens")
N_FITTED, N_HELD_OUT = 24, 6


@pytest.fixture(scope="module", params=sorted(TOLERANCES))
def both(request, tmp_path_factory):
    """(dtype, RVs by forward hooks, RVs by vLLM) of the same pairs, each through its file."""
    from surgery.organisms.release import write_organism

    folder = tmp_path_factory.mktemp("organism")
    info = describe_model(write_organism("single", folder / "model"))
    pairs = load_pairs(folder / "model" / "pairs.jsonl")
    plan = ExtractionPlan(
        sites=("resid_pre", "resid_mid"), held_out=pairs[N_FITTED : N_FITTED + N_HELD_OUT], n_components=2
    )
    fitted, tokenizer = pairs[:N_FITTED], load_tokenizer(info)
    by_hooks = extract(load_model(info, request.param), tokenizer, fitted, info, plan=plan)
    with VllmSource(info, request.param) as source:
        by_vllm = extract(source, tokenizer, fitted, info, plan=plan)
    files = [rvs.save(folder / f"{name}.safetensors") for name, rvs in (("hf", by_hooks), ("vllm", by_vllm))]
    return request.param, *(RefusalVectors.load(file) for file in files)


def tensors(rvs):
    return {"vectors": rvs.vectors, "mean_harmful": rvs.mean_harmful, "mean_safe": rvs.mean_safe} | {
        "projections_harmful": rvs.projections_harmful,
        "projections_safe": rvs.projections_safe,
        **{name: tensor for name, tensor in rvs.extras.items() if name not in ("components", "split_half_cosine")},
    }


def test_every_tensor_of_the_file_is_the_same_within_the_dtypes_tolerance(both):
    dtype, by_hooks, by_vllm = both
    expected, found = tensors(by_hooks), tensors(by_vllm)
    assert expected.keys() == found.keys()
    assert {"resid_mid@-1/vectors", "held_out_harmful", "by_tag", "singular_values"} <= found.keys()
    for name, tensor in expected.items():
        apart = float((found[name] - tensor).abs().max() / tensor.abs().max())
        assert apart < TOLERANCES[dtype] * LOOSER.get(name, 1), name


def test_directions_point_the_same_way_and_another_layers_does_not(both):
    dtype, by_hooks, by_vllm = both
    expected, found = by_hooks.vectors.double(), by_vllm.vectors.double()
    cosines = torch.nn.functional.cosine_similarity(expected, found)
    assert cosines.min() > 1 - TOLERANCES[dtype] / 20
    shifted = torch.nn.functional.cosine_similarity(expected, found.roll(1, dims=0))
    assert shifted.max() < cosines.min()


def test_the_header_says_which_engine_it_was_and_nothing_else_differs(both):
    dtype, by_hooks, by_vllm = both
    assert by_vllm.header["engine"] == "vllm" and by_hooks.header["engine"] == "transformers"
    assert by_vllm.header["dtype"] == by_hooks.header["dtype"] == dtype
    assert by_vllm.header["vllm"].startswith("0.")
    assert "vLLM" in by_vllm.header["method"]
    same = by_hooks.header.keys() & by_vllm.header.keys() - set(ENGINE_OF)
    assert {key: by_vllm.header[key] for key in same} == {key: by_hooks.header[key] for key in same}
