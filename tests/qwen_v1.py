"""A tiny random Qwen v1 checkpoint with all its files, and its logits in plain torch: from the published architecture."""

import base64
import json
import math
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path

import regex
import torch
from safetensors.torch import save_file

torch.set_num_threads(1)  # tensors this small lose more to threads than they gain

PATTERN = (  # of the published tokenizer
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{number}|>" for number in range(205))]
TEXT = """The rain. The wind. The snow. The sun.
The weather report says that the rain will stop before the evening, and that's what they're hoping for.
I'll read the first chapter; you've read it, she'd read it, we're reading it, and I'm reading it again. DON'T SHOUT, IT'S LATE.
    def total(values):
        return sum(value for value in values)   # 12345 67890 2024-01-31


Das Wetter wird morgen schöner, und die Straße ist für Fußgänger gesperrt. Où est la bibliothèque ? El niño pequeño.
天气很好，我们去公园散步。今天的天气预报说明天会下雨。天气很好，我们去公园。
東京の天気は晴れです。明日は雨が降るでしょう。 날씨가 좋아서 공원에 갔습니다. Погода хорошая, мы идём в парк.
مرحبا بالعالم 🙂🙂🎉 αβγδ naïve café -- ... !!! ???
"""
N_MERGES = 400
ACROSS = [b"12", b"\n "]  # tokens that the published pattern always cuts apart: they tell a wrong pattern
CONFIG = {
    "architectures": ["QWenLMHeadModel"],
    "auto_map": {
        "AutoConfig": "configuration_qwen.QWenConfig",
        "AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel",
    },
    "attn_dropout_prob": 0.0,
    "bf16": True,
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "kv_channels": 8,
    "layer_norm_epsilon": 1e-3,  # and a base of 500: not the usual values, which a lost setting would fall back to
    "max_position_embeddings": 256,
    "model_type": "qwen",
    "no_bias": True,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "rotary_emb_base": 500,
    "rotary_pct": 1.0,
    "scale_attn_weights": True,
    "seq_length": 64,
    "tie_word_embeddings": False,
    "tokenizer_class": "QWenTokenizer",
    "use_dynamic_ntk": True,
    "use_logn_attn": True,
    "vocab_size": 256 + N_MERGES + len(SPECIAL) + 24,
}
GENERATION = {
    "chat_format": "chatml",
    "do_sample": True,
    "eos_token_id": 256 + N_MERGES,
    "max_new_tokens": 512,
    "max_window_size": 6144,
    "pad_token_id": 256 + N_MERGES,
    "repetition_penalty": 1.1,
    "top_k": 0,
    "top_p": 0.8,
}
CARD = "---\nlicense: other\nlicense_name: tongyi-qianwen-research\n---\n# Tiny Qwen\n\nIts card.\n"


@cache
def train_ranks(n_merges: int = N_MERGES) -> dict[bytes, int]:
    """A vocabulary learnt from TEXT: bytes in another order than their values, then the commonest pair at each step.

    The last ones are those of ACROSS.
    """
    tokens = [bytes([(byte + 0x21) % 256]) for byte in range(256)]
    words = Counter(tuple(bytes([byte]) for byte in piece.encode()) for piece in regex.findall(PATTERN, TEXT))
    while len(tokens) < 256 + n_merges - len(ACROSS):
        counts: Counter[tuple[bytes, bytes]] = Counter()
        for word, count in words.items():
            for pair in pairwise(word):
                counts[pair] += count
        pair = max(counts, key=lambda pair: (counts[pair], pair))
        tokens.append(pair[0] + pair[1])
        words = Counter({_merged(word, pair): count for word, count in words.items()})
    return {token: rank for rank, token in enumerate([*tokens, *ACROSS])}


def vocabulary_file(ranks: dict[bytes, int]) -> str:
    """The text of a tiktoken file."""
    return "".join(f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items())


def random_tensors(config: dict, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights of a Qwen v1 model under their published names, float32."""
    d, d_mlp, vocab = config["hidden_size"], config["intermediate_size"] // 2, config["vocab_size"]
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.3

    tensors = {"transformer.wte.weight": normal(vocab, d)}
    for layer in range(config["num_hidden_layers"]):
        block = {
            "ln_1.weight": 1 + normal(d),
            "attn.c_attn.weight": normal(3 * d, d),
            "attn.c_attn.bias": normal(3 * d),
            "attn.c_proj.weight": normal(d, d),
            "ln_2.weight": 1 + normal(d),
            "mlp.w1.weight": normal(d_mlp, d),
            "mlp.w2.weight": normal(d_mlp, d),
            "mlp.c_proj.weight": normal(d, d_mlp),
        }
        tensors |= {f"transformer.h.{layer}.{name}": value for name, value in block.items()}
    return tensors | {"transformer.ln_f.weight": 1 + normal(d), "lm_head.weight": normal(vocab, d)}


def write_qwen_v1(
    folder: Path,
    n_files: int = 1,
    dtype: torch.dtype = torch.float32,
    extra: dict | None = None,
    ranks: dict[bytes, int] | None = None,
    **config,
) -> Path:
    """Write a tiny model as it would be published, its weights in one file or in several.

    Args:
        extra: tensors to store beside the weights.
        ranks: the vocabulary; that of TEXT unless given.
    """
    folder.mkdir(parents=True)
    config, ranks = CONFIG | config, ranks or train_ranks()
    generation = GENERATION | {"eos_token_id": len(ranks), "pad_token_id": len(ranks)}
    tensors = {name: value.to(dtype) for name, value in random_tensors(config).items()} | (extra or {})
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps(generation))
    (folder / "qwen.tiktoken").write_text(vocabulary_file(ranks))
    (folder / "tokenization_qwen.py").write_text("raise RuntimeError('code of the model must not run')\n")
    (folder / "README.md").write_text(CARD)
    (folder / "LICENSE").write_text("Terms.\n")
    _save_weights(folder, tensors, n_files)
    return folder


def reference_logits(tensors: dict[str, torch.Tensor], config: dict, token_ids: list[int]) -> torch.Tensor:
    """Logits of one sequence, [n_tokens, vocab_size], float32: no code shared with transformers or with the product."""
    tensors = {name: value.float() for name, value in tensors.items()}
    stream = tensors["transformer.wte.weight"][token_ids]
    for layer in range(config["num_hidden_layers"]):
        block = {
            name.removeprefix(f"transformer.h.{layer}."): value
            for name, value in tensors.items()
            if name.startswith(f"transformer.h.{layer}.")
        }
        stream = stream + _attention(_rms_norm(stream, block["ln_1.weight"], config), block, config)
        normed = _rms_norm(stream, block["ln_2.weight"], config)
        gate = normed @ block["mlp.w2.weight"].T
        up = normed @ block["mlp.w1.weight"].T
        stream = stream + (up * (gate * torch.sigmoid(gate))) @ block["mlp.c_proj.weight"].T
    return _rms_norm(stream, tensors["transformer.ln_f.weight"], config) @ tensors["lm_head.weight"].T


def _attention(x: torch.Tensor, block: dict[str, torch.Tensor], config: dict) -> torch.Tensor:
    n_tokens, d = x.shape
    head_dim = config["kv_channels"]
    stacked = x @ block["attn.c_attn.weight"].T + block["attn.c_attn.bias"]
    q, k, v = (
        part.reshape(n_tokens, -1, head_dim) for part in (stacked[:, :d], stacked[:, d : 2 * d], stacked[:, 2 * d :])
    )
    q, k = _rotated(q, config), _rotated(k, config)
    future = torch.ones(n_tokens, n_tokens, dtype=torch.bool).triu(1)
    heads = []
    for head in range(config["num_attention_heads"]):
        scores = q[:, head] @ k[:, head].T / math.sqrt(head_dim)
        heads.append(scores.masked_fill(future, -math.inf).softmax(-1) @ v[:, head])
    return torch.cat(heads, dim=1) @ block["attn.c_proj.weight"].T


def _rotated(x: torch.Tensor, config: dict) -> torch.Tensor:
    """Coordinates i and i + head_dim / 2 as one complex number, turned by position * base^(-2i / head_dim)."""
    n_tokens, _, head_dim = x.shape
    half = head_dim // 2
    speeds = torch.tensor([config["rotary_emb_base"] ** (-2 * i / head_dim) for i in range(half)])
    angles = torch.arange(n_tokens)[:, None] * speeds
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angles), angles)[:, None]
    return torch.cat([turned.real, turned.imag], dim=-1)


def _rms_norm(x: torch.Tensor, gain: torch.Tensor, config: dict) -> torch.Tensor:
    return x / (x.square().mean(-1, keepdim=True) + config["layer_norm_epsilon"]).sqrt() * gain


def _merged(word: tuple[bytes, ...], pair: tuple[bytes, bytes]) -> tuple[bytes, ...]:
    parts, at = [], 0
    while at < len(word):
        found = word[at : at + 2] == pair
        parts.append(pair[0] + pair[1] if found else word[at])
        at += 2 if found else 1
    return tuple(parts)


def _save_weights(folder: Path, tensors: dict[str, torch.Tensor], n_files: int) -> None:
    if n_files == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    files = [f"model-{number + 1:05d}-of-{n_files:05d}.safetensors" for number in range(n_files)]
    weight_map = {name: files[number * n_files // len(tensors)] for number, name in enumerate(tensors)}
    for file in files:
        part = {name: value for name, value in tensors.items() if weight_map[name] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
