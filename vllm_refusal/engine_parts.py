"""Parts of vLLM together with which the residual stream is not ours to edit or to read."""

from typing import Any

from vllm_refusal.config import ConfigError


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
    )
    for found, part, reason in refused:
        if found:
            raise ConfigError(f"{what} together with {part} is not supported: {reason}")
