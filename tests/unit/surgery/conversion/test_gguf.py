"""`refusal convert FILE.gguf`: the values the file stands for, under the names and settings of a Hugging Face folder."""

import json
import struct

import gguf
import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner
from gguf_files import ARCHITECTURES, Q4_0, Q8_0, write_gguf
from safetensors.torch import load_file
from tiny_models import TEMPLATE, tiny_model

from eval.cli import main
from surgery.conversion.gguf import writing
from surgery.conversion.gguf.folder import convert_gguf
from surgery.conversion.gguf.names import llama3_factors
from surgery.model.models import describe_model

OWN = {
    "LlamaForCausalLM": {"attention_bias": False, "mlp_bias": False},
    "Qwen3ForCausalLM": {"attention_bias": False},
    "Qwen3MoeForCausalLM": {
        "attention_bias": False,
        "mlp_only_layers": [],
        "moe_intermediate_size": 32,
        "norm_topk_prob": True,
    },
    "Qwen2MoeForCausalLM": {"mlp_only_layers": [], "moe_intermediate_size": 32, "shared_expert_intermediate_size": 64},
    "Gemma2ForCausalLM": {"attention_bias": False, "tied": True, "query_pre_attn_scalar": 8},
    "Gemma3ForCausalLM": {"attention_bias": False, "tied": True, "query_pre_attn_scalar": 8},
    "Phi3ForCausalLM": {"vocab_size": 32064},  # its class pads with token 32000
}


def made(architecture="Qwen2ForCausalLM", **settings):
    own = {"intermediate_size": 64, "vocab_size": 290, "rms_norm_eps": 1e-5} | OWN.get(architecture, {})
    return tiny_model(architecture, **own | settings)


def loaded(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def logits_of(model):
    with torch.inference_mode():
        return model.eval()(torch.arange(4, 24)[None]).logits


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_is_the_model_that_the_file_was_made_of(architecture, tmp_path):
    theta = {"rope_type": "default", "rope_theta": 123.0}  # no class's default
    gemma3 = {"full_attention": theta, "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}
    model = made(architecture, rope_parameters=gemma3 if architecture == "Gemma3ForCausalLM" else theta)
    record = convert_gguf(write_gguf(tmp_path / "m.gguf", model), tmp_path / "out")
    again = loaded(tmp_path / "out")
    assert record["architecture"] == type(again).__name__ == architecture
    torch.testing.assert_close(logits_of(again), logits_of(model), rtol=1e-5, atol=1e-5)
    assert describe_model(tmp_path / "out").architecture == architecture


@pytest.mark.parametrize("quantization", [Q8_0, Q4_0], ids=lambda kind: kind.name)
@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Qwen2ForCausalLM"])
def test_values_are_those_that_transformers_reads_bit_for_bit(architecture, quantization, tmp_path):
    file = write_gguf(tmp_path / "m.gguf", made(architecture), quantization)
    record = convert_gguf(file, tmp_path / "out")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="m.gguf", dtype=torch.float32, quantization_config=transformers.GgufConfig(dequantize=True)
    )
    ours = load_file(tmp_path / "out" / "model.safetensors")
    state = theirs.state_dict()
    assert ours.keys() == state.keys() == record["quantization"].keys()
    assert all(torch.equal(ours[name], state[name]) for name in ours)
    assert torch.equal(logits_of(loaded(tmp_path / "out")), logits_of(theirs))
    assert record["quantization"]["model.layers.0.mlp.down_proj.weight"] == quantization.name
    assert record["quantization"]["model.norm.weight"] == "F32"


def test_in_bfloat16_values_are_rounded_once(tmp_path):
    file = write_gguf(tmp_path / "m.gguf", made(), Q8_0)
    convert_gguf(file, tmp_path / "exact")
    convert_gguf(file, tmp_path / "rounded", dtype="bfloat16")
    exact, rounded = (load_file(tmp_path / name / "model.safetensors") for name in ("exact", "rounded"))
    assert all(torch.equal(exact[name].bfloat16(), rounded[name]) for name in exact)
    assert json.loads((tmp_path / "rounded" / "config.json").read_text())["dtype"] == "bfloat16"


def test_tokenizer_template_and_ends_are_the_files(tmp_path):
    convert_gguf(write_gguf(tmp_path / "m.gguf", made()), tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.chat_template == TEMPLATE
    text = "<s><|user|>the thing<|end|>"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    words = ["<s>", "<|user|>", "the", "Ġ", "th", "i", "n", "g", "<|end|>"]
    assert tokenizer.convert_ids_to_tokens(ids) == words and tokenizer.decode(ids) == text
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text()) == {
        "bos_token_id": 0,
        "eos_token_id": 1,
    }


def test_blocks_files_and_parts_make_no_difference(tmp_path, monkeypatch):
    file = write_gguf(tmp_path / "m.gguf", made(), Q8_0)
    convert_gguf(file, tmp_path / "one")
    monkeypatch.setattr("surgery.conversion.gguf.source._BLOCK_VALUES", 100)
    monkeypatch.setattr(writing, "_FILE_BYTES", 20_000)
    convert_gguf(file, tmp_path / "many")
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(index.values())) > 3
    one, many = loaded(tmp_path / "one").state_dict(), loaded(tmp_path / "many").state_dict()
    assert all(torch.equal(one[name], many[name]) for name in one)


