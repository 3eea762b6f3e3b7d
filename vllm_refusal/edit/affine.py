"""The affine edit of the residual stream, as it runs inside the compiled graph.

x' = x + alpha * sum_k (c_k - x . b_k) b_k    (ablation: Arditi et al. 2024, arXiv:2406.11717, at rank k; c = 0 removes,
                                               c = a reference projection clamps to it)

Each token gathers the basis of its own request's module, so that any mixture of interventions runs in one batch at the
same cost. The products are row sums rather than a matrix product: a row's result then does not depend, at any rank and
not even in its last bit, on which other requests share the batch; and one matrix product with the directions of all
modules is no faster at ranks 1 to 64 (benchmarks/arithmetic.py). The compiler fuses the gather into both sums, so that
no [n_tokens, rank, d_model] is ever written. On a GPU with Triton one kernel does the same, row by row.
"""

from importlib.util import find_spec

import torch
from torch import nn

from vllm_refusal.edit.saturation import largest

EAGER_CHUNK = 2**17
"""Numbers that an uncompiled edit gathers at a time (512 KiB, which stays in a core's cache)."""


class ResidualEdit(nn.Module):
    """The edit of one site of one decoder block.

    Buffers (shared tables that the runner writes before each step; their addresses never change):
        slot: [max_num_tokens] int64, the slot of each token of the batch; 0 is no intervention.
        module_of_slot: [n_slots] int64, row of `bases` and `offsets`; 0 is all zeros.
        bases: [n_modules + 1, rank, d_model] float32, orthonormal rows, padded with zero rows to the largest rank.
        offsets: [n_modules + 1, rank] float32, reference projections c.
        alpha: [n_slots] float32, strength at this site of this block; 0 leaves a token alone.

    Attributes:
        in_kernel: the edit runs in the Triton kernel, which writes into its arguments.
    """

    slot: torch.Tensor
    module_of_slot: torch.Tensor
    bases: torch.Tensor
    offsets: torch.Tensor
    alpha: torch.Tensor

    def __init__(
        self,
        slot: torch.Tensor,
        module_of_slot: torch.Tensor,
        bases: torch.Tensor,
        offsets: torch.Tensor,
        alpha: torch.Tensor,
    ):
        super().__init__()
        tables = {"slot": slot, "module_of_slot": module_of_slot, "bases": bases, "offsets": offsets, "alpha": alpha}
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)
        self.in_kernel = bases.is_cuda and load_kernel()

    def on_sum(self, hidden: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Edit a stream that vLLM holds as two addends.

        An edited row becomes (x', 0): writing hidden - delta would round at the size of delta. Other rows keep both
        addends bit for bit.

        Args:
            hidden, residual: [n_tokens, d_model], the model's dtype. Use what is returned in their place: the kernel
                writes into them, the plain form does not.
        Returns: the two addends; the sum and the edit are float32 inside and are rounded once.
        """
        if self.in_kernel:
            torch.ops.vllm_refusal.edit_sum_(hidden, residual, *self._tables())
            return hidden, residual
        if self._is_idle(hidden):
            return hidden, residual
        edited, active = self._edited(hidden.float() + residual.float(), largest(hidden.dtype))
        return torch.where(active, edited.to(hidden.dtype), hidden), residual.masked_fill(active, 0)

    def on_single(self, resid: torch.Tensor) -> torch.Tensor:
        """Edit a stream or a write held as one tensor, as `on_sum`; rows without an intervention stay bit for bit.

        Args:
            resid: [n_tokens, d_model], or [1, n_tokens, d_model] as vLLM runs models of transformers.
        """
        rows = resid.view(-1, resid.shape[-1])
        if self.in_kernel:
            torch.ops.vllm_refusal.edit_single_(rows, *self._tables())
            return resid
        if self._is_idle(rows):
            return resid
        edited, active = self._edited(rows.float(), largest(resid.dtype))
        return torch.where(active, edited.to(resid.dtype), rows).view(resid.shape)

    def _tables(self) -> tuple[torch.Tensor, ...]:
        return self.slot, self.module_of_slot, self.bases, self.offsets, self.alpha

    def _is_idle(self, resid: torch.Tensor) -> bool:
        """Whether no token is edited here; asked only where the answer costs no wait and is not frozen in a graph."""
        if torch.compiler.is_compiling() or resid.is_cuda:
            return False
        return not self.alpha[self.slot[: resid.shape[0]]].any()

    def _edited(self, x: torch.Tensor, bound: float) -> tuple[torch.Tensor, torch.Tensor]:
        """x' of x, both [n_tokens, d_model] float32, and [n_tokens, 1] bool: which rows have an intervention.

        x' saturates at +-bound: a number that is not finite would stay in the keys and values of its block and reach
        whoever is given that block next, for a masked position times NaN is NaN.
        """
        slot = self.slot[: x.shape[0]]
        alpha = self.alpha[slot].unsqueeze(-1)
        edited = x + alpha * self._change(x, self.module_of_slot[slot])
        return edited.clamp(-bound, bound), alpha != 0

    def _change(self, x: torch.Tensor, module: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_compiling():
            return _change(x, self.bases, self.offsets, module)
        n_rows = max(1, EAGER_CHUNK // self.bases[0].numel())
        if len(x) <= n_rows:
            return _change(x, self.bases, self.offsets, module)
        chunks = zip(x.split(n_rows), module.split(n_rows), strict=True)
        return torch.cat([_change(rows, self.bases, self.offsets, own) for rows, own in chunks])


def _change(x: torch.Tensor, bases: torch.Tensor, offsets: torch.Tensor, module: torch.Tensor) -> torch.Tensor:
    """sum_k (c_k - x . b_k) b_k, with each row's own basis and offset: [n_tokens, d_model] float32."""
    basis = bases.index_select(0, module)  # [n_tokens, rank, d_model]
    missing = offsets.index_select(0, module) - (x.unsqueeze(1) * basis).sum(-1)
    return basis.mul_(missing.unsqueeze(-1)).sum(1)  # in place: half of the time of an uncompiled edit is memory


def load_kernel() -> bool:
    """Register the Triton kernel's operators. Returns False where Triton is not installed."""
    if find_spec("triton") is None:
        return False
    import vllm_refusal.edit.triton  # noqa: F401  (importing it registers the operators)

    return True
