"""Qwen v1 rewritten as Qwen2: the same logits, the same bytes, and one line for everything that cannot be rewritten."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from qwen_v1 import CONFIG, GENERATION, N_MERGES, reference_logits, vocabulary_file, write_qwen_v1
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from eval.cli import main
from surgery.console.errors import ArtifactError, DiskError, ModelError, OutputExistsError, RefusalError
from surgery.conversion import qwen
from surgery.conversion.checkpoint import convert
from surgery.conversion.record import FILE, is_converted
from surgery.model.chat import chat_template, prompt_token_ids
from surgery.model.models import describe_model, load_model, load_tokenizer
from surgery.residual.subspace import random_subspace
from surgery.weights.checkpoint import orthogonalize
from surgery.weights.manifest import FILE as EDIT_FILE
from surgery.weights.verify import verify

IDS = [5, 300, 17, 655, 0, 42, 300, 870, 123, 17, 99]
# Float32 sums of up to 48 terms in another order, over three blocks; the largest seen is 9e-7, and a wrong reading gives 0.016 or more.
RELATIVE = 1e-5
BLOCK = "transformer.h.1."


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_qwen_v1(tmp_path_factory.mktemp("source") / "tiny-qwen")


@pytest.fixture(scope="module")
def converted(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("converted") / "out"
    convert(source, out)
    return out


@pytest.fixture
def copy(source, tmp_path):
    return shutil.copytree(source, tmp_path / "copy")


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()}


def logits_of(folder: Path) -> torch.Tensor:
    with torch.inference_mode():
        return load_model(describe_model(folder), "float32")(input_ids=torch.tensor([IDS])).logits[0]


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference over largest value."""
    return float((found - expected).abs().max() / expected.abs().max())