def test_llama_3_s_scaled_frequencies_go_into_the_configuration(tmp_path):
    scaling = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling |= {"original_max_position_embeddings": 8192, "rope_theta": 500000.0}
    model = made("LlamaForCausalLM", rope_parameters=scaling, head_dim=8)
    frequencies = 500000.0 ** (-torch.arange(0, 8, 2, dtype=torch.float64) / 8)
    factors = llama3_factors(frequencies, 32.0)
    assert 1 < len(set(factors.tolist()))
    file = write_gguf(tmp_path / "m.gguf", model, extra={"rope_freqs.weight": factors.float().numpy()})
    convert_gguf(file, tmp_path / "out")
    again = loaded(tmp_path / "out")
    torch.testing.assert_close(again.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)
    wrong = write_gguf(tmp_path / "wrong.gguf", model, extra={"rope_freqs.weight": factors.float().numpy() * 1.5})
    assert "rotary frequencies" in refused(wrong, tmp_path / "no")


def test_settings_that_transformers_passes_over_are_taken_or_refused(tmp_path):
    linear = {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0}
    convert_gguf(write_gguf(tmp_path / "m.gguf", made("Gemma3ForCausalLM"), settings=linear), tmp_path / "out")
    rope = json.loads((tmp_path / "out" / "config.json").read_text())["rope_parameters"]
    assert rope["full_attention"]["rope_type"] == "linear" and rope["full_attention"]["factor"] == 8.0
    assert rope["sliding_attention"]["rope_type"] == "default"
    odd = write_gguf(tmp_path / "odd.gguf", made(), settings={"attention.scale": 0.5})
    assert "settings that cannot be taken over: attention.scale" in refused(odd, tmp_path / "no")
    unheard = write_gguf(tmp_path / "unheard.gguf", made("LlamaForCausalLM"), settings={"attention.sliding_window": 16})
    assert "LlamaConfig does not take over sliding_window = 16" in refused(unheard, tmp_path / "no")
    halved = write_gguf(tmp_path / "halved.gguf", made(), settings={"rope.scaling.type": "linear"})
    assert "rope.scaling.type is linear without rope.scaling.factor" in refused(halved, tmp_path / "no")
    partial = write_gguf(tmp_path / "partial.gguf", made(), settings={"rope.dimension_count": 4})
    assert "rope.dimension_count is 4, expected 8" in refused(partial, tmp_path / "no")


def refused(file, out, *options):
    """The one line of a refusal, which leaves nothing."""
    before = set(out.parent.iterdir())
    result = CliRunner().invoke(main, ["convert", str(file), "-o", str(out), *options])
    assert result.exit_code == 1, result.output
    assert set(out.parent.iterdir()) == before
    (line,) = [line for line in result.output.splitlines() if line.startswith("Error")]
    return line


