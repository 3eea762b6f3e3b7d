"""Extraction from models whose parts lie on several devices, here the CPU and the disk."""

import pytest
import torch
from tiny_models import PAIRS, write_model

from surgery.model.models import describe_model, load_model, load_tokenizer
from surgery.reading.transformers_source import input_device
from surgery.statistics.extraction import ExtractionPlan, extract
from surgery.statistics.selection import next_token_log_probs

PLACES = {
    "embedding on disk": {"model.embed_tokens": "disk", "model.layers": "cpu"},
    "every other block on disk": {
        "model.embed_tokens": "cpu",
        **{f"model.layers.{n}": ("disk", "cpu")[n % 2] for n in range(4)},
    },
    "all blocks on disk": {"model.embed_tokens": "disk", "model.layers": "disk"},
}


@pytest.fixture(scope="module")
def info(tmp_path_factory):
    return describe_model(write_model(tmp_path_factory.mktemp("placed") / "m", "LlamaForCausalLM", n_layers=4))


def placed(info, place):
    rest = {"model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    return load_model(info, "float32", PLACES[place] | rest)


@pytest.mark.parametrize("place", sorted(PLACES))
def test_vectors_are_the_same_wherever_the_weights_lie(info, place):
    model, whole, tokenizer = placed(info, place), load_model(info, "float32"), load_tokenizer(info)
    offloaded = [name for name, parameter in model.named_parameters() if parameter.device.type == "meta"]
    assert offloaded and not any(parameter.is_meta for parameter in whole.parameters())
    for batch_size in (1, 4):
        plan = ExtractionPlan(batch_size=batch_size, sites=("resid_pre", "resid_mid", "resid_post"), positions="all")
        found, expected = (extract(m, tokenizer, PAIRS, info, plan=plan) for m in (model, whole))
        assert torch.equal(found.vectors, expected.vectors)  # the same arithmetic on the same processor
        for name, tensor in expected.extras.items():
            assert torch.equal(found.extras[name], tensor), name
        assert found.header["devices"] == ["cpu", "disk"] and expected.header["devices"] == ["cpu"]


def test_token_ids_go_where_an_offloaded_embedding_computes(info):
    model = placed(info, "embedding on disk")
    assert model.device.type == "meta" and input_device(model) == torch.device("cpu")
    prompts, whole = [[5, 6, 7], [8, 9, 10]], load_model(info, "float32")
    assert torch.equal(next_token_log_probs(model, prompts), next_token_log_probs(whole, prompts))
