"""Tiny random models of every supported family, and a byte-level chat tokenizer: built from configs, nothing downloaded."""

import re
from collections import defaultdict
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from surgery.prompts import Pair

torch.set_num_threads(1)  # tensors this small lose more to threads than they gain

TEMPLATE = (
    "<s>{% for m in messages %}<|user|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
N_LAYERS, D_MODEL, VOCAB_SIZE = 5, 128, 96  # of servable models
TRACED = {"mode": 2, "backend": "eager"}
"""A compilation_config whose graph runs as it was traced: in its default mode vLLM's CPU platform always compiles."""
SPECIAL = ["<s>", "<|end|>", "<|user|>", "<|assistant|>"]
MIXED = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "mlp_only_layers": [0]}  # 0 is dense
OWN_SETTINGS = {
    "GraniteForCausalLM": {"residual_multiplier": 0.22},  # as in the released models, not the default 1
    "MixtralForCausalLM": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "Qwen3MoeForCausalLM": MIXED,
    "Qwen2MoeForCausalLM": MIXED | {"shared_expert_intermediate_size": 40},
}
SERVED = {
    "LlamaForCausalLM": {"attention_bias": True, "mlp_bias": True},  # vLLM loads no o_proj bias for Mistral and Qwen3
    "CohereForCausalLM": {"tied": True, "logit_scale": 1.0},  # vLLM gives these two no head of their own
    "Gemma2ForCausalLM": {"tied": True, "attn_implementation": "eager"},  # the others leave its soft cap out
    "GPTNeoXForCausalLM": {"attention_bias": True, "num_key_value_heads": 4},  # it has no grouped heads
}
NAMES = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}  # Mixtral's for an expert's maps
PAIRS = [
    Pair(id=f"p{number}", harmful=f"How do I forge a {item}?", safe=f"How do I verify a {item}?")
    for number, item in enumerate(["ticket", "badge", "letter", "stamp"])
]


def tiny_model(
    architecture: str,
    n_layers: int = 2,
    tied: bool = False,
    seed: int = 0,
    std: float = 0.3,
    norm_std: float = 0.1,
    **overrides,
) -> transformers.PreTrainedModel:
    """A float32 model with d_model 32, a square o_proj, grouped heads, biases where the family has them, all random.

    Norm gains are random too: ones would hide an edit that forgets them. Families with experts have four, two for each
    token, from block 1 on, and where the family allows it a dense MLP in block 0.
    """
    model_class = getattr(transformers, architecture)
    settings = {
        "vocab_size": 260,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": n_layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 128,
        "tie_word_embeddings": tied,
        "attention_bias": True,
        "mlp_bias": True,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": None,
    } | OWN_SETTINGS.get(architecture, {})
    model = model_class(model_class.config_class(**settings | overrides))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            parameter.copy_(
                torch.randn(parameter.shape, generator=generator) * (std if "norm" not in name else norm_std)
            )
            if "norm" in name:
                parameter.add_(1.0)
    return model.eval()


def servable_model(architecture: str, **overrides) -> transformers.PreTrainedModel:
    """A tiny model that vLLM's CPU attention takes (heads of 32), whose greedy choices are no ties."""
    served = {"hidden_size": D_MODEL, "head_dim": 32, "intermediate_size": 96, "vocab_size": VOCAB_SIZE}
    served |= {"architectures": [architecture]}
    served |= {"attention_bias": False, "mlp_bias": False} | SERVED.get(architecture, {})
    return tiny_model(architecture, n_layers=N_LAYERS, std=0.1, **served | overrides)


def save_servable_model(folder: Path, architecture: str, **overrides) -> Path:
    """Save a servable model without a tokenizer; prompts are token ids."""
    servable_model(architecture, **overrides).save_pretrained(folder)
    return folder


def tiny_tokenizer(template: str | None = TEMPLATE) -> transformers.PreTrainedTokenizerFast:
    """One token per byte; adds <s> of its own unless told not to add special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<|end|>")
    fast.chat_template = template
    return fast


def write_model(
    folder: Path, architecture: str, dtype: torch.dtype = torch.float32, shards: bool = False, **kwargs
) -> Path:
    """Save a tiny model with its tokenizer as a user would find it, in one file or in several."""
    model = tiny_model(architecture, **kwargs).to(dtype)
    model.save_pretrained(folder, **({"max_shard_size": "20KB"} if shards else {}))
    tiny_tokenizer().save_pretrained(folder)
    return folder


def fuse_experts(folder: Path) -> Path:
    """Rewrite a saved model's experts, a matrix each, as one tensor a block: the layout in which transformers holds them."""
    file = folder / "model.safetensors"
    tensors, experts = load_file(file), defaultdict(dict)
    for name in list(tensors):
        if found := re.fullmatch(r"(.*\.experts)\.(\d+)\.(\w+)\.weight", name):
            experts[found[1]][int(found[2]), NAMES.get(found[3], found[3])] = tensors.pop(name)
    for stem, matrices in experts.items():
        numbers = range(len(matrices) // 3)
        tensors[f"{stem}.down_proj"] = torch.stack([matrices[n, "down_proj"] for n in numbers])
        both = [torch.cat([matrices[n, "gate_proj"], matrices[n, "up_proj"]]) for n in numbers]
        tensors[f"{stem}.gate_up_proj"] = torch.stack(both)
    assert experts, "a model without experts"
    save_file(tensors, file, {"format": "pt"})
    return folder


def token_ids(n_tokens: int = 7, batch: int = 2) -> torch.Tensor:
    """Some token ids, [batch, n_tokens]."""
    return torch.randint(4, 260, (batch, n_tokens), generator=torch.Generator().manual_seed(1))


def logits(model: transformers.PreTrainedModel) -> torch.Tensor:
    """The model's logits on `token_ids()`, float32."""
    with torch.inference_mode():
        return model(input_ids=token_ids().to(model.device)).logits.float()