def test_faults_are_one_line_and_leave_nothing(tmp_path):
    model = made()
    whole = write_gguf(tmp_path / "m.gguf", model)
    data = whole.read_bytes()
    cases = {
        "short": (data[: len(data) // 2], "cut short or damaged"),
        "header": (data[:40], "cut short or damaged"),
        "text": (b"hello, this is no model", "not a GGUF file"),
        "empty": (b"", "not a GGUF file"),
        "kind": (data.replace(b"qwen2.block_count", b"qwen2.block_counu"), "settings that cannot be taken over"),
    }
    for name, (content, expected) in cases.items():
        file = tmp_path / f"{name}.gguf"
        file.write_bytes(content)
        assert expected in refused(file, tmp_path / "out"), name
    lacking = write_gguf(tmp_path / "lacking.gguf", model, leave_out=("blk.1.ffn_up.weight",))
    assert "lacks 1 tensors of Qwen2ForCausalLM: model.layers.1.mlp.up_proj.weight" in refused(
        lacking, tmp_path / "out"
    )
    odd = write_gguf(tmp_path / "odd.gguf", model, extra={"v.patch.weight": torch.ones(2, 32).numpy()})
    assert "holds 1 tensors that Qwen2ForCausalLM does not have: v.patch.weight" in refused(odd, tmp_path / "out")
    shape = write_gguf(tmp_path / "shape.gguf", model, settings={"feed_forward_length": 96})
    assert "has shape [64, 32], expected [96, 32]" in refused(shape, tmp_path / "out")
    nan = write_gguf(tmp_path / "nan.gguf", model, extra={"output_norm.weight": np.full(32, np.nan, np.float32)})
    assert "values that are no numbers" in refused(nan, tmp_path / "out")


def test_an_unknown_quantization_and_architecture_are_named(tmp_path):
    data = write_gguf(tmp_path / "m.gguf", made(), Q8_0).read_bytes()
    name = b"blk.0.ffn_up.weight"
    at = data.index(name) + len(name) + 4 + 16
    (tmp_path / "q.gguf").write_bytes(data[:at] + struct.pack("<I", 250) + data[at + 4 :])
    assert "quantization is not known" in refused(tmp_path / "q.gguf", tmp_path / "out")
    writer = gguf.GGUFWriter(tmp_path / "other.gguf", "rwkv7")
    writer.add_uint32("rwkv7.block_count", 2)
    writer.add_tensor("x", torch.ones(2).numpy())
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file()
    writer.close()
    assert "architecture rwkv7 is none whose GGUF files can be converted; supported: llama" in refused(
        tmp_path / "other.gguf", tmp_path / "out"
    )


def test_a_file_without_a_template_is_a_base_model(tmp_path):
    file = write_gguf(tmp_path / "base.gguf", made(), template=None)
    assert "has no chat template" in refused(file, tmp_path / "out")
    result = CliRunner().invoke(main, ["convert", str(file), "-o", str(tmp_path / "out"), "--without-template"])
    assert result.exit_code == 0 and "no chat template: a base model" in result.output


def test_a_split_file_needs_all_its_parts(tmp_path):
    whole = write_gguf(tmp_path / "m.gguf", made(), Q8_0)
    convert_gguf(whole, tmp_path / "whole")
    parts = [tmp_path / f"m-0000{k}-of-00002.gguf" for k in (1, 2)]
    reader = gguf.GGUFReader(whole)
    half = len(reader.tensors) // 2
    names = {tensor.name for tensor in reader.tensors[:half]}
    everything = {tensor.name for tensor in reader.tensors}
    write_gguf(parts[0], made(), Q8_0, leave_out=everything - names)
    assert "m-00002-of-00002.gguf is not beside it" in refused(parts[0], tmp_path / "out")
    write_gguf(parts[1], made(), Q8_0, leave_out=names)
    convert_gguf(parts[1], tmp_path / "out")
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "out"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_command_says_what_was_dequantized_and_the_card_too(tmp_path):
    file = write_gguf(tmp_path / "m.gguf", made(), Q8_0)
    words = ["convert", str(file), "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert "Qwen2ForCausalLM, 27 tensors" in result.output and "dequantized from Q8_0 (16), F32 (11)" in result.output
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Q8_0 (" in card and "not what the" in card and "sha256 of m.gguf" in card
    assert CliRunner().invoke(main, words).exit_code == 1  # it is there
    assert CliRunner().invoke(main, [*words, "--force"]).exit_code == 0
    other = CliRunner().invoke(
        main, ["convert", "Qwen/Qwen-1_8B-Chat", "-o", str(tmp_path / "q"), "--dtype", "float32"]
    )
    assert other.exit_code == 2 and "--dtype is of GGUF files" in other.output
