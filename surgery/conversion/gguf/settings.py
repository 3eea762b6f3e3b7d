"""The settings of a GGUF file as a transformers configuration: what transformers maps, what it passes over, and nothing unsaid."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from surgery.architecture.table import ARCHITECTURES
from surgery.console.errors import ModelError
from surgery.conversion.gguf.source import GGUFSource
from surgery.files.artifacts import shortened

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_OWN_NAMES = {"qwen2moe": "qwen2_moe", "qwen3moe": "qwen3_moe"}  # of transformers, for GGUF's architectures
_TEXT_ONLY = {"gemma3": "gemma3_text"}
_TOKENS = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "pad_token_id": "padding_token_id"}
_PASSED_OVER = {  # by transformers; a default would take their place
    "attention.key_length": "head_dim",
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
}
_SCALING = (
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
)
_SAME_AS_HEAD_DIM = ("attention.value_length", "rope.dimension_count")
_BLOCKS_OF_27B = {"gemma2": 46, "gemma3_text": 62}


def read_config(source: GGUFSource) -> "PretrainedConfig":
    """The configuration of a file.

    Raises: ModelError for an architecture that transformers or the rest here does not know, or a setting that would
        change the model and has no place in its configuration.
    """
    from transformers import AutoConfig
    from transformers.integrations.ggml import GGUF_CONFIG_DEFAULTS_MAPPING, GGUF_CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    name = _OWN_NAMES.get(source.architecture, source.architecture)
    model_type = _TEXT_ONLY.get(name, name)
    architecture = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type)
    if architecture not in ARCHITECTURES or name not in GGUF_CONFIG_MAPPING:
        raise ModelError(_unsupported(source))
    attributes = cast(dict[str, Any], GGUF_CONFIG_MAPPING[name])
    mapped = {key: attribute for key, attribute in attributes.items() if attribute not in (None, -1)}
    stated = _stated(source, mapped)
    found = {**GGUF_CONFIG_DEFAULTS_MAPPING.get(name, {}), "vocab_size": _n_tokens(source)}
    found |= {attribute: stated[key] for key, attribute in (mapped | _PASSED_OVER).items() if key in stated}
    found["tie_word_embeddings"] = all(tensor.name != "output.weight" for tensor in source.tensors)
    config = AutoConfig.for_model(model_type, **found)
    _check_taken_over(
        source,
        {attribute: found[attribute] for attribute in (mapped | _PASSED_OVER).values() if attribute in found},
        config,
    )
    config.architectures = [architecture]
    for attribute, key in _TOKENS.items():
        setattr(config, attribute, source.metadata.get(f"tokenizer.ggml.{key}"))
    if model_type in _BLOCKS_OF_27B:  # llama.cpp knows the largest ones by their depth
        is_27b = config.num_hidden_layers == _BLOCKS_OF_27B[model_type]
        width = config.hidden_size // config.num_attention_heads
        config.query_pre_attn_scalar = width if is_27b else config.head_dim
    _check_head_dim(source, stated, config)
    _scale_rope(source, stated, config)
    return config


def architecture_of(config: "PretrainedConfig") -> str:
    """Its class, as in config.json."""
    (architecture,) = config.architectures or [""]
    return architecture


def head_dim(config: "PretrainedConfig") -> int:
    """Width of an attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _n_tokens(source: GGUFSource) -> int:
    """Rows of the embedding: no file tells them otherwise, and some tell nothing else."""
    rows = [tensor.shape[0] for tensor in source.tensors if tensor.name == "token_embd.weight"]
    if not rows:
        raise ModelError(f"{source.files[0]}: lacks the embedding (token_embd.weight)")
    return rows[0]


def _stated(source: GGUFSource, mapped: Mapping[str, str]) -> dict[str, Any]:
    prefix = f"{source.architecture}."
    stated = {key.removeprefix(prefix): value for key, value in source.metadata.items() if key.startswith(prefix)}
    known = mapped.keys() | _PASSED_OVER.keys() | set(_SCALING) | set(_SAME_AS_HEAD_DIM)
    if unknown := sorted(stated.keys() - known):
        raise ModelError(
            f"{source.files[0]}: has settings that cannot be taken over: {shortened(unknown)}; take the model from its own release"
        )
    return stated


def _check_taken_over(source: GGUFSource, found: Mapping[str, Any], config: "PretrainedConfig") -> None:
    """A configuration takes any attribute, and its model looks only for those of its class."""
    known = type(config)()
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    for attribute, value in found.items():
        taken = rope.get(attribute, getattr(config, attribute, None))
        is_known = hasattr(known, attribute) or attribute in (*rope, "head_dim")  # every attention looks for that one
        if taken != value or not is_known:
            raise ModelError(
                f"{source.files[0]}: {type(config).__name__} does not take over {attribute} = {value}; take the model from its "
                "own release"
            )


def _check_head_dim(source: GGUFSource, stated: dict[str, Any], config: "PretrainedConfig") -> None:
    for key in _SAME_AS_HEAD_DIM:
        if key in stated and stated[key] != head_dim(config):
            raise ModelError(
                f"{source.files[0]}: {source.architecture}.{key} is {stated[key]}, expected {head_dim(config)} as in all of "
                "the attention; take the model from its own release"
            )


def _scale_rope(source: GGUFSource, stated: dict[str, Any], config: "PretrainedConfig") -> None:
    kind = stated.get("rope.scaling.type", "none")
    if kind == "none":
        return
    if kind not in ("linear", "yarn"):
        raise ModelError(f"{source.files[0]}: rope.scaling.type is {kind}, expected none, linear or yarn")
    needed = ("rope.scaling.factor", *(["rope.scaling.original_context_length"] if kind == "yarn" else []))
    if missing := [key for key in needed if key not in stated]:
        raise ModelError(
            f"{source.files[0]}: rope.scaling.type is {kind} without {missing[0]}; convert the model to GGUF again"
        )
    scaled = {"rope_type": kind, "factor": float(stated["rope.scaling.factor"])}
    if kind == "yarn":
        scaled["original_max_position_embeddings"] = stated["rope.scaling.original_context_length"]
    parameters = config.rope_parameters
    parameters.get("full_attention", parameters).update(scaled)  # Gemma 3 scales its global layers alone


def _unsupported(source: GGUFSource) -> str:
    return (
        f"{source.files[0]}: architecture {source.architecture} is none whose GGUF files can be converted; supported: "
        "llama (also Mistral), qwen2, qwen2moe, qwen3, qwen3moe, phi3, gemma2, gemma3"
    )
