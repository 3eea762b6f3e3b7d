"""Finding models, their identity, their chat template."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_models import TEMPLATE, tiny_tokenizer, write_model

from surgery.architecture.table import ARCHITECTURES, entry_of
from surgery.console.errors import MismatchError, ModelError
from surgery.model.chat import chat_template_sha256, prompt_token_ids, render_prompt
from surgery.model.models import (
    ModelInfo,
    check_same_model,
    describe_model,
    is_tied,
    load_config,
    load_model,
    load_tokenizer,
    model_fingerprint,
)

LLAMA = "LlamaForCausalLM"
ROOT = Path(__file__).parents[4]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "llama", LLAMA)


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_local_model_is_described_by_its_files(architecture, tmp_path):
    info = describe_model(write_model(tmp_path / "m", architecture, torch.bfloat16, n_layers=3))
    assert (info.architecture, info.d_model, info.n_layers, info.vocab_size) == (architecture, 32, 3, 260)
    assert (info.dtype, info.revision, info.path) == ("bfloat16", None, str(tmp_path / "m"))
    assert ModelInfo.from_json(json.loads(json.dumps(info.to_json()))) == info


def test_a_nested_text_config_gives_the_language_models_shape(tmp_path):
    from transformers import Gemma3Config, Gemma3TextConfig

    text = Gemma3TextConfig(hidden_size=48, num_hidden_layers=5, vocab_size=77, num_attention_heads=4)
    config = Gemma3Config(text_config=text, architectures=["Gemma3ForConditionalGeneration"])
    config.save_pretrained(tmp_path)
    save_file({"w": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    info = describe_model(tmp_path)
    assert (info.d_model, info.n_layers, info.vocab_size) == (48, 5, 77)
    with pytest.raises(ModelError, match="LlamaForCausalLM, MistralForCausalLM"):
        entry_of(info.architecture)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("./no-such-folder", "no such folder"),
        ("nobody/no-such-model", "HF_HUB_OFFLINE is set"),
        ("not a model id!", "neither a folder nor a Hugging Face model id"),
    ],
)
def test_a_model_that_cannot_be_found_gives_one_clear_line(model, message, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=message) as caught:
        describe_model(model)
    assert "\n" not in str(caught.value)


def test_hub_faults_are_told_apart(monkeypatch):
    import httpx
    from huggingface_hub import errors

    response = httpx.Response(401, request=httpx.Request("GET", "https://huggingface.co"))
    faults = {
        "access is gated": errors.GatedRepoError("gated", response=response),
        "no such public model": errors.RepositoryNotFoundError("absent", response=response),
        "has no revision 'v9'": errors.RevisionNotFoundError("absent", response=response),
        "cannot be downloaded": httpx.ConnectError("no route"),
    }
    for message, fault in faults.items():

        def download(*_args, fault=fault, **_kwargs):
            raise fault

        monkeypatch.setattr("huggingface_hub.snapshot_download", download)
        with pytest.raises(ModelError, match=message):
            describe_model("org/name", "v9")


def test_a_hub_model_is_read_from_the_cache_while_offline_and_keeps_its_commit(folder, tmp_path, monkeypatch):
    from huggingface_hub import constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--org--tiny"
    shutil.copytree(folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    info = describe_model("org/tiny")
    assert (info.model, info.revision) == ("org/tiny", commit)
    assert info.fingerprint == model_fingerprint(folder)


def test_a_folder_without_config_or_weights_is_not_a_model(copy):
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="has no weights"):
        describe_model(copy)
    (copy / "config.json").unlink()
    with pytest.raises(ModelError, match="not a model folder"):
        describe_model(copy)


def test_a_truncated_weight_file_is_reported(copy):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ModelError, match="cut short"):
        describe_model(copy)


def test_the_fingerprint_ignores_sharding_and_file_names_but_not_content(folder, copy, tmp_path):
    sharded = write_model(tmp_path / "sharded", LLAMA, shards=True)
    assert len(list(sharded.glob("*.safetensors"))) > 2
    assert model_fingerprint(sharded) == model_fingerprint(folder)
    tensors = load_file(copy / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"] *= 1.01
    save_file(tensors, copy / "model.safetensors")
    assert model_fingerprint(copy) != model_fingerprint(folder)


def test_a_model_with_pickled_weights_only_gets_a_fingerprint_of_its_own_kind(copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    assert model_fingerprint(copy).startswith("bin:")
    assert describe_model(copy).dtype == "float32"


def test_load_model_gives_the_asked_dtype_and_rejects_missing_weights(folder, copy):
    assert load_model(describe_model(folder)).dtype == torch.float32
    model = load_model(describe_model(folder), "bfloat16")
    assert model.dtype == torch.bfloat16 and not model.training
    tensors = load_file(copy / "model.safetensors")
    del tensors["model.layers.0.mlp.down_proj.weight"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="weights are missing"):
        load_model(describe_model(copy))


def test_vectors_of_another_model_are_refused_naming_both(folder):
    info = describe_model(folder)
    header = {"model": {**info.to_json(), "fingerprint": "f" * 64}}
    check_same_model({"model": info.to_json()}, info, "rvs")
    check_same_model({}, info, "rvs")
    check_same_model(header, info, "rvs", allow_other=True)
    with pytest.raises(MismatchError, match=f"ffffffffffff.*{info.fingerprint[:12]}"):
        check_same_model(header, info, "rvs")


@pytest.mark.parametrize("key", ["d_model", "n_layers"])
def test_vectors_of_another_shape_are_never_accepted(folder, key):
    info = describe_model(folder)
    header = {"model": {**info.to_json(), key: 4096}}
    with pytest.raises(MismatchError, match=f"rvs has {key} 4096"):
        check_same_model(header, info, "rvs", allow_other=True)


def test_the_prompt_is_rendered_as_one_user_message_with_one_bos(folder):
    tokenizer = load_tokenizer(describe_model(folder))
    ids = prompt_token_ids(tokenizer, "Hi")
    assert render_prompt(tokenizer, "Hi") == "<s><|user|>Hi<|end|><|assistant|>"
    assert [tokenizer.decode([i]) for i in ids] == ["<s>", "<|user|>", "H", "i", "<|end|>", "<|assistant|>"]
    # the control: encoding with special tokens, as one would by default, doubles <s>
    assert tokenizer("<s>x")["input_ids"][:2] == [0, 0]


def test_template_options_reach_the_template():
    tokenizer = tiny_tokenizer("{{ messages[0]['content'] }}{% if thinking %}<|end|>{% endif %}")
    assert render_prompt(tokenizer, "Hi", thinking=True) == "Hi<|end|>"
    assert render_prompt(tokenizer, "Hi") == "Hi"


def test_a_missing_or_refusing_chat_template_is_one_clear_line():
    with pytest.raises(ModelError, match="no chat template"):
        prompt_token_ids(tiny_tokenizer(None), "Hi")
    with pytest.raises(ModelError, match="rejects a single user message"):
        prompt_token_ids(tiny_tokenizer("{{ raise_exception('no') }}"), "Hi")


def test_the_chat_template_that_only_a_processor_has_is_found(folder, copy):
    info, expected = describe_model(copy), prompt_token_ids(load_tokenizer(describe_model(folder)), "Hi")
    (copy / "chat_template.json").write_text(json.dumps({"chat_template": "of the processor"}))
    assert prompt_token_ids(load_tokenizer(info), "Hi") == expected  # the tokenizer's own comes first
    tiny_tokenizer(None).save_pretrained(copy)
    (copy / "chat_template.jinja").unlink(missing_ok=True)
    (copy / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    assert prompt_token_ids(load_tokenizer(info), "Hi") == expected
    (copy / "chat_template.json").write_text("{}")
    with pytest.raises(ModelError, match=r"chat_template\.json: expected a text under 'chat_template'"):
        load_tokenizer(info)
    (copy / "chat_template.json").unlink()
    with pytest.raises(ModelError, match="no chat template"):
        prompt_token_ids(load_tokenizer(info), "Hi")


def test_the_template_hash_depends_on_the_template():
    assert chat_template_sha256(tiny_tokenizer()) == chat_template_sha256(tiny_tokenizer(TEMPLATE))
    assert chat_template_sha256(tiny_tokenizer()) != chat_template_sha256(tiny_tokenizer(TEMPLATE + " "))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_default_tie_of_every_family_is_that_of_transformers(architecture, tmp_path):
    config = getattr(transformers, architecture).config_class()
    assert entry_of(architecture).tied_by_default is config.tie_word_embeddings
    for tied in (False, True):
        write_model(tmp_path / str(tied), architecture, tied=tied)
        assert is_tied(tmp_path / str(tied)) is load_config(tmp_path / str(tied)).tie_word_embeddings is tied


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_config_that_does_not_say_whether_it_is_tied_has_the_default(architecture, tmp_path):
    model_type = getattr(transformers, architecture).config_class.model_type
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type, "architectures": [architecture]}))
    assert is_tied(tmp_path) is load_config(tmp_path).tie_word_embeddings


def test_what_config_json_leaves_open_is_asked_of_transformers(tmp_path):
    # GPT-2 has other names for its shape, OPT is not in the table of ties; neither is a supported architecture.
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}))
    save_file({"w": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    info = describe_model(tmp_path)
    assert (info.d_model, info.n_layers, info.vocab_size) == (768, 12, 50257)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "opt"}))
    assert is_tied(tmp_path) is True


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as a model configuration"),
        ("[]", "expected a JSON object"),
        ('{"model_type": "llama"}', "names no architecture"),
        ('{"model_type": "nothing", "architectures": ["X"]}', "cannot be read as a model configuration"),
    ],
)
def test_a_config_that_describes_no_model_is_one_clear_line(copy, text, message):
    (copy / "config.json").write_text(text)
    with pytest.raises(ModelError, match=message) as caught:
        describe_model(copy)
    assert "\n" not in str(caught.value)


def test_describing_a_model_loads_neither_transformers_nor_torch(folder):
    script = f"""import sys
from surgery.model.models import describe_model, is_tied
describe_model({str(folder)!r}), is_tied({str(folder)!r})
print([name for name in ("torch", "transformers", "numpy", "huggingface_hub") if name in sys.modules])"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout.strip() == "[]"


def test_attention_scores_are_capped_where_the_model_says_so(tmp_path):
    gemma = describe_model(write_model(tmp_path / "gemma", "Gemma2ForCausalLM"))
    llama = describe_model(write_model(tmp_path / "llama", "LlamaForCausalLM"))
    assert load_model(gemma).config._attn_implementation == "eager"  # the fast ones leave the cap out
    assert load_model(llama).config._attn_implementation != "eager"
