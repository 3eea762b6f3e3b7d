"""The tokens that all prompts begin with, run once and shared: what comes out is what whole prompts give."""

import pytest
import torch
import transformers
from tiny_models import PAIRS, TEMPLATE, tiny_model, tiny_tokenizer

from surgery.architecture.table import ARCHITECTURES, entry_of
from surgery.model.chat import prompt_token_ids
from surgery.model.models import ModelInfo
from surgery.reading.shared_prefix import common_prefix, run_prefix
from surgery.reading.transformers_source import TransformersSource
from surgery.statistics.extraction import ExtractionPlan, extract

LLAMA, N_LAYERS = "LlamaForCausalLM", 3
TOKENIZER = tiny_tokenizer(TEMPLATE.replace("<s>", "<s>Answer well. "))
SHARED = len("<Answer well. ") + len("<How do I ")  # <s> and <|user|> are a token each
SLIDING = {
    name: {"sliding_window": 20, "max_position_embeddings": 128}
    for name in ("MistralForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM")
}


def read(architecture, batch_size, **overrides):
    model = tiny_model(architecture, n_layers=N_LAYERS, **overrides)
    info = ModelInfo("tiny", None, "/tiny", architecture, 32, N_LAYERS, 260, "float32", "f" * 64)
    sites = entry_of(architecture).resid_sites
    return extract(
        model, TOKENIZER, PAIRS, info, plan=ExtractionPlan(sites=sites, positions="all", batch_size=batch_size)
    )


def apart(a, b):
    """The largest relative difference of any layer's vector or mean at any site and position."""
    names = [name for name in a.extras if name.endswith(("/vectors", "/mean_safe"))]
    pairs = [(a.vectors, b.vectors), (a.mean_safe, b.mean_safe), *((a.extras[name], b.extras[name]) for name in names)]
    return max(((x - y).norm(dim=1) / y.norm(dim=1).clamp(min=1e-3)).max().item() for x, y in pairs)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_a_shared_prefix_gives_what_whole_prompts_give(architecture):
    whole, shared = read(architecture, 1), read(architecture, 4)
    assert shared.header["shared_prefix_tokens"] == SHARED and shared.header["whole_prompts_because"] is None
    assert whole.header["shared_prefix_tokens"] == 0
    assert len(shared.extras) > 6 and apart(shared, whole) <= 1e-5  # float32 sums in another order


@pytest.mark.parametrize("architecture", sorted(SLIDING))
def test_a_prefix_longer_than_a_sliding_window_is_shared_too(architecture):
    settings = SLIDING[architecture]
    whole, shared = read(architecture, 1, **settings), read(architecture, 4, **settings)
    assert shared.header["shared_prefix_tokens"] == SHARED > settings["sliding_window"]
    assert apart(shared, whole) <= 1e-5
    unlimited = read(architecture, 1)  # the control: the window changes what is read
    assert apart(whole, unlimited) > 1e-3


def test_only_what_follows_the_prefix_is_run_for_every_prompt():
    model, seen = tiny_model(LLAMA), []
    model.model.register_forward_pre_hook(lambda _m, _a, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True)
    prompts = [prompt_token_ids(TOKENIZER, text) for pair in PAIRS for text in (pair.harmful, pair.safe)]
    source = TransformersSource(model, entry_of(LLAMA), batch_size=8)
    assert len(list(source.activations(prompts, ("resid_post",), 1))) == len(prompts)
    assert seen[0].shape == (1, SHARED) and seen[0][0].tolist() == prompts[0][:SHARED]
    assert sum(ids.numel() for ids in seen) == SHARED + sum(len(ids) - SHARED for ids in prompts)


def test_the_prefix_ends_where_prompts_part_and_before_every_token_read():
    assert common_prefix([[1, 2, 3, 4], [1, 2, 5, 4]], 1) == 2
    assert common_prefix([[1, 2, 3], [1, 2, 3]], 1) == 2
    assert common_prefix([[1, 2, 3], [1, 2, 3, 4, 5]], 2) == 1
    assert common_prefix([[1, 2, 3, 4], [9, 2, 3, 4]], 1) == 0
    assert common_prefix([[7]], 1) == 0


def test_prompts_that_share_nothing_run_whole_and_the_reason_is_kept():
    source = TransformersSource(tiny_model(LLAMA), entry_of(LLAMA), batch_size=2)
    assert len(list(source.activations([[5, 6, 7], [8, 9, 10]], ("resid_post",), 1))) == 2
    assert source.header()["whole_prompts_because"] == "the prompts share no first token"


def test_a_model_that_keeps_something_else_of_its_past_runs_whole_prompts():
    config = transformers.Lfm2Config(
        vocab_size=260, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, layer_types=["conv", "full_attention"], pad_token_id=0,
    )  # fmt: skip
    hybrid = transformers.Lfm2ForCausalLM(config).eval()
    found = run_prefix(hybrid, [[5, 6, 7, 8], [5, 6, 9, 8]], 1, torch.device("cpu"))
    assert found.n_tokens == 0 and found.copies(2) is None
    assert found.why_not == "the model keeps a LinearAttentionLayer of its past"


def test_rotations_that_change_with_the_length_run_whole_prompts_only_where_they_do():
    factors = [1.0, 2.0, 3.0, 4.0]
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": factors, "long_factor": factors[::-1]}
    model = tiny_model("Phi3ForCausalLM", original_max_position_embeddings=6, rope_parameters=rope)
    short, long = ([[5, 6, 7, 8] + [9] * n, [5, 6, 10, 8]] for n in (1, 4))
    assert run_prefix(model, short, 1, torch.device("cpu")).n_tokens == 2
    assert "the longest has 8 tokens" in run_prefix(model, long, 1, torch.device("cpu")).why_not