def change_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_tensors(folder: Path, **changes) -> None:
    """Replace tensors of a single-file model; None deletes. Dots in names are written as double underscores."""
    tensors = tensors_of(folder) | {name.replace("__", "."): value for name, value in changes.items()}
    kept = {name: value for name, value in tensors.items() if value is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("n_files", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_logits_are_those_of_the_published_architecture(n_files, dtype, tmp_path):
    source = write_qwen_v1(tmp_path / "m", n_files, dtype)
    convert(source, tmp_path / "out")
    assert difference(logits_of(tmp_path / "out"), reference_logits(tensors_of(source), CONFIG, IDS)) < RELATIVE


def swapped(tensors: dict[str, torch.Tensor], first: str, second: str) -> dict[str, torch.Tensor]:
    return tensors | {BLOCK + first: tensors[BLOCK + second], BLOCK + second: tensors[BLOCK + first]}


def restacked(tensors: dict[str, torch.Tensor], order: list[int]) -> dict[str, torch.Tensor]:
    """q, k and v of one block in another order."""
    names = (f"{BLOCK}attn.c_attn.weight", f"{BLOCK}attn.c_attn.bias")
    return tensors | {name: torch.cat([tensors[name].chunk(3)[part] for part in order]) for name in names}


@pytest.mark.parametrize(
    "mutated",
    [
        lambda tensors, config: (swapped(tensors, "mlp.w1.weight", "mlp.w2.weight"), config),
        lambda tensors, config: (swapped(tensors, "ln_1.weight", "ln_2.weight"), config),
        lambda tensors, config: (restacked(tensors, [1, 0, 2]), config),
        lambda tensors, config: (restacked(tensors, [0, 2, 1]), config),
        lambda tensors, config: (tensors, config | {"rotary_emb_base": 10000}),
        lambda tensors, config: (tensors, config | {"layer_norm_epsilon": 1e-6}),
    ],
    ids=["w1 and w2", "ln_1 and ln_2", "q and k", "k and v", "rotary base", "epsilon"],
)
def test_the_tolerance_tells_a_wrong_reading_of_the_architecture(mutated, source, converted):
    expected = reference_logits(*mutated(tensors_of(source), CONFIG), IDS)
    assert difference(logits_of(converted), expected) > 10 * RELATIVE


@pytest.mark.parametrize(
    "wrong",
    [
        {"mlp.w1.weight": ("mlp.gate_proj.weight",), "mlp.w2.weight": ("mlp.up_proj.weight",)},
        {"attn.c_attn.weight": ("self_attn.k_proj.weight", "self_attn.q_proj.weight", "self_attn.v_proj.weight")},
        {"attn.c_attn.bias": ("self_attn.q_proj.bias", "self_attn.v_proj.bias", "self_attn.k_proj.bias")},
    ],
    ids=["w1 as gate", "k before q", "v bias before k bias"],
)
def test_a_wrong_name_of_one_tensor_changes_the_logits(wrong, source, tmp_path, monkeypatch):
    for name, names in wrong.items():
        monkeypatch.setitem(qwen._IN_BLOCK, name, names)
    convert(source, tmp_path / "out")
    expected = reference_logits(tensors_of(source), CONFIG, IDS)
    assert difference(logits_of(tmp_path / "out"), expected) > 10 * RELATIVE


@pytest.mark.parametrize("n_files", [1, 3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_value_is_kept_bit_for_bit_and_counted(n_files, dtype, tmp_path):
    source = write_qwen_v1(tmp_path / "m", n_files, dtype)
    record = convert(source, tmp_path / "out")
    before, after = tensors_of(source), tensors_of(tmp_path / "out")
    for layer in range(3):
        block, new = f"transformer.h.{layer}.", f"model.layers.{layer}."
        for kind in ("weight", "bias"):
            stacked = torch.cat([after.pop(f"{new}self_attn.{part}_proj.{kind}") for part in "qkv"])
            assert torch.equal(stacked, before.pop(f"{block}attn.c_attn.{kind}"))
        assert torch.equal(after[f"{new}mlp.gate_proj.weight"], before[f"{block}mlp.w2.weight"])
    as_bytes = lambda tensors: sorted(value.view(torch.uint8).numpy().tobytes() for value in tensors.values())  # noqa: E731
    assert as_bytes(after) == as_bytes(before)
    assert (record["n_read"], record["n_split"], record["n_written"], record["dropped"]) == (27, 6, 39, [])


def test_files_and_index_are_those_of_the_source(tmp_path):
    source = write_qwen_v1(tmp_path / "m", 3)
    convert(source, tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert names == sorted(path.name for path in source.glob("*.safetensors"))
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    tensors = tensors_of(tmp_path / "out")
    assert index["weight_map"].keys() == tensors.keys()
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in tensors.values())
    for name, file in index["weight_map"].items():
        assert name in load_file(tmp_path / "out" / file)


def test_header_metadata_is_kept_or_made(copy, tmp_path):
    convert(copy, tmp_path / "kept")
    save_file(load_file(copy / "model.safetensors"), copy / "model.safetensors")  # without any
    convert(copy, tmp_path / "made")
    for out in ("kept", "made"):
        with safe_open(tmp_path / out / "model.safetensors", framework="pt") as handle:
            assert handle.metadata() == {"format": "pt"}


def test_rotary_buffers_are_dropped_and_said(tmp_path):
    extra = {f"transformer.h.{layer}.attn.rotary_emb.inv_freq": torch.ones(4) for layer in range(3)}
    source = write_qwen_v1(tmp_path / "m", extra=extra)
    record = convert(source, tmp_path / "out")
    assert record["dropped"] == sorted(extra) and record["n_written"] == 39
    assert difference(logits_of(tmp_path / "out"), reference_logits(tensors_of(source), CONFIG, IDS)) < RELATIVE


def test_a_file_of_buffers_alone_is_not_written(tmp_path):
    source = write_qwen_v1(tmp_path / "m", 2)
    buffer = {"transformer.rotary_emb.inv_freq": torch.ones(4)}
    save_file(buffer, source / "model-00003-of-00003.safetensors", metadata={"format": "pt"})
    index = json.loads((source / "model.safetensors.index.json").read_text())
    index["weight_map"] |= dict.fromkeys(buffer, "model-00003-of-00003.safetensors")
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    assert convert(source, tmp_path / "out")["n_written"] == 39
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 2
    logits_of(tmp_path / "out")


def test_the_rest_of_the_product_takes_the_result_as_a_qwen2_model(converted, tmp_path):
    info = describe_model(converted)
    assert (info.architecture, info.d_model, info.n_layers, info.dtype) == ("Qwen2ForCausalLM", 32, 3, "float32")
    orthogonalize(info, random_subspace(32, 2, seed=1).basis, 1.0, tmp_path / "edited")
    assert verify(tmp_path / "edited").ok
    assert difference(logits_of(tmp_path / "edited"), logits_of(converted)) > 10 * RELATIVE
    tokenizer = load_tokenizer(info)
    ids = prompt_token_ids(tokenizer, "The rain")
    assert tokenizer.decode(ids).endswith("<|im_start|>user\nThe rain<|im_end|>\n<|im_start|>assistant\n")


def test_the_configuration_is_that_of_qwen2_with_the_trained_context(converted):
    config = load_model(describe_model(converted)).config
    assert (config.max_position_embeddings, config.intermediate_size, config.num_key_value_heads) == (64, 48, 4)
    assert config.rope_parameters["rope_theta"] == 500 and config.rms_norm_eps == 1e-3
    assert not config.tie_word_embeddings and not config.use_sliding_window
    # below 5, or absent, AutoTokenizer would warn of a wrong pattern
    assert json.loads((converted / "config.json").read_text())["transformers_version"].split(".")[0] >= "5"


def test_generation_stops_at_the_published_stop_words_with_the_published_settings(converted):
    from transformers import GenerationConfig

    generation = GenerationConfig.from_pretrained(converted)
    end, start, stop = 256 + N_MERGES, 257 + N_MERGES, 258 + N_MERGES
    assert generation.eos_token_id == [stop, start, end] and generation.pad_token_id == end
    kept = ("do_sample", "max_new_tokens", "repetition_penalty", "top_k", "top_p")
    assert {name: getattr(generation, name) for name in kept} == {name: GENERATION[name] for name in kept}
    assert json.loads((converted / FILE).read_text())["settings_dropped"] == ["max_window_size"]


def test_a_base_model_gets_no_chat_template_and_stops_at_the_end_of_text(copy, tmp_path):
    change_json(copy / "generation_config.json", chat_format="raw", stop_words_ids=[[256 + N_MERGES]])
    convert(copy, tmp_path / "out")
    tokenizer = load_tokenizer(describe_model(tmp_path / "out"))
    with pytest.raises(ModelError, match="no chat template"):
        chat_template(tokenizer)
    assert json.loads((tmp_path / "out/generation_config.json").read_text())["eos_token_id"] == [256 + N_MERGES]


def test_the_readme_keeps_the_licence_and_names_the_source(converted, source):
    card = (converted / "README.md").read_text()
    assert card.startswith("---\nlicense: other\nlicense_name: tongyi-qianwen-research\n---\n# tiny-qwen, rewritten")
    assert str(source) in card and "64 tokens" in card and card.endswith("# Tiny Qwen\n\nIts card.\n")
    assert (converted / "LICENSE").read_text() == "Terms.\n"


def test_text_that_utf8_cannot_hold_is_written_as_its_escape_and_the_card_byte_for_byte(copy, tmp_path):
    folder = copy.rename(tmp_path / os.fsdecode(b"mod\xffel"))
    (folder / "README.md").write_bytes(b"---\nlicense: other\n---\nCard \xfe.\n")
    change_json(folder / "generation_config.json", **{"note\ud800": 1})
    convert(folder, tmp_path / "out")
    record = json.loads((tmp_path / "out" / FILE).read_text(encoding="utf-8"))
    assert record["source"]["model"] == str(folder) and "note\ud800" in record["settings_dropped"]
    card = (tmp_path / "out/README.md").read_bytes()
    assert b"`note\\ud800`" in card and b"mod\\udcffel" in card and card.endswith(b"Card \xfe.\n")


def test_code_of_the_model_and_its_old_vocabulary_stay_behind(converted):
    left_out = json.loads((converted / FILE).read_text())["left_out"]
    assert left_out == ["tokenization_qwen.py"]
    assert not list(converted.glob("*.py")) and not (converted / "qwen.tiktoken").exists()


DAMAGES = {
    "another architecture": (
        lambda m: change_json(m / "config.json", architectures=["Qwen2ForCausalLM"], model_type="qwen2"),
        "Qwen2ForCausalLM.*expected QWenLMHeadModel",
    ),
    "quantized": (
        lambda m: change_json(m / "config.json", quantization_config={"quant_method": "gptq"}),
        "quantized \\(gptq\\); convert the unquantized release",
    ),
    "heads that do not fill the stream": (
        lambda m: change_json(m / "config.json", kv_channels=16),
        "4 x kv_channels 16 is 64, expected hidden_size 32",
    ),
    "biases": (lambda m: change_json(m / "config.json", no_bias=False), "no_bias is False, expected True"),
    "partial rotary": (lambda m: change_json(m / "config.json", rotary_pct=0.5), "rotary_pct is 0.5, expected 1.0"),
    "tied": (lambda m: change_json(m / "config.json", tie_word_embeddings=True), "tie_word_embeddings is True"),
    "odd MLP": (lambda m: change_json(m / "config.json", intermediate_size=97), "intermediate_size 97 is odd"),
    "no sequence length": (lambda m: change_json(m / "config.json", seq_length=None), "seq_length is None, expected a"),
    "epsilon of zero": (lambda m: change_json(m / "config.json", layer_norm_epsilon=0), "layer_norm_epsilon is 0"),
    "no configuration": (lambda m: (m / "config.json").unlink(), "has no config.json"),
    "broken configuration": (lambda m: (m / "config.json").write_text("{"), "config.json: cannot be read as JSON"),
    "a list as configuration": (lambda m: (m / "config.json").write_text("[]"), "expected a JSON object"),
    "missing tensor": (
        lambda m: change_tensors(m, transformer__h__1__mlp__w2__weight=None),
        "lacks 1 tensors of Qwen v1: transformer.h.1.mlp.w2.weight",
    ),
    "unknown tensor": (
        lambda m: change_tensors(m, transformer__visual__proj=torch.ones(2)),
        "holds 1 tensors that Qwen v1 does not have: transformer.visual.proj",
    ),
    "tensor of another shape": (
        lambda m: change_tensors(m, transformer__h__0__attn__c_attn__weight=torch.ones(64, 32)),
        "transformer.h.0.attn.c_attn.weight has shape \\[64, 32\\], expected \\[96, 32\\]",
    ),
    "whole numbers for weights": (
        lambda m: change_tensors(m, transformer__ln_f__weight=torch.ones(32, dtype=torch.int32)),
        "transformer.ln_f.weight is I32, expected one of F32",
    ),
    "pickled weights": (
        lambda m: (m / "model.safetensors").rename(m / "pytorch_model.bin"),
        "only pickled weights \\(pytorch_model.bin\\)",
    ),
    "no weights": (lambda m: (m / "model.safetensors").unlink(), "no safetensors weights"),
    "no generation settings": (lambda m: (m / "generation_config.json").unlink(), "has no generation_config.json"),
    "unknown chat format": (
        lambda m: change_json(m / "generation_config.json", chat_format="other"),
        "chat_format is 'other', expected 'chatml'",
    ),
    "settings of another vocabulary": (
        lambda m: change_json(m / "generation_config.json", eos_token_id=151643),
        f"eos_token_id is 151643 but <|endoftext|> of the vocabulary is {256 + N_MERGES}".replace("|", "\\|"),
    ),
    "no vocabulary": (lambda m: (m / "qwen.tiktoken").unlink(), "has no qwen.tiktoken"),
    "a vocabulary too large": (
        lambda m: change_json(m / "config.json", vocab_size=800),
        "lm_head.weight has shape|transformer.wte.weight has shape",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_cannot_be_rewritten_is_refused_in_one_line_and_leaves_nothing(damage, copy, tmp_path):
    break_it, message = DAMAGES[damage]
    break_it(copy)
    with pytest.raises(ModelError, match=message) as caught:
        convert(copy, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_a_vocabulary_that_the_embedding_cannot_hold_is_refused(tmp_path):
    source = write_qwen_v1(tmp_path / "m", vocab_size=800)
    with pytest.raises(ModelError, match="864 tokens with the special ones, but config.json has vocab_size 800"):
        convert(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("IQ== 0\nnot-base64! 1\n", "line 2: expected a token in base64 and its rank"),
        ("IQ==\n", "line 1: expected a token in base64 and its rank"),
        ("IQ== 0\nIg== 2\n", "line 2: expected a new token of rank 1, found rank 2"),
        ("IQ== 0\nIQ== 1\n", "line 2: expected a new token of rank 1"),
        (vocabulary_file({bytes([byte]): byte for byte in range(255)}), "byte 0xff is no token"),
    ],
)
def test_a_damaged_vocabulary_is_refused_naming_the_line(lines, message, copy, tmp_path):
    (copy / "qwen.tiktoken").write_text(lines)
    with pytest.raises(ModelError, match=message):
        convert(copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_interrupted_conversion_leaves_nothing(source, tmp_path):
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "out", progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_found_before_anything_is_written(source, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("surgery.conversion.record.shutil.disk_usage", lambda path: usage)
    with pytest.raises(DiskError, match="needs 0.07 GB but 0.00 GB are free"):
        convert(source, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_force_replaces_a_converted_checkpoint_and_nothing_else(source, tmp_path):
    out = tmp_path / "out"
    convert(source, out)
    with pytest.raises(OutputExistsError):
        convert(source, out)
    (out / "mark").touch()
    convert(source, out, force=True)
    assert is_converted(out) and not (out / "mark").exists()
    (out / EDIT_FILE).touch()
    with pytest.raises(ArtifactError, match="is not a converted checkpoint"):
        convert(source, out, force=True)


def test_the_output_must_lie_outside_the_model(copy):
    before = sorted(path.name for path in copy.iterdir())
    for out in (copy / "out", copy.parent):
        with pytest.raises(RefusalError, match="overlaps the model's own folder|is not a converted checkpoint"):
            convert(copy, out, force=True)
    assert sorted(path.name for path in copy.iterdir()) == before


def test_progress_ends_at_the_bytes_of_all_tensors(source, tmp_path):
    calls = []
    convert(source, tmp_path / "out", progress=lambda done, total: calls.append((done, total)))
    total = sum(value.nbytes for value in tensors_of(source).values())
    assert calls[-1] == (total, total) and calls == sorted(calls)


def test_the_command_says_what_was_done(source, tmp_path):
    command = main.get_command(None, "convert")
    result = CliRunner().invoke(command, [str(source), "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "27 tensors as 39 (6 of q, k and v split), 0 buffers left out" in result.stdout
    assert f"{256 + N_MERGES} ranks, {N_MERGES} merges, 208 special tokens" in result.stdout
    assert "context: 64 tokens" in result.stdout and "max_window_size" in result.stdout
    assert result.stdout.endswith("not copied: tokenization_qwen.py\n")
    result = CliRunner().invoke(command, [str(source), "-o", str(tmp_path / "out")])
    assert isinstance(result.exception, OutputExistsError)


def test_the_other_commands_name_the_way_out_for_qwen_v1(source):
    with pytest.raises(ModelError, match="is Qwen v1, which transformers no longer runs; refusal convert rewrites it"):
        describe_model(source)
