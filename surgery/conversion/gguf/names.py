"""What each tensor of a GGUF file is called in a Hugging Face folder, and what its values are there."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.console.errors import ModelError
from surgery.conversion.gguf.settings import architecture_of, head_dim
from surgery.conversion.gguf.source import GGUFSource, GGUFTensor
from surgery.files.artifacts import shortened

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

_EXPERTS = re.compile(r"blk\.(\d+)\.ffn_(gate|up|down)_exps\.weight")
_ROPE = "rope_freqs.weight"
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


@dataclass(frozen=True)
class Target:
    """One tensor to be written.

    Attributes:
        shape: of all of it.
        blocks: gives its values, float32, a block of rows at a time, in order.
        quantization: ggml's name of the type that it is dequantized from.
    """

    name: str
    shape: tuple[int, ...]
    blocks: Callable[[], Iterator[np.ndarray]]
    quantization: str


def plan_targets(source: GGUFSource, config: "PretrainedConfig") -> list[Target]:
    """Every tensor of the architecture, each from the one of the file that holds it.

    Raises: ModelError: one that is missing, one that the architecture does not have, another shape, scaled rotary
        frequencies that the configuration does not tell.
    """
    processor = _processor(config)
    expected, names = _architecture(config, processor)
    targets: dict[str, Target] = {}
    unknown = []
    for tensor in source.tensors:
        if tensor.name == _ROPE:
            _check_rope(source, tensor, config)
            continue
        found = list(_targets_of(tensor, names, processor))
        unknown += [] if found else [tensor.name]
        targets |= {target.name: target for target in found}
    where, architecture = source.files[0], architecture_of(config)
    if unknown:
        raise ModelError(
            f"{where}: holds {len(unknown)} tensors that {architecture} does not have: {shortened(unknown)}"
        )
    if missing := sorted(expected.keys() - targets.keys()):
        raise ModelError(f"{where}: lacks {len(missing)} tensors of {architecture}: {shortened(missing)}")
    for name, target in targets.items():
        if target.shape != expected.get(name):
            raise ModelError(f"{where}: {name} has shape {list(target.shape)}, expected {list(expected.get(name, ()))}")
    return [targets[name] for name in expected]


def _architecture(config: "PretrainedConfig", processor: Any) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """(name -> shape of every tensor of the folder, GGUF's name -> ours where one becomes one), from a model without weights."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import get_gguf_hf_weights_map

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        shapes.pop("lm_head.weight", None)
    expected: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        expected |= _apart(name, shape)
    return expected, get_gguf_hf_weights_map(model, processor)


def _apart(name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Experts that transformers holds in one tensor, each by itself, as releases have them and vLLM reads them."""
    found = re.fullmatch(r"(.*\.experts)\.(gate_up|down)_proj", name)
    if found is None:
        return {name: shape}
    n_experts, rows, columns = shape
    parts, rows = (("gate", "up"), rows // 2) if found[2] == "gate_up" else (("down",), rows)
    return {f"{found[1]}.{e}.{part}_proj.weight": (rows, columns) for e in range(n_experts) for part in parts}


def _processor(config: "PretrainedConfig") -> Any:
    """What transformers does to values: rows of q and k put back in order, gains counted from 0 again."""
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor

    names = {"gemma3_text": "gemma3", "qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe", "mistral": "llama"}
    kind = names.get(config.model_type, config.model_type)
    return TENSOR_PROCESSORS.get(kind, TensorProcessor)(config=config.to_dict())


def _targets_of(tensor: GGUFTensor, names: Mapping[str, str], processor: Any) -> Iterator[Target]:
    experts = _EXPERTS.fullmatch(tensor.name)
    if experts is not None:
        for e in range(tensor.shape[0]):
            name = f"model.layers.{experts[1]}.mlp.experts.{e}.{experts[2]}_proj.weight"
            yield Target(name, tensor.shape[1:], partial(_expert, tensor, e), tensor.quantization)
        return
    if tensor.name not in names:
        return
    name = names[tensor.name]
    if len(tensor.shape) == 2 and not _is_changed(processor, tensor.name):
        yield Target(name, tensor.shape, tensor.blocks, tensor.quantization)
        return
    processed = processor.process(weights=np.empty(tensor.shape, np.float32), name=tensor.name).weights
    yield Target(name, processed.shape, partial(_whole, tensor, processor), tensor.quantization)


def _is_changed(processor: Any, name: str) -> bool:
    """Whether transformers does anything to a matrix of this name."""
    probe = np.arange(processor.config.get("num_attention_heads", 1) * 4, dtype=np.float32)[:, None]
    return not np.array_equal(processor.process(weights=probe, name=name).weights, probe)


def _whole(tensor: GGUFTensor, processor: Any) -> Iterator[np.ndarray]:
    yield np.ascontiguousarray(processor.process(weights=tensor.values(), name=tensor.name).weights)


def _expert(tensor: GGUFTensor, expert: int) -> Iterator[np.ndarray]:
    yield tensor.rows(expert * tensor.shape[1], (expert + 1) * tensor.shape[1])


def _check_rope(source: GGUFSource, tensor: GGUFTensor, config: "PretrainedConfig") -> None:
    """Take Llama 3's scaled rotary frequencies into the configuration, which the file tells by their factors alone.

    llama.cpp stores the factor of each frequency; transformers' mapping knows nothing of them. Of the settings that
    released models have, the ones are taken that give these factors.
    """
    import torch

    factors = torch.from_numpy(tensor.values().reshape(-1).copy())
    base = config.rope_parameters["rope_theta"]
    frequencies = base ** (-torch.arange(0, head_dim(config), 2, dtype=torch.float64) / head_dim(config))
    for factor in (8.0, 32.0, float(factors.max())):
        if torch.allclose(llama3_factors(frequencies, factor), factors.double(), rtol=1e-4):
            config.rope_parameters = {"rope_type": "llama3", "rope_theta": base, "factor": factor, **_LLAMA3}
            return
    raise ModelError(
        f"{source.files[0]}: {_ROPE} scales its rotary frequencies in a way that no release of Llama 3 does; take the model "
        "from its own release"
    )


def llama3_factors(frequencies: "torch.Tensor", factor: float) -> "torch.Tensor":
    """By what Llama 3 divides each rotary frequency: 1 for short waves, `factor` for long ones, between them smoothly."""
    import torch

    n_tokens, low, high = (
        _LLAMA3["original_max_position_embeddings"],
        _LLAMA3["low_freq_factor"],
        _LLAMA3["high_freq_factor"],
    )
    waves = 2 * torch.pi / frequencies
    smooth = (n_tokens / waves - low) / (high - low)
    found = torch.where(waves > n_tokens / low, factor, 1 / ((1 - smooth) / factor + smooth))
    return torch.where(waves < n_tokens / high, 1.0, found)
