"""Activations from a transformers model by forward hooks: one prompt at a time, or prompts of equal length together."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, cast

from surgery.architecture.entry import Architecture
from surgery.reading.hooks import captured, submodule
from surgery.reading.shared_prefix import SharedPrefix, run_prefix

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class TransformersSource:
    """An `ActivationSource` on a loaded model, on any device or several.

    Args:
        batch_size: prompts of equal length run together, at most this many; 1 runs every prompt alone, in order.
    """

    def __init__(self, model: "PreTrainedModel", entry: Architecture, batch_size: int = 1):
        config = model.config.get_text_config()
        self.n_layers, self.d_model = config.num_hidden_layers, config.hidden_size
        self.dtype = str(model.dtype).removeprefix("torch.")
        self.order = "sequential" if batch_size == 1 else "batches of equal length"
        self._model, self._entry, self._batch_size = model, entry, batch_size
        self._prefix = SharedPrefix()

    def activations(
        self, prompts: Sequence[Sequence[int]], sites: Sequence[str], n_positions: int
    ) -> "Iterator[tuple[int, torch.Tensor]]":
        """See `ActivationSource`."""
        import torch

        device = input_device(self._model)
        if self._batch_size > 1:
            self._prefix = run_prefix(self._model, prompts, n_positions, device)
        spared = last_mlp_at(self._model, self._entry, n_positions) if self._batch_size > 1 else nullcontext()
        with captured(self._model, self._entry, sites, n_positions) as capture, spared, torch.inference_mode():
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
            "devices": devices(self._model),
            "batch_size": self._batch_size,
            "shared_prefix_tokens": self._prefix.n_tokens,
            "whole_prompts_because": self._prefix.why_not,
        }


@contextmanager
def last_mlp_at(model: "PreTrainedModel", entry: Architecture, n_positions: int) -> Iterator[None]:
    """Let the last block's MLP run at the last tokens only while the context lasts: nobody reads the others.

    A token's MLP output depends on that token alone, so that of the last ones stays as it was; at the others it is zero.
    """
    import torch

    mlp = submodule(model, entry.block(model.config.get_text_config().num_hidden_layers - 1))
    mlp = submodule(mlp, entry.mlp.module.rpartition(".")[0])
    widths: list[int] = []

    def cut(_module: Any, args: Any) -> Any:
        widths.append(args[0].shape[1])
        return (args[0][:, -n_positions:].contiguous(), *args[1:])  # some blocks view their input as rows

    def widen(_module: Any, _args: Any, output: Any) -> Any:
        return torch.nn.functional.pad(output, (0, 0, widths.pop() - output.shape[1], 0))

    handles = [mlp.register_forward_pre_hook(cut), mlp.register_forward_hook(widen)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def input_device(model: "PreTrainedModel") -> "torch.device":
    """Where a model takes token ids: where its embedding computes, which is not where its weights rest if offloaded."""
    import torch

    embedding = model.get_input_embeddings()
    hook = getattr(embedding, "_hf_hook", None)
    running = getattr(hook, "execution_device", None)
    return torch.device(running) if running is not None else cast("torch.Tensor", embedding.weight).device


def devices(model: "PreTrainedModel") -> list[str]:
    """Where the weights rest: "cpu", "cuda:0", "disk" …"""
    placed = getattr(model, "hf_device_map", None) or {"": model.device}
    return sorted({f"cuda:{device}" if isinstance(device, int) else str(device) for device in placed.values()})


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
