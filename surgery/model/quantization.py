"""Quantized weights: how they are recognized, so that they are refused rather than corrupted."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from surgery.console.errors import ModelError
from surgery.files.shards import StoredTensor, read_shard, weight_files
from surgery.model.config import read_config, text_config
from surgery.model.models import ModelInfo

_KEYS = ("quantization_config", "compression_config")  # the latter: compressed-tensors before it moved
# Names that only quantized layers have: GPTQ and AWQ; bitsandbytes; FP8 with scales; compressed-tensors; MXFP4.
_SUFFIXES = {
    ".qweight": "GPTQ or AWQ",
    ".qzeros": "GPTQ or AWQ",
    ".g_idx": "GPTQ",
    ".absmax": "bitsandbytes",
    ".SCB": "bitsandbytes",
    ".weight_scale_inv": "FP8 with scales",
    ".weight_scale": "FP8 or compressed-tensors",
    ".weight_packed": "compressed-tensors",
    "_blocks": "MXFP4",
}
_PACKED = {"I8", "U8", "I16", "I32", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "F6_E2M3", "F6_E3M2"}


def check_not_quantized(info: ModelInfo) -> None:
    """Refuse a model whose configuration or files say that its weights are quantized.

    The edit W - alpha Q^T (Q W) needs the values; quantized files hold codes and scales, and rounding an edited matrix back
    to codes would bring part of the subspace back.
    Raises: ModelError naming the method and the way out.
    """
    found = stated_method(read_config(info.path))
    if found is None:
        files = weight_files(Path(info.path))
        found = stored_method(tensor for file in files for tensor in read_shard(file).tensors)
    if found is not None:
        raise ModelError(
            f"{info.model}: its weights are quantized ({found}) and cannot be edited; edit the unquantized model, then "
            "quantize the result"
        )


def stated_method(config: Mapping[str, Any]) -> str | None:
    """The quantization method that a config.json names; None for unquantized weights."""
    for source in (config, text_config(config)):
        for key in _KEYS:
            if source.get(key):
                stated = source[key] if isinstance(source[key], dict) else {}
                return str(stated.get("quant_method", key))
    return None


def stored_method(tensors: Iterable[StoredTensor]) -> str | None:
    """The quantization method that stored tensors betray by name, or a matrix by its dtype; None for unquantized weights."""
    for tensor in tensors:
        for suffix, method in _SUFFIXES.items():
            if tensor.name.endswith(suffix):
                return f"{method}: {tensor.name}"
        if tensor.dtype in _PACKED and len(tensor.shape) > 1 and tensor.name.endswith(".weight"):
            return f"{tensor.name} is stored as {tensor.dtype}"
    return None
