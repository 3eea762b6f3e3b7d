"""Activations quantized as they come, with one scale for the whole batch: how far one request's edit reaches others'."""

from types import SimpleNamespace

import pytest
import torch
from tiny_models import tiny_model

from surgery.architecture.table import ARCHITECTURES
from surgery.reading.hooks import submodule
from surgery.residual.operator import ablate
from surgery.residual.subspace import random_subspace
from vllm_refusal.settings.engine_parts import check_parts
from vllm_refusal.settings.modules import MAX_ALPHA, ConfigError

RAW = "Olmo2ForCausalLM"


def engine_of(architecture, quantization):
    parallel = SimpleNamespace(
        use_ubatching=False,
        enable_elastic_ep=False,
        use_sequence_parallel_moe=False,
        prefill_context_parallel_size=1,
    )
    model = SimpleNamespace(runner_type="generate", architecture=architecture, quantization=quantization)
    return SimpleNamespace(
        parallel_config=parallel, model_config=model, kv_transfer_config=None, speculative_config=None
    )


@pytest.mark.parametrize("architecture", sorted(set(ARCHITECTURES) - {RAW}))
def test_what_attention_and_mlp_are_fed_is_bounded_by_the_weights_whatever_an_edit_makes_of_the_stream(architecture):
    model = tiny_model(architecture)
    width, block = model.config.hidden_size, submodule(model, ARCHITECTURES[architecture].blocks)[0]
    stream = torch.randn(64, width, generator=torch.Generator().manual_seed(0))
    grown, basis = stream, random_subspace(width, 2, seed=0).basis
    for _ in range(8):  # an edit behind each of eight blocks
        grown = ablate(grown, basis, -MAX_ALPHA)
    assert grown.abs().max() > 1e4 * stream.abs().max()
    longest = 1e6 * torch.cat([torch.eye(width), -torch.eye(width)])  # no row has a larger entry behind a norm
    for norm in map(block.get_submodule, ARCHITECTURES[architecture].fed.values()):
        assert norm(grown).abs().max() <= norm(longest).abs().max() * (1 + 1e-5)  # rounding


@pytest.mark.parametrize("quantization", ["fp8", "compressed-tensors", "modelopt", "a-later-one"])
def test_where_blocks_read_the_raw_stream_quantized_activations_are_refused(quantization):
    with pytest.raises(ConfigError, match="quantized activations"):
        check_parts(engine_of(RAW, quantization), "ablation")
    check_parts(engine_of("LlamaForCausalLM", quantization), "ablation")
    for weights_alone in (None, "gptq_marlin", "awq"):
        check_parts(engine_of(RAW, weights_alone), "ablation")
