"""The reference operator: what every implementation of an ablation must equal."""

import math
from numbers import Real
from typing import TYPE_CHECKING

from surgery.console.errors import AlphaError, ShapeError

if TYPE_CHECKING:
    import torch


def ablate(resid: "torch.Tensor", basis: "torch.Tensor", alpha: float = 1.0) -> "torch.Tensor":
    """Remove the part of the residual stream that lies in a subspace.

    x' = x - alpha * (x B^T) B            (Arditi et al. 2024, arXiv:2406.11717, eq. 4; rank k)

    Args:
        resid: [..., d_model], any float dtype; not modified.
        basis: [rank, d_model], float32, orthonormal rows, on the device of `resid`.
        alpha: 0 returns `resid` bit for bit, 1 removes all of it, 1.5 over-projects.
    Returns: same shape and dtype; the products run in float32 (float64 for float64 input) and round once.
    Raises: ShapeError when d_model differs, AlphaError when alpha is not finite.
    """
    return ablate_affine(resid, basis, None, alpha)


def ablate_affine(
    resid: "torch.Tensor", basis: "torch.Tensor", offset: "torch.Tensor | None", alpha: float = 1.0
) -> "torch.Tensor":
    """Move the part of the residual stream that lies in a subspace towards a reference point.

    x' = x - alpha * (x B^T - c) B        (affine concept editing: Marshall et al. 2024, arXiv:2411.09003)

    Args:
        offset: [rank], float32: c, the reference's coordinates in the basis; None is zero, the plain ablation.
        resid, basis, alpha: as in `ablate`.
    Returns, Raises: as `ablate`.
    """
    import torch

    _check_shapes(resid, basis, offset)
    if check_alpha(alpha) == 0:
        return resid
    wide = torch.promote_types(resid.dtype, torch.float32)
    x, rows = resid.to(wide), basis.to(wide)
    coordinates = x @ rows.T
    if offset is not None:
        coordinates = coordinates - offset.to(wide)
    return (x - alpha * (coordinates @ rows)).to(resid.dtype)


def check_alpha(alpha: float) -> float:
    """The strength as a float. Raises: AlphaError when it is not a finite number."""
    try:
        number = math.nan if isinstance(alpha, bool) or not isinstance(alpha, Real) else float(alpha)
    except OverflowError:  # an integer beyond the range of floats; too long to be shown
        raise AlphaError(
            "alpha must be a finite number such as 0.5, 1 or 1.5, found one of hundreds of digits"
        ) from None
    if not math.isfinite(number):
        raise AlphaError(f"alpha must be a finite number such as 0.5, 1 or 1.5, found {alpha!r:.60}")
    return number


def _check_shapes(resid: "torch.Tensor", basis: "torch.Tensor", offset: "torch.Tensor | None") -> None:
    if basis.ndim != 2:
        raise ShapeError(f"basis must be [rank, d_model], found shape {list(basis.shape)}")
    if resid.ndim == 0 or resid.shape[-1] != basis.shape[1]:
        raise ShapeError(f"basis has d_model {basis.shape[1]} but the residual stream has shape {list(resid.shape)}")
    if offset is not None and tuple(offset.shape) != (basis.shape[0],):
        raise ShapeError(f"offset must be [{basis.shape[0]}], one number per basis row, found {list(offset.shape)}")
