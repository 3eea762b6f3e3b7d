"""Flags of vLLM's that `generate` and `sweep` hand to the engine: `--engine-arg KEY=VALUE`."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from surgery.console.errors import RefusalError

_OWN_OPTIONS = {
    "model": "MODEL",
    "dtype": "--dtype",
    "revision": "--revision",
    "enforce_eager": "--eager or --compile",
    "max_num_seqs": "--max-num-seqs",
    "enable_lora": "--adapter",
    "max_lora_rank": "--adapter",
    "max_loras": "--adapter",
    "additional_config": "--ablation",
    "data_parallel_size": "several servers with --base-url",
}
_FIXED = {"tokenizer", "generation_config", "disable_log_stats", "skip_tokenizer_init", "speculative_config"}


class EngineArgumentError(RefusalError):
    """An --engine-arg cannot be handed to the engine."""


def parse_engine_arguments(texts: Sequence[str], sizes: Mapping[str, int | None] | None = None) -> dict[str, Any]:
    """Keyword arguments of `vllm.LLM` from KEY=VALUE words and from options of their own.

    Keys are written as vLLM's flags or as its arguments (tensor-parallel-size, tensor_parallel_size). A value is JSON
    where it can be read as such (2, 0.9, true, {"a": 1}), else text; a key alone is true.

    Args:
        sizes: further arguments, None where not given.
    Raises: EngineArgumentError for a key that is given twice, or that would change what a run records.
    """
    found: dict[str, Any] = {name: value for name, value in (sizes or {}).items() if value is not None}
    for text in texts:
        key, equals, value = text.partition("=")
        name = key.strip().lstrip("-").replace("-", "_")
        _check_name(text, name)
        if name in found:
            raise EngineArgumentError(f"--engine-arg {text!r}: {name} is given twice; give it once")
        found[name] = _typed(value) if equals else True
    return found


def _check_name(text: str, name: str) -> None:
    if not name.isidentifier():
        raise EngineArgumentError(f"--engine-arg {text!r}: expected KEY=VALUE, e.g. gpu-memory-utilization=0.8")
    if name in _OWN_OPTIONS:
        raise EngineArgumentError(f"--engine-arg {text!r}: {name} is set by this command; use {_OWN_OPTIONS[name]}")
    if name in _FIXED:
        raise EngineArgumentError(f"--engine-arg {text!r}: {name} is fixed by this command, for runs to be comparable")


def _typed(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return {"True": True, "False": False}.get(value, value)
