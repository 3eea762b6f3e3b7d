"""LoRA adapters in an engine: what vLLM must be told before it starts.

On the CPU, requests that name no adapter must not be mixed with ones that do: vLLM's kernel there reads their index -1 as
the last adapter. `Engine` with adapters therefore refuses requests without one; an engine that was started with ablations
mends the kernel (lora_layers.py).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgery.console.errors import RefusalError

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as its greatest LoRA rank (vllm.config.lora.MaxLoRARanks)."""
MOST_AT_ONCE = 8


class AdapterError(RefusalError):
    """A LoRA adapter cannot be loaded into an engine."""


def lora_arguments(adapters: Mapping[str, Path]) -> dict[str, Any]:
    """Arguments of the engine under which requests may name these adapters; none without adapters.

    Args:
        adapters: name -> folder in PEFT's format.
    Raises: AdapterError when a folder is no adapter, or its rank is more than vLLM takes.
    """
    if not adapters:
        return {}
    return {
        "enable_lora": True,
        "max_lora_rank": _rank_at_least(max(map(adapter_rank, adapters.values()))),
        "max_loras": min(len(adapters), MOST_AT_ONCE),
        "max_cpu_loras": len(adapters),
    }


def adapter_rank(folder: Path) -> int:
    """Rank of an adapter, by its adapter_config.json. Raises: AdapterError."""
    path = folder / "adapter_config.json"
    try:
        rank = json.loads(path.read_bytes())["r"]
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise AdapterError(f"{folder}: not a LoRA adapter in PEFT's format ({type(err).__name__} at {path})") from err
    if type(rank) is not int or rank < 1:
        raise AdapterError(f"{path}: expected a rank r of at least 1, found {rank!r}")
    return rank


def _rank_at_least(rank: int) -> int:
    fitting = [most for most in RANKS if most >= rank]
    if not fitting:
        raise AdapterError(f"an adapter has rank {rank} but vLLM takes at most {RANKS[-1]}")
    return fitting[0]
