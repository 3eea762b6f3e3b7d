"""Parts of vLLM together with which the residual stream is not ours to edit or to read."""

from typing import Any

from surgery.architecture.table import ARCHITECTURES
from vllm_refusal.settings.modules import KEY, ConfigError

_WEIGHTS_ALONE = {
    None,
    "auto_awq",
    "auto_gptq",
    "awq",
    "awq_marlin",
    "bitsandbytes",
    "gguf",
    "gptq",
    "gptq_marlin",
    "int8_per_channel_weight_only",
    "moe_wna16",
}
"""Quantization methods of vLLM that leave activations as they are."""
_DRAFTING = ("ngram", "draft_model")
"""They only propose tokens. The served model runs over them under the request's edit and keeps those it would choose."""


def check_parts(vllm_config: Any, what: str) -> None:
    """Raises: ConfigError naming the part of this engine together with which `what` does not work."""
    parallel = vllm_config.parallel_config
    refused = (
        (vllm_config.model_config.runner_type == "pooling", "a pooling runner", "it generates nothing"),
        (parallel.use_ubatching, "micro-batching", "it splits the batch; remove --enable-dbo and --ubatch-size"),
        (parallel.enable_elastic_ep, "elastic expert parallelism", "workers come and go; remove --enable-elastic-ep"),
        (
            parallel.use_sequence_parallel_moe,
            "sequence-parallel experts",
            "each worker has other tokens; remove --enable-expert-parallel or --data-parallel-size",
        ),
        (
            parallel.prefill_context_parallel_size > 1,
            "context parallelism",
            "it splits the prompts; remove --prefill-context-parallel-size",
        ),
        (
            vllm_config.kv_transfer_config is not None,
            "KV transfer",
            "it hands on blocks by their tokens alone, whatever edit they were computed under; remove "
            "--kv-transfer-config",
        ),
        (
            what == KEY and _spreads_scales(vllm_config.model_config),
            "quantized activations",
            "this architecture's blocks read the stream before any norm, so that one request's edit could set the scale "
            "of all others' activations; serve the model without quantization, or with quantized weights alone",
        ),
    )
    for found, part, reason in refused:
        if found:
            raise ConfigError(f"{what} together with {part} is not supported: {reason}")
    _check_drafting(vllm_config, what)


def is_draft(vllm_config: Any) -> bool:
    """Whether a model is built to propose tokens for another. It runs unedited, whatever its architecture.

    Where no model drafts (ngram), vLLM gives the served model's config as the drafting one's too.
    """
    speculative, model = vllm_config.speculative_config, vllm_config.model_config
    if speculative is None or model is speculative.target_model_config:
        return False
    return model is speculative.draft_model_config


def _check_drafting(vllm_config: Any, what: str) -> None:
    """Raises: ConfigError for a way of drafting together with which `what` does not work, or is not known to."""
    if vllm_config.speculative_config is None:
        return
    method = vllm_config.speculative_config.method
    if what != KEY or method not in _DRAFTING:
        remedy = f"supported: {', '.join(_DRAFTING)}" if what == KEY else "remove --speculative-config"
        raise ConfigError(f"{what} together with speculative decoding by {method} is not supported; {remedy}")
    if vllm_config.use_v2_model_runner:
        raise ConfigError(
            f"{what} together with speculative decoding needs Model Runner V1; set VLLM_USE_V2_MODEL_RUNNER=0"
        )


def _spreads_scales(model_config: Any) -> bool:
    """Whether a row that an edit makes long may set the scale of a whole batch, which quantizes others' to zero.

    Behind a norm no edit can: |norm(x)| <= sqrt(d_model) max |gain| for any stream x, and all that is quantized in a block
    is computed from that. What is left is what any prompt may do to others, under vLLM's own rounding.
    """
    if getattr(model_config, "quantization", None) in _WEIGHTS_ALONE:
        return False
    return not ARCHITECTURES[model_config.architecture].feeds_norms
