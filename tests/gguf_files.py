"""GGUF files of tiny models: written as llama.cpp's converter lays them out, from its documented rules."""

from pathlib import Path

import gguf
import numpy as np
import torch
from gguf.quants import quantize
from tiny_models import TEMPLATE

ARCHITECTURES = {
    "LlamaForCausalLM": gguf.MODEL_ARCH.LLAMA,
    "Qwen2ForCausalLM": gguf.MODEL_ARCH.QWEN2,
    "Qwen3ForCausalLM": gguf.MODEL_ARCH.QWEN3,
    "Qwen2MoeForCausalLM": gguf.MODEL_ARCH.QWEN2MOE,
    "Qwen3MoeForCausalLM": gguf.MODEL_ARCH.QWEN3MOE,
    "Gemma2ForCausalLM": gguf.MODEL_ARCH.GEMMA2,
    "Gemma3ForCausalLM": gguf.MODEL_ARCH.GEMMA3,
    "Phi3ForCausalLM": gguf.MODEL_ARCH.PHI3,
}
F32, Q8_0, Q4_0 = (gguf.GGMLQuantizationType[name] for name in ("F32", "Q8_0", "Q4_0"))


def write_gguf(path: Path, model, quantization=F32, template=TEMPLATE, settings=None, leave_out=(), extra=None) -> Path:
    """Write a model; matrices in `quantization`, the rest in float32.

    Args:
        settings: further keys of the architecture, without its prefix.
        leave_out: GGUF names of tensors.
        extra: further tensors, name -> values.
    """
    config, arch = model.config, ARCHITECTURES[type(model).__name__]
    name = gguf.MODEL_ARCH_NAMES[arch]
    writer = gguf.GGUFWriter(path, name)
    writer.add_name("Tiny")
    for key, value in (stated(config) | (settings or {})).items():
        add = writer.add_string if isinstance(value, str) else writer.add_uint32
        (writer.add_float32 if isinstance(value, float) else add)(f"{name}.{key}", value)
    add_vocabulary(writer, config.vocab_size, template)
    tensors = gguf_tensors(model, arch) | (extra or {})
    for tensor_name, values in tensors.items():
        if tensor_name in leave_out:
            continue
        kind = quantization if values.ndim >= 2 and values.shape[-1] % 32 == 0 else F32
        writer.add_tensor(tensor_name, quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def stated(config) -> dict[str, object]:
    """The keys that llama.cpp's converter writes of a configuration."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    keys = {
        "context_length": config.max_position_embeddings,
        "block_count": config.num_hidden_layers,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "rope.freq_base": float((config.rope_parameters.get("full_attention") or config.rope_parameters)["rope_theta"]),
    }
    if "Moe" in type(config).__name__:
        keys |= {
            "expert_count": config.num_experts,
            "expert_used_count": config.num_experts_per_tok,
            "expert_feed_forward_length": config.moe_intermediate_size,
        }
    if hasattr(config, "shared_expert_intermediate_size"):
        keys["expert_shared_feed_forward_length"] = config.shared_expert_intermediate_size
    if getattr(config, "sliding_window", None) and "gemma" in config.model_type:
        keys["attention.sliding_window"] = config.sliding_window
    return keys


def add_vocabulary(writer, size: int, template: str | None) -> None:
    """A byte-level vocabulary with two merges and four special tokens."""
    from tokenizers import pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<s>", "<|end|>", "<|user|>", "<|assistant|>", *alphabet, "th", "the"]
    tokens += ["<|endoftext|>", "<pad>", "<unk>", "<bos>", "<eos>", "<mask>"]  # which transformers' classes look for
    tokens += [f"<unused{n}>" for n in range(size - len(tokens))]
    control = [3] * 4 + [1] * (len(alphabet) + 2) + [3] * 6
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(control + [5] * (len(tokens) - len(control)))
    writer.add_token_merges(["t h", "th e"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    if template is not None:
        writer.add_chat_template(template)


def gguf_tensors(model, arch) -> dict[str, np.ndarray]:
    """Every tensor under its GGUF name, in float32, with llama.cpp's changes of values."""
    config = model.config
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    found = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = tensor.detach().float().numpy()
        if name.endswith("experts.gate_up_proj"):
            layer = name.split(".")[2]
            gate, up = np.split(values, 2, axis=1)
            found |= {f"blk.{layer}.ffn_gate_exps.weight": gate, f"blk.{layer}.ffn_up_exps.weight": up}
            continue
        if name.endswith("experts.down_proj"):
            found[f"blk.{name.split('.')[2]}.ffn_down_exps.weight"] = values
            continue
        stem, _, kind = name.rpartition(".")
        ours = f"{names.get_name(stem)}.{kind}"
        if arch == gguf.MODEL_ARCH.LLAMA and ".attn_q." in ours:
            values = interleaved(values, config.num_attention_heads)
        if arch == gguf.MODEL_ARCH.LLAMA and ".attn_k." in ours:
            values = interleaved(values, config.num_key_value_heads)
        if "gemma" in config.model_type and "norm" in name:
            values = values + 1
        if "ffn_gate_inp_shexp" in ours:
            values = values[0]
        found[ours] = np.ascontiguousarray(values)
    return found


def interleaved(values: np.ndarray, n_heads: int) -> np.ndarray:
    """Rows of q or k in the order in which llama.cpp rotates them: neighbours, not halves."""
    half = values.shape[0] // n_heads // 2
    return values.reshape(n_heads, 2, half, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def as_read(values: torch.Tensor, quantization) -> torch.Tensor:
    """What a matrix is after it was quantized."""
    return torch.from_numpy(gguf.dequantize(quantize(values.numpy(), quantization), quantization))
