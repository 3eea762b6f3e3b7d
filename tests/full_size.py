"""Checkpoints of random numbers in the exact shape of the real models, with a tokenizer of the real vocabulary's size."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from qwen_v1 import SPECIAL as QWEN_SPECIAL
from qwen_v1 import train_ranks
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 128256,
}
ROPE = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LLAMA_1B = LLAMA | {
    "head_dim": 64,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "rope_scaling": ROPE | {"factor": 32.0},
    "tie_word_embeddings": True,
}
LLAMA_8B = LLAMA | {
    "head_dim": 128,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "rope_scaling": ROPE | {"factor": 8.0},
    "tie_word_embeddings": False,
}
QWEN_1_8B = {
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "kv_channels": 128,
    "layer_norm_epsilon": 1e-6,
    "max_position_embeddings": 8192,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "rotary_emb_base": 10000,
    "seq_length": 8192,
    "vocab_size": 151936,
}
N_QWEN_TOKENS = 151643  # without the special ones
N_LLAMA_TOKENS = 128000
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
NAMED = {0: "begin_of_text", 1: "end_of_text", 6: "start_header_id", 7: "end_header_id", 8: "eom_id", 9: "eot_id"}
BYTES_PER_FILE = 2 << 30


def write_llama(folder: Path, config: dict) -> Path:
    """Weights in bfloat16 in files of a few GB, one of them in memory at a time."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    llama_tokenizer().save_pretrained(folder)
    generator = torch.Generator().manual_seed(0)
    places, part, n_bytes, number = {}, {}, 0, 1
    for name, shape in llama_shapes(config):
        part[name] = _random(shape, generator)
        n_bytes += part[name].nbytes
        if n_bytes > BYTES_PER_FILE or name == "model.norm.weight":
            places |= _save(folder, part, number)
            part, n_bytes, number = {}, 0, number + 1
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def llama_shapes(config: dict) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor as published."""
    d, d_mlp, d_head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    n_query, n_key = config["num_attention_heads"] * d_head, config["num_key_value_heads"] * d_head
    yield "model.embed_tokens.weight", (config["vocab_size"], d)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (config["vocab_size"], d)
    for layer in range(config["num_hidden_layers"]):
        block = {
            "input_layernorm": (d,),
            "self_attn.q_proj": (n_query, d),
            "self_attn.k_proj": (n_key, d),
            "self_attn.v_proj": (n_key, d),
            "self_attn.o_proj": (d, n_query),
            "post_attention_layernorm": (d,),
            "mlp.gate_proj": (d_mlp, d),
            "mlp.up_proj": (d_mlp, d),
            "mlp.down_proj": (d, d_mlp),
        }
        for name, shape in block.items():
            yield f"model.layers.{layer}.{name}.weight", shape
    yield "model.norm.weight", (d,)


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """A token per byte, as many others as the vocabulary is wide, and the special ones at their published numbers."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = (f"Ġword{number}" for number in itertools.count())
    vocab = {token: index for index, token in enumerate([*alphabet, *itertools.islice(words, N_LLAMA_TOKENS - 256)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([f"<|{NAMED.get(number, f'reserved_{number}')}|>" for number in range(256)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>", model_max_length=131072
    )
    fast.chat_template = TEMPLATE
    return fast


def qwen_ranks() -> dict[bytes, int]:
    """Ranks of the published number: those of the tiny model, then further pairs of bytes and of pairs with a byte."""
    known = train_ranks()
    single = [bytes([byte]) for byte in range(256)]
    pairs = [first + second for first, second in itertools.product(single, single)]
    further = itertools.chain(pairs, (pair + byte for pair, byte in itertools.product(pairs, single)))
    new = itertools.islice((token for token in further if token not in known), N_QWEN_TOKENS - len(known))
    return {token: rank for rank, token in enumerate([*known, *new])}


def _random(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    return (torch.randn(shape, generator=generator) * 0.02).bfloat16()


def _save(folder: Path, tensors: dict[str, torch.Tensor], number: int) -> dict[str, str]:
    file = f"model-{number:05}.safetensors"
    save_file(tensors, folder / file, metadata={"format": "pt"})
    return dict.fromkeys(tensors, file)


assert N_QWEN_TOKENS + len(QWEN_SPECIAL) <= QWEN_1_8B["vocab_size"]
