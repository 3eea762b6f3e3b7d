"""Speculative decoding: which ways of drafting leave every answer to the edited model."""

from typing import Any

from vllm_refusal.settings.modules import KEY, ConfigError

METHODS = ("ngram", "draft_model")
"""They only propose tokens. The served model runs over them under the request's edit and keeps those it would choose."""


def check_speculation(vllm_config: Any, what: str) -> None:
    """Raises: ConfigError for a way of drafting together with which `what` does not work, or is not known to."""
    if vllm_config.speculative_config is None:
        return
    method = vllm_config.speculative_config.method
    if what != KEY or method not in METHODS:
        remedy = f"supported: {', '.join(METHODS)}" if what == KEY else "remove --speculative-config"
        raise ConfigError(f"{what} together with speculative decoding by {method} is not supported; {remedy}")
    if vllm_config.use_v2_model_runner:
        raise ConfigError(
            f"{what} together with speculative decoding needs Model Runner V1; set VLLM_USE_V2_MODEL_RUNNER=0"
        )


def is_draft(vllm_config: Any) -> bool:
    """Whether a model is built to propose tokens for another. It runs unedited, whatever its architecture.

    Where no model drafts (ngram), vLLM gives the served model's config as the drafting one's too.
    """
    speculative, model = vllm_config.speculative_config, vllm_config.model_config
    if speculative is None or model is speculative.target_model_config:
        return False
    return model is speculative.draft_model_config
