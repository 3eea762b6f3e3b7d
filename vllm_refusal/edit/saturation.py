"""Where an edited stream ends: a bound that keeps every number of it finite, and what is computed from it."""

import torch


def largest(dtype: torch.dtype) -> float:
    """Where an edited stream saturates: a quarter of float16's range, and no more than float32 can square and sum."""
    return min(torch.finfo(dtype).max / 4, 1e15)
