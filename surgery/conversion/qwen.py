"""Qwen v1 (QWenLMHeadModel) as data: its configuration, its tensors, and what Qwen2 calls each of them.

From the published configuration_qwen.py and modeling_qwen.py of Qwen/Qwen-1_8B-Chat. The two architectures compute the
same function: pre-norm blocks, rotary embedding in half-split form, SwiGLU. They differ in names, in q, k and v being
stored as one matrix, and in `intermediate_size`, which counts both halves of the MLP in Qwen v1.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from surgery.console.errors import ModelError

ARCHITECTURE = "QWenLMHeadModel"
MODEL_TYPE = "qwen"
# Settings that the published code has but no release changes, and that Qwen2 has no counterpart of.
_FIXED = {"no_bias": True, "rotary_pct": 1.0, "scale_attn_weights": True, "tie_word_embeddings": False}
_COUNTS = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "kv_channels", "seq_length"),
)
_OUTSIDE_BLOCKS = {
    "transformer.wte.weight": "model.embed_tokens.weight",
    "transformer.ln_f.weight": "model.norm.weight",
    "lm_head.weight": "lm_head.weight",
}
# silu acts on w2: c_proj(w1(x) * silu(w2(x))), so w2 is the gate.
_IN_BLOCK = {
    "ln_1.weight": ("input_layernorm.weight",),
    "attn.c_attn.weight": ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
    "attn.c_attn.bias": ("self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"),
    "attn.c_proj.weight": ("self_attn.o_proj.weight",),
    "ln_2.weight": ("post_attention_layernorm.weight",),
    "mlp.w1.weight": ("mlp.up_proj.weight",),
    "mlp.w2.weight": ("mlp.gate_proj.weight",),
    "mlp.c_proj.weight": ("mlp.down_proj.weight",),
}
# Buffers that some releases store and the published class itself does not load.
_BUFFER = re.compile(r"transformer\.(h\.\d+\.attn\.)?(rotary_emb\.inv_freq|masked_bias)")


@dataclass(frozen=True)
class QwenConfig:
    """The shape of one Qwen v1 model.

    Attributes:
        d_model: width of the residual stream.
        d_mlp: width of the MLP's hidden layer, half of the stored `intermediate_size`.
        head_dim: the stored `kv_channels`; n_heads * head_dim = d_model.
        norm_eps: epsilon of every RMSNorm.
        rotary_base: base of the rotary embedding's frequencies.
        seq_length: tokens of context up to which attention is that of Qwen2; beyond it Qwen v1 rescales the rotary base
            (dynamic NTK) and the queries (log-n).
    """

    vocab_size: int
    d_model: int
    d_mlp: int
    n_layers: int
    n_heads: int
    head_dim: int
    seq_length: int
    norm_eps: float
    rotary_base: float
    initializer_range: float

    def to_qwen2(self, dtype: str, eos_token_id: int) -> dict[str, Any]:
        """The configuration of the Qwen2 model that computes the same function within `seq_length` tokens.

        Args:
            dtype: of the stored weights, e.g. "bfloat16".
        Returns: what config.json holds.
        """
        return {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "attention_dropout": 0.0,
            "eos_token_id": eos_token_id,
            "hidden_act": "silu",
            "hidden_size": self.d_model,
            "initializer_range": self.initializer_range,
            "intermediate_size": self.d_mlp,
            "max_position_embeddings": self.seq_length,
            "num_attention_heads": self.n_heads,
            "num_hidden_layers": self.n_layers,
            "num_key_value_heads": self.n_heads,
            "rms_norm_eps": self.norm_eps,
            "rope_theta": self.rotary_base,
            "tie_word_embeddings": False,
            "torch_dtype": dtype,
            # AutoTokenizer warns of a wrong pattern, of which Qwen knows nothing, beside a config without it.
            "transformers_version": metadata.version("transformers"),
            "use_cache": True,
            "use_sliding_window": False,
            "vocab_size": self.vocab_size,
        }


def load_qwen_config(folder: Path) -> QwenConfig:
    """Read config.json of a Qwen v1 model.

    Raises: ModelError: no model folder, another architecture, quantized weights, a shape or a setting that no release has.
    """
    path = folder / "config.json"
    stored = read_json(path)
    _check_architecture(path, stored)
    for name, expected in _FIXED.items():
        if (found := stored.get(name, expected)) != expected:
            raise ModelError(f"{path}: {name} is {found}, expected {expected}; Qwen2 has no counterpart of it")
    sizes = {name: int(_positive(path, stored, name, int)) for name in _COUNTS}
    _check_sizes(path, sizes)
    return QwenConfig(
        vocab_size=sizes["vocab_size"],
        d_model=sizes["hidden_size"],
        d_mlp=sizes["intermediate_size"] // 2,
        n_layers=sizes["num_hidden_layers"],
        n_heads=sizes["num_attention_heads"],
        head_dim=sizes["kv_channels"],
        seq_length=sizes["seq_length"],
        norm_eps=_positive(path, stored, "layer_norm_epsilon", float),
        rotary_base=_positive(path, stored, "rotary_emb_base", float),
        initializer_range=stored.get("initializer_range", 0.02),
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read one of a model's JSON files. Raises: ModelError when it is missing or not a JSON object."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise ModelError(f"{path.parent}: has no {path.name}; expected a complete Qwen v1 model folder") from err
    except (json.JSONDecodeError, UnicodeDecodeError) as err:
        raise ModelError(f"{path}: cannot be read as JSON ({err}); download it again") from err
    if not isinstance(record, dict):
        raise ModelError(f"{path}: expected a JSON object")
    return record


def tensor_shapes(config: QwenConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor that the model's files must hold, with its shape."""
    d_model, d_mlp = config.d_model, config.d_mlp
    in_block: dict[str, tuple[int, ...]] = {
        "ln_1.weight": (d_model,),
        "attn.c_attn.weight": (3 * d_model, d_model),
        "attn.c_attn.bias": (3 * d_model,),
        "attn.c_proj.weight": (d_model, d_model),
        "ln_2.weight": (d_model,),
        "mlp.w1.weight": (d_mlp, d_model),
        "mlp.w2.weight": (d_mlp, d_model),
        "mlp.c_proj.weight": (d_model, d_mlp),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (config.vocab_size, d_model),
        "transformer.ln_f.weight": (d_model,),
        "lm_head.weight": (config.vocab_size, d_model),
    }
    for layer in range(config.n_layers):
        shapes |= {f"transformer.h.{layer}.{name}": shape for name, shape in in_block.items()}
    return shapes


