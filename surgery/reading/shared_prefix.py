"""The tokens that all prompts begin with, run once: their keys and values stand in for them in every batch."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import Cache, PretrainedConfig, PreTrainedModel

_GROWING_ROPE = ("dynamic", "longrope")  # rotations that change once a sequence is longer than the model was trained on


@dataclass(frozen=True)
class SharedPrefix:
    """A run of tokens and what its attention layers keep of it.

    What a token writes depends on the tokens before it only, so that a prompt's other tokens run on this cache give what
    the whole prompt gives, up to rounding.

    Attributes:
        n_tokens: its length; 0 when there is none.
        cache: keys and values of one sequence; None when there is none.
        why_not: the reason for running whole prompts, in words; None when there is none.
    """

    n_tokens: int = 0
    cache: "Cache | None" = None
    why_not: str | None = None

    def copies(self, n_prompts: int) -> "Cache | None":
        """A cache for a batch, to be used up by one forward pass."""
        if self.cache is None:
            return None
        cache = deepcopy(self.cache)
        cache.batch_repeat_interleave(n_prompts)
        return cache


def run_prefix(
    model: "PreTrainedModel", prompts: Sequence[Sequence[int]], n_positions: int, device: "torch.device"
) -> SharedPrefix:
    """Run the tokens that all prompts begin with, where the model's cache can be shared.

    Args:
        n_positions: how many of the last tokens are to be read; they are never part of the prefix.
        device: where token ids go.
    """
    import torch
    from transformers import DynamicCache

    n_tokens = common_prefix(prompts, n_positions)
    if n_tokens == 0:
        return SharedPrefix(why_not="the prompts share no first token")
    longest = max(map(len, prompts))
    config = model.config.get_text_config()
    if _rotations_change(config, longest):
        return SharedPrefix(why_not=f"rotations change with the length of a prompt (the longest has {longest} tokens)")
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        ids = torch.tensor([prompts[0][:n_tokens]], device=device)
        model.base_model(input_ids=ids, past_key_values=cache, use_cache=True)
    odd = _not_copied(cache, n_tokens)
    return SharedPrefix(why_not=odd) if odd else SharedPrefix(n_tokens, cache)


def common_prefix(prompts: Sequence[Sequence[int]], n_positions: int) -> int:
    """Number of tokens that all prompts begin with, those left out that are among the last n_positions of any."""
    first, last = min(map(tuple, prompts)), max(map(tuple, prompts))  # the two that part earliest
    shared = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return max(0, min(shared, min(map(len, prompts)) - n_positions))


def _not_copied(cache: "Cache", n_tokens: int) -> str | None:
    """Why a cache cannot be copied to a batch: only keys and values of attention, one a token, are known to be."""
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    for layer in cache.layers:
        if type(layer) is not DynamicLayer and type(layer) is not DynamicSlidingWindowLayer:
            return f"the model keeps a {type(layer).__name__} of its past"
        if layer.get_seq_length() != n_tokens:
            return "the model keeps no keys and values of its past"
    return None


def _rotations_change(config: "PretrainedConfig", n_tokens: int) -> bool:
    """Whether a sequence of this length has other rotary positions than its first tokens alone."""
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [kind for kind in rope.values() if isinstance(kind, dict)] or [rope]
    return any(
        kind.get("rope_type") in _GROWING_ROPE
        and n_tokens > (kind.get("original_max_position_embeddings") or config.max_position_embeddings)
        for kind in kinds
    )
