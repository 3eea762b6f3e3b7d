"""How two subspaces, or two files of refusal vectors, lie to each other."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.console.errors import MismatchError
from surgery.files.artifacts import load_artifact
from surgery.residual.subspace import KIND as SUBSPACE
from surgery.residual.subspace import Subspace
from surgery.residual.vectors import KIND as VECTORS
from surgery.residual.vectors import RefusalVectors

if TYPE_CHECKING:
    import torch


def principal_angles(a: "torch.Tensor", b: "torch.Tensor") -> "torch.Tensor":
    """Angles between two subspaces, smallest first, in radians.

    cos(theta_k) are the singular values of A B^T; small angles are taken from the sines of the part of B outside A,
    which keep their digits where the cosine has lost them   (Bjorck & Golub 1973, Math. Comp. 27(123), section 3)

    Args:
        a, b: [rank, d_model], float32 orthonormal rows; the ranks may differ.
    Returns: [min(rank)], float64, each in 0..pi/2.
    Raises: MismatchError when d_model differs.
    """
    import torch

    if a.shape[1] != b.shape[1]:
        raise MismatchError(
            f"one subspace has d_model {a.shape[1]}, the other {b.shape[1]}; compare those of one model"
        )
    larger, smaller = (a, b) if len(a) >= len(b) else (b, a)
    q, p = (torch.linalg.qr(rows.double().T).Q for rows in (larger, smaller))
    cosines = torch.linalg.svdvals(q.T @ p).clamp(0, 1)
    sines = torch.linalg.svdvals(p - q @ (q.T @ p)).clamp(0, 1).flip(0)
    return torch.where(cosines**2 < 0.5, cosines.arccos(), sines.arcsin())


def compare(first: Path | str, second: Path | str) -> dict[str, Any]:
    """Compare two files, each of refusal vectors or of a subspace, in plain JSON types.

    Returns: {kind: "comparison", first, second, and of two files of vectors: cosine [n_layers] (null where a vector is
        zero); of two subspaces: angles_degrees [min(rank)]; of one each: share_inside [n_layers], the part of each
        vector's squared length that lies in the subspace}.
    Raises: ArtifactError, ShapeError, MismatchError when the shapes differ.
    """
    a, b = _load(first), _load(second)
    found: dict[str, Any] = {"kind": "comparison", "first": str(first), "second": str(second)}
    if isinstance(a, Subspace) and isinstance(b, Subspace):
        angles = principal_angles(a.basis, b.basis)
        return found | {"angles_degrees": [math.degrees(angle) for angle in angles.tolist()]}
    if a.d_model != b.d_model:
        raise MismatchError(f"{first} has d_model {a.d_model}, {second} has {b.d_model}; compare files of one model")
    if isinstance(a, RefusalVectors) and isinstance(b, RefusalVectors):
        return found | {"cosine": _cosines(a, b)}
    vectors, subspace = (a, b) if isinstance(a, RefusalVectors) else (b, a)
    wide = vectors.vectors.double()
    inside = ((wide @ subspace.basis.double().T) ** 2).sum(1) / (wide**2).sum(1)
    return found | {"share_inside": inside.tolist()}


def render_comparison(found: Mapping[str, Any]) -> str:
    """A comparison as text to be read."""
    lines = [f"{found['first']} against {found['second']}"]
    if "angles_degrees" in found:
        lines += [f"{'angle':>5} {'degrees':>9}", *_rows(found["angles_degrees"], ".3f")]
    elif "cosine" in found:
        lines += [f"{'layer':>5} {'cosine':>9}", *_rows(found["cosine"], ".4f")]
    else:
        lines += [f"{'layer':>5} {'inside':>9}", *_rows(found["share_inside"], ".4f")]
    return "\n".join(lines)


def _rows(values: list[float | None], form: str) -> list[str]:
    return [f"{index:>5} {'-' if value is None else format(value, form):>9}" for index, value in enumerate(values)]


def _cosines(a: RefusalVectors, b: RefusalVectors) -> list[float | None]:
    if a.n_layers != b.n_layers:
        raise MismatchError(f"one file has vectors of {a.n_layers} layers, the other of {b.n_layers}")
    first, second = a.vectors.double(), b.vectors.double()
    norms = (first.norm(dim=1) * second.norm(dim=1)).tolist()
    return [dot / norm if norm else None for dot, norm in zip((first * second).sum(1).tolist(), norms, strict=True)]


def _load(path: Path | str) -> RefusalVectors | Subspace:
    header, tensors = load_artifact(path, (VECTORS, SUBSPACE))
    kind = Subspace if "basis" in tensors and "vectors" not in tensors else RefusalVectors
    return kind.from_tensors(tensors, header, str(path))
