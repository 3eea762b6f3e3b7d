"""Random models of each supported architecture, small enough to build, save and run in a test."""

from pathlib import Path

N_LAYERS, D_MODEL, VOCAB_SIZE = 5, 128, 96


def build_tiny_model(architecture: str, **overrides):
    """A transformers model with random weights, spread enough that greedy choices are not ties; float32."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": D_MODEL,
        "intermediate_size": 96,
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,  # the least that vLLM's CPU attention takes
        "max_position_embeddings": 256,
        "initializer_range": 0.1,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
        "architectures": [architecture],
    }
    torch.manual_seed(0)
    config = AutoConfig.for_model(_model_type(architecture), **settings | overrides)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    _vary_gains(model)
    return model


def save_tiny_model(folder: Path, architecture: str, **overrides) -> Path:
    """Save a tiny model without a tokenizer; prompts are token ids."""
    build_tiny_model(architecture, **overrides).save_pretrained(folder)
    return folder


def _model_type(architecture: str) -> str:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return next(name for name, value in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items() if value == architecture)


def _vary_gains(model) -> None:
    """Norm gains and biases start at one and zero; random ones show what an edit forgets."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                center = 0.0 if name.endswith("bias") else 1.0
                parameter.copy_(center + 0.2 * torch.randn(parameter.shape))
