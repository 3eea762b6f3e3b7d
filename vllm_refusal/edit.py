"""The affine edit of the residual stream, as it runs inside the compiled graph.

x' = x + (C - A * (x B^T)) B      (DESIGN: one operator; ablation x - alpha (x B^T) B is Arditi et al. 2024,
                                   arXiv:2406.11717, rank k; C = alpha * offset makes it affine)

B, the bank, stacks the bases of all modules; A and C hold, for each token, the coefficients of its request's slot and are
zero in the rows of other modules. Two thin products with B serve any mixture of interventions in one batch.
"""

import torch
from torch import nn


class ResidualEdit(nn.Module):
    """The edit of one site of one decoder block.

    Buffers (views of tables that the runner writes before each step; addresses never change):
        bank: [rank, d_model] float32, shared by all sites.
        slot: [max_num_tokens] int64, the slot of each token of the batch; 0 is no intervention.
        scale: [n_slots, rank] float32, A by slot. shift: [n_slots, rank] float32, C by slot, or None when no module has
            an offset. active: [n_slots, 1] bool, whether the slot edits this site of this block.
    """

    def __init__(
        self,
        bank: torch.Tensor,
        slot: torch.Tensor,
        scale: torch.Tensor,
        shift: torch.Tensor | None,
        active: torch.Tensor,
    ):
        super().__init__()
        for name, tensor in (("bank", bank), ("slot", slot), ("scale", scale), ("shift", shift), ("active", active)):
            self.register_buffer(name, tensor, persistent=False)

    def edited(self, resid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Edit a residual stream or a write to it.

        Args:
            resid: [n_tokens, d_model], the model's dtype; not modified.
        Returns: (x' [n_tokens, d_model] in resid's dtype, float32 inside and rounded once; active [n_tokens, 1] bool).
        """
        slot = self.slot[: resid.shape[0]]
        x = resid.float()
        coefficients = -self.scale[slot] * (x @ self.bank.T)
        if self.shift is not None:
            coefficients = coefficients + self.shift[slot]
        return (x + coefficients @ self.bank).to(resid.dtype), self.active[slot]

    def on_sum(self, hidden: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Edit a stream that vLLM holds as two addends.

        An edited row becomes (x', 0): writing hidden - delta would round at the size of delta. Other rows keep both
        addends bit for bit.
        """
        edited, active = self.edited(hidden + residual)
        return torch.where(active, edited, hidden), torch.where(active, torch.zeros_like(residual), residual)

    def on_single(self, resid: torch.Tensor) -> torch.Tensor:
        """Edit a stream or a write held as one tensor; rows without an intervention stay bit for bit."""
        edited, active = self.edited(resid)
        return torch.where(active, edited, resid)
