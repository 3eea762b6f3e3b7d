"""Quantized models are refused with the reason by everything that edits weights, whether config.json or only the files say so."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import write_model

from surgery.console.errors import ModelError
from surgery.model.models import describe_model
from surgery.model.quantization import stated_method
from surgery.residual.subspace import random_subspace
from surgery.weights.adapter import write_adapter
from surgery.weights.checkpoint import orthogonalize

BASIS = random_subspace(32, 2, seed=0).basis
DOWN = "model.layers.0.mlp.down_proj"
E4M3 = torch.float8_e4m3fn
# What config.json says, by method, as the released checkpoints have it.
STATED = {
    "gptq": {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}},
    "awq": {"quantization_config": {"quant_method": "awq", "bits": 4, "zero_point": True}},
    "bitsandbytes": {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
    "fp8": {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}},
    "compressed-tensors": {"compression_config": {"quant_method": "compressed-tensors", "format": "pack-quantized"}},
    "mxfp4": {"quantization_config": {"quant_method": "mxfp4"}},
    "unnamed": {"quantization_config": {"bits": 8}},
    "nested": {"text_config": {"quantization_config": {"quant_method": "gptq"}}},
}
# What the files hold instead of `down_proj.weight` [32, 48], or beside it, when config.json has lost its word.
STORED = {
    "gptq": {"qweight": torch.zeros(6, 32, dtype=torch.int32), "g_idx": torch.zeros(48, dtype=torch.int32)},
    "awq": {"qweight": torch.zeros(48, 4, dtype=torch.int32), "qzeros": torch.zeros(1, 4, dtype=torch.int32)},
    "bitsandbytes-4bit": {"weight": torch.zeros(768, 1, dtype=torch.uint8), "weight.absmax": torch.ones(24)},
    "bitsandbytes-8bit": {"weight": torch.zeros(32, 48, dtype=torch.int8), "SCB": torch.ones(32)},
    "fp8-block": {"weight": torch.zeros(32, 48, dtype=E4M3), "weight_scale_inv": torch.ones(1, 1)},
    "fp8-tensor": {"weight": torch.zeros(32, 48, dtype=E4M3), "weight_scale": torch.ones(1)},
    "fp8-bare": {"weight": torch.zeros(32, 48, dtype=E4M3)},
    "compressed-tensors": {"weight_packed": torch.zeros(32, 6, dtype=torch.int32), "weight_scale": torch.ones(32, 1)},
    "mxfp4": {"weight_blocks": torch.zeros(32, 2, 16, dtype=torch.uint8), "weight_scales": torch.zeros(32, 2).byte()},
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("plain") / "m", "MistralForCausalLM")


@pytest.fixture
def folder(plain, tmp_path):
    return shutil.copytree(plain, tmp_path / "m")


def refused(folder, tmp_path):
    """The one line with which both writers refuse; nothing is left beside the model."""
    lines = set()
    for write in (orthogonalize, write_adapter):
        with pytest.raises(ModelError) as caught:
            write(describe_model(folder), BASIS, 1.0, tmp_path / "out")
        lines.add(str(caught.value))
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    (line,) = lines
    assert "\n" not in line and "edit the unquantized model" in line
    return line


@pytest.mark.parametrize("method", STATED)
def test_what_config_json_says_is_believed(folder, tmp_path, method):
    config = json.loads((folder / "config.json").read_text())
    stated = STATED[method]
    nested = {"text_config": {**config, **stated["text_config"]}} if "text_config" in stated else stated
    (folder / "config.json").write_text(json.dumps({**config, **nested}))
    expected = {"unnamed": "quantization_config", "nested": "gptq"}.get(method, method)
    assert f"quantized ({expected})" in refused(folder, tmp_path)


@pytest.mark.parametrize("method", STORED)
def test_files_betray_quantized_weights_without_config_json(folder, tmp_path, method):
    tensors = load_file(folder / "model.safetensors")
    del tensors[f"{DOWN}.weight"]
    tensors |= {f"{DOWN}.{name}": value for name, value in STORED[method].items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert DOWN in refused(folder, tmp_path)


def test_a_quantized_matrix_that_is_not_to_be_edited_is_a_reason_too(folder, tmp_path):
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name] = tensors[name].to(E4M3)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert f"{name} is stored as F8_E4M3" in refused(folder, tmp_path)


def test_an_unquantized_model_passes_though_its_config_mentions_the_key(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": None}))
    assert stated_method(config) is None
    assert orthogonalize(describe_model(folder), BASIS, 1.0, tmp_path / "out")["tensors"]
