"""Where activations come from: what extraction asks of whatever runs the model."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch


@runtime_checkable
class ActivationSource(Protocol):
    """Runs token ids through a model and gives the residual stream at their last tokens.

    Attributes:
        dtype: what the model computes in, e.g. "bfloat16"; for records and messages.
        n_layers, d_model: shape of what it gives.
        order: how prompts are run, in words, e.g. "sequential".
    """

    dtype: str
    n_layers: int
    d_model: int
    order: str

    def activations(
        self, prompts: Sequence[Sequence[int]], sites: Sequence[str], n_positions: int
    ) -> "Iterator[tuple[int, torch.Tensor]]":
        """Run every prompt once, in any order.

        Args:
            prompts: token ids, as the chat template renders them.
            sites: of `hooks.RESID_SITES`.
            n_positions: how many of the last tokens are read; no prompt is shorter.
        Returns: (index of the prompt, [n_sites, n_layers, n_positions, d_model] float32 on the CPU), one after another;
            the last position is the prompt's last token.
        Raises: ModelError when the model has no such site.
        """
        ...

    def header(self) -> dict[str, Any]:
        """What records say of it, in plain JSON types: engine, devices …; after the prompts have run."""
        ...
