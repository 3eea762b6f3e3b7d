"""Activations from a transformers model by forward hooks: one prompt at a time, or prompts of equal length together."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from surgery.families import Family
from surgery.hooks import captured

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

    def activations(
        self, prompts: Sequence[Sequence[int]], sites: Sequence[str], n_positions: int
    ) -> "Iterator[tuple[int, torch.Tensor]]":
        """See `ActivationSource`."""
        import torch

        with captured(self._model, self._family, sites, n_positions) as capture, torch.inference_mode():
            for batch in equal_lengths(prompts, self._batch_size):
                ids = torch.tensor([prompts[index] for index in batch], device=self._model.device)
                self._model.base_model(input_ids=ids, use_cache=False)  # without the unembedding, which nobody reads
                resid = capture.take().float()
                yield from ((index, resid[:, :, row]) for row, index in enumerate(batch))

    def header(self) -> dict[str, Any]:
        """See `ActivationSource`."""
        return {"engine": "transformers"}


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
