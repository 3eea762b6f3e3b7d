"""The affine edit of the residual stream, as it runs inside the compiled graph.

x' = x + alpha * sum_k (c_k - x . b_k) b_k    (ablation: Arditi et al. 2024, arXiv:2406.11717, at rank k; c = 0 removes,
                                               c = a reference projection clamps to it)

Each token gathers the basis of its own request's module, so that any mixture of interventions runs in one batch at the
same cost. The products are row sums rather than a matrix product: a row's result then does not depend, not even in its
last bit, on which other requests share the batch.
"""

import torch
from torch import nn


class ResidualEdit(nn.Module):
    """The edit of one site of one decoder block.

    Buffers (shared tables that the runner writes before each step; their addresses never change):
        slot: [max_num_tokens] int64, the slot of each token of the batch; 0 is no intervention.
        module_of_slot: [n_slots] int64, row of `bases` and `offsets`; 0 is all zeros.
        bases: [n_modules + 1, rank, d_model] float32, orthonormal rows, padded with zero rows to the largest rank.
        offsets: [n_modules + 1, rank] float32, reference projections c.
        alpha: [n_slots] float32, strength at this site of this block; 0 leaves a token alone.
    """

    def __init__(
        self,
        slot: torch.Tensor,
        module_of_slot: torch.Tensor,
        bases: torch.Tensor,
        offsets: torch.Tensor,
        alpha: torch.Tensor,
    ):
        super().__init__()
        self.register_buffer("slot", slot, persistent=False)
        self.register_buffer("module_of_slot", module_of_slot, persistent=False)
        self.register_buffer("bases", bases, persistent=False)
        self.register_buffer("offsets", offsets, persistent=False)
        self.register_buffer("alpha", alpha, persistent=False)
        self.rank = bases.shape[1]

    def edited(self, resid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Edit a residual stream or a write to it.

        Args:
            resid: [..., d_model], the model's dtype, with one row for each token of the batch; not modified.
        Returns: (x' like resid, float32 inside and rounded once; [..., 1] bool, which rows have an intervention here).
        """
        x = resid.flatten(0, -2).float()
        slot = self.slot[: x.shape[0]]
        module = self.module_of_slot[slot]
        alpha = self.alpha[slot].unsqueeze(-1)
        change = torch.zeros_like(x)
        for k in range(self.rank):  # unrolled in the compiled graph
            direction = self.bases[module, k]
            projection = (x * direction).sum(-1, keepdim=True)
            change = change + (self.offsets[module, k].unsqueeze(-1) - projection) * direction
        edited = (x + alpha * change).to(resid.dtype).view_as(resid)
        return edited, (alpha != 0).view(*resid.shape[:-1], 1)

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
