"""Post-norms: what to remove from a matrix whose output is scaled by a norm's gain before it joins the residual stream."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from surgery.console.errors import ModelError
from surgery.residual.subspace import orthonormal_basis

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Removal:
    """How one matrix, whose outputs are z, is edited so that a subspace of the residual stream is ablated.

    Attributes:
        basis: [rank, d_model], float32, orthonormal rows: the subspace removed from z.
        probe: [rank, d_model], float32: probe @ z is the component that reaches the stream's subspace, up to the post-norm's
            division by the root mean square of z. The same as `basis` where there is no post-norm.
    """

    basis: "torch.Tensor"
    probe: "torch.Tensor"


def removal(basis: "torch.Tensor", gain: "torch.Tensor | None" = None) -> Removal:
    """What to remove from the outputs of a matrix so that the stream's subspace Q (rows of `basis`) is ablated.

    Where a post-norm follows (Gemma 2 and 3, OLMo 2), the stream receives y = gain * z / rms(z), so Q y = (Q gain) z / rms(z):
    the rows of Q times the gain, made orthonormal again, are removed from z. At alpha 1 y is then orthogonal to Q; removing
    Q itself is not enough, because the gain turns part of what is left back into it.

    Args:
        basis: [rank, d_model], float32, orthonormal rows.
        gain: [d_model], what the post-norm multiplies with (Gemma: 1 + its weight); None where there is none.
    Raises: ModelError when the gain is not finite, or takes dimensions of the subspace away altogether.
    """
    if gain is None:
        return Removal(basis, basis)
    probe = basis.double() * gain.double().to(basis.device)
    if not probe.isfinite().all() or (probe.norm(dim=1) == 0).any():
        raise ModelError(
            "a post-norm's gain is not finite or zero along the subspace; the model cannot be edited with it"
        )
    mapped = orthonormal_basis(probe)
    if mapped.shape != basis.shape:
        raise ModelError(
            f"a post-norm's gain leaves {len(mapped)} of {len(basis)} dimensions of the subspace independent"
        )
    return Removal(mapped, probe.float())
