"""Families whose attention and MLP pass a norm before they are added: bases mapped through its gain, per layer and norm."""

import torch
from torch import nn

from surgery.residual.gains import removal
from surgery.residual.sites import WRITES
from vllm_refusal.settings.modules import AblationConfig, AblationModule


class PostNormBases:
    """Bases of the edits at site "writes" that stand before a post-norm.

    What is removed from the raw output is the subspace mapped through the norm's gain (`surgery.residual.gains`), so that runtime
    ablation of the writes equals the edited checkpoint. The gains are known only when the weights are loaded.
    """

    def __init__(self, config: AblationConfig, bases: torch.Tensor):
        """Args: bases: [n_modules + 1, rank, d_model] float32 of the stream, padded with zero rows; module 0 is none."""
        self._config, self._bases = config, bases
        self._norms: list[tuple[torch.Tensor, nn.Module, float]] = []
        self._filled = False

    def add(self, norm: nn.Module, gain_offset: float) -> torch.Tensor:
        """The bases before one norm, zero until `fill`.

        Args:
            gain_offset: added to the norm's weight to give its gain (Gemma: 1).
        Returns: a tensor like the stream's bases, which is written in place.
        """
        mapped = torch.zeros_like(self._bases)
        self._norms.append((mapped, norm, gain_offset))
        return mapped

    def fill(self) -> int:
        """Map the bases of all modules that use the site, once the weights are loaded. Returns the number of norms.

        Raises: ModelError, as `removal`.
        """
        for row, module in enumerate(self._config.modules.values(), start=1):
            self.write(row, module)
        self._filled = True
        return len(self._norms)

    def write(self, row: int, module: AblationModule) -> None:
        """Map one module's basis through the gain of every norm into its row; only where the module uses the site.

        Raises: ModelError, as `removal`, before any row is written.
        """
        if module.site != WRITES:
            return
        bases = [removal(module.basis, _gain(norm, offset)).basis for _, norm, offset in self._norms]
        for (mapped, _, _), basis in zip(self._norms, bases, strict=True):
            mapped[row].zero_()
            mapped[row, : module.rank] = basis.to(mapped.device)

    def check_filled(self) -> None:
        """Raises: RuntimeError when an edit would run with bases that were never mapped: it would change nothing."""
        if self._norms and not self._filled:
            raise RuntimeError(
                "the gains of the norms behind attention and MLP were never read, so site 'writes' cannot be applied; "
                "the weights were loaded by a --load-format that vLLM does not report as finished"
            )

    def check_not_filled(self) -> None:
        """Raises: RuntimeError when weights are loaded again: vLLM does not tell when the new gains can be read."""
        if self._norms and self._filled:
            raise RuntimeError(
                "weights cannot be replaced while site 'writes' is in use before post-norms, whose gains its bases depend "
                "on; start the engine again"
            )


def _gain(norm: nn.Module, gain_offset: float) -> torch.Tensor:
    return norm.get_parameter("weight").detach().float().cpu() + gain_offset
