"""vLLM's LoRA in an engine with edits: adapters reach edited linear maps, and tokens without an adapter get none."""

import functools
from typing import Any

import torch

from vllm_refusal.compatibility.wrapping import wrap
from vllm_refusal.model.edited_modules import edit_writes, take_edit


@functools.cache
def install() -> None:
    """Mend vLLM's wrapping of linear maps and its LoRA kernel of the CPU; once per process.

    LoRA takes linear maps of exactly vLLM's own classes and passes over ours. The kernel of the CPU reads the index of
    a token without an adapter, -1, as that of the last one.
    """
    wrap("vllm.lora.model_manager:from_layer", _under_edits)
    for module in ("vllm.lora.punica_wrapper.punica_cpu", "vllm.lora.ops.torch_ops.lora_ops"):  # which it imports from
        for name in ("bgmv_expand", "bgmv_expand_slice"):
            wrap(f"{module}:{name}", _sparing_tokens_without_adapter)


def _under_edits(original: Any) -> Any:
    """`from_layer` that sets an edit aside and puts it behind the map with its adapters: what is written is their sum."""

    @functools.wraps(original)
    def from_layer(layer: Any, *args: Any, **kwargs: Any) -> Any:
        edit = take_edit(layer)
        adapted = original(layer, *args, **kwargs)
        if edit is not None:
            edit_writes(adapted, edit)
        return adapted

    return from_layer


def _sparing_tokens_without_adapter(original: Any) -> Any:
    """The second product, y += B (A x), with zeros for A x of tokens whose index is negative.

    inputs: [n_tokens, rank]; indices: [n_tokens] int64, the adapter of each token, -1 for none.
    """

    @functools.wraps(original)
    def expand(
        inputs: torch.Tensor, weights: torch.Tensor, output: torch.Tensor, indices: torch.Tensor, *args: Any, **kw: Any
    ) -> None:
        own = inputs.masked_fill((indices < 0).unsqueeze(-1), 0)
        return original(own, weights, output, indices, *args, **kw)

    return expand
