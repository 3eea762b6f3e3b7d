"""Activations from a transformers model by forward hooks: one prompt at a time, or prompts of equal length together."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from surgery.families import Family
from surgery.hooks import captured
from surgery.shared_prefix import SharedPrefix, run_prefix

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class TransformersSource:
    """An `ActivationSource` on a loaded model, on any device or several.

    Args:
        batch_size: prompts of equal length run together, at most this many; 1 runs every prompt alone, in order.
    """

    def __init__(self, model: "PreTrainedModel", family: Family, batch_size: int = 1):
        config = model.config.get_text_config()
        self.n_layers, self.d_model = config.num_hidden_layers, config.hidden_size
        self.dtype = str(model.dtype).removeprefix("torch.")
        self.order = "sequential" if batch_size == 1 else "batches of equal length"
        self._model, self._family, self._batch_size = model, family, batch_size
        self._prefix = SharedPrefix()

    def activations(
        self, prompts: Sequence[Sequence[int]], sites: Sequence[str], n_positions: int
    ) -> "Iterator[tuple[int, torch.Tensor]]":
        """See `ActivationSource`."""
        import torch

        device = input_device(self._model)
        if self._batch_size > 1:
            self._prefix = run_prefix(self._model, prompts, n_positions, device)
        with captured(self._model, self._family, sites, n_positions) as capture, torch.inference_mode():
            for batch in equal_lengths(prompts, self._batch_size):
                ids = torch.tensor([prompts[index][self._prefix.n_tokens :] for index in batch], device=device)
                cache = self._prefix.copies(len(batch))
                # the body without the unembedding, which nobody reads
                self._model.base_model(input_ids=ids, past_key_values=cache, use_cache=cache is not None)
                resid = capture.take().float()
                yield from ((index, resid[:, :, row]) for row, index in enumerate(batch))

    def header(self) -> dict[str, Any]:
        """See `ActivationSource`."""
        return {
            "engine": "transformers",
            "batch_size": self._batch_size,
            "shared_prefix_tokens": self._prefix.n_tokens,
            "whole_prompts_because": self._prefix.why_not,
        }


def input_device(model: "PreTrainedModel") -> "torch.device":
    """Where a model takes token ids: where its embedding computes, which is not where its weights rest if offloaded."""
    import torch

    embedding = model.get_input_embeddings()
    hook = getattr(embedding, "_hf_hook", None)
    running = getattr(hook, "execution_device", None)
    return torch.device(running) if running is not None else embedding.weight.device


def equal_lengths(prompts: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Indices of prompts of equal token length together, so that a batch needs no padding; in order at size 1."""
    if batch_size == 1:
        yield from ([index] for index in range(len(prompts)))
        return
    by_length: dict[int, list[int]] = {}
    for index, ids in enumerate(prompts):
        by_length.setdefault(len(ids), []).append(index)
    for length in sorted(by_length, reverse=True):  # the longest first: too little memory shows at once
        same = by_length[length]
        yield from (same[start : start + batch_size] for start in range(0, len(same), batch_size))