def qwen2_names(name: str) -> tuple[str, ...]:
    """What Qwen2 calls a tensor of Qwen v1: one name, or three that share its rows equally, in that order."""
    if name in _OUTSIDE_BLOCKS:
        return (_OUTSIDE_BLOCKS[name],)
    _, _, layer, part = name.split(".", 3)
    return tuple(f"model.layers.{layer}.{new}" for new in _IN_BLOCK[part])


def is_buffer(name: str) -> bool:
    """Whether a stored tensor is no weight: the model computes it from its configuration."""
    return _BUFFER.fullmatch(name) is not None


def _check_architecture(path: Path, stored: Mapping[str, Any]) -> None:
    found = stored.get("architectures") or ["none"]
    if found != [ARCHITECTURE] or stored.get("model_type") != MODEL_TYPE:
        raise ModelError(
            f"{path}: architecture {', '.join(found)} (model_type {stored.get('model_type')}); expected {ARCHITECTURE} "
            f"(model_type {MODEL_TYPE}), which is Qwen v1; other models are used as they are"
        )
    quantization = stored.get("quantization_config")
    if quantization is not None:
        method = quantization.get("quant_method", "unknown") if isinstance(quantization, dict) else "unknown"
        raise ModelError(f"{path}: the weights are quantized ({method}); convert the unquantized release of the model")


def _check_sizes(path: Path, sizes: Mapping[str, int]) -> None:
    d_model, n_heads, head_dim = sizes["hidden_size"], sizes["num_attention_heads"], sizes["kv_channels"]
    if n_heads * head_dim != d_model:
        raise ModelError(
            f"{path}: num_attention_heads {n_heads} x kv_channels {head_dim} is {n_heads * head_dim}, expected "
            f"hidden_size {d_model}; no Qwen v1 release has such heads"
        )
    if sizes["intermediate_size"] % 2:
        raise ModelError(f"{path}: intermediate_size {sizes['intermediate_size']} is odd; it counts two equal halves")


def _positive(path: Path, stored: Mapping[str, Any], name: str, kind: type[int] | type[float]) -> float:
    value = stored.get(name)
    if not isinstance(value, (int, kind)) or isinstance(value, bool) or not value > 0:
        whole = "whole " if kind is int else ""
        raise ModelError(f"{path}: {name} is {value!r}, expected a positive {whole}number; download it again")
    return kind(value)
