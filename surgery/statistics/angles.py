"""How two subspaces, or two files of refusal vectors, lie to each other."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from scipy.linalg import subspace_angles

from surgery.console.errors import MismatchError
from surgery.console.table import table
from surgery.residual.subspace import Subspace, load_vectors_or_subspace
from surgery.residual.vectors import RefusalVectors

_COMPARED = (
    ("angles_degrees", "angle", "degrees", ".3f"),
    ("cosine", "layer", "cosine", ".4f"),
    ("share_inside", "layer", "inside", ".4f"),
)


def principal_angles(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Angles between two subspaces, smallest first, in radians; small ones keep their digits.

    (Bjorck & Golub 1973, Math. Comp. 27(123), section 3; Knyazev & Argentati 2002, SIAM J. Sci. Comput. 23(6))

    Args:
        a, b: [rank, d_model], float32 orthonormal rows; the ranks may differ.
    Returns: [min(rank)], float64, each in 0..pi/2.
    Raises: MismatchError when d_model differs.
    """
    if a.shape[1] != b.shape[1]:
        raise MismatchError(
            f"one subspace has d_model {a.shape[1]}, the other {b.shape[1]}; compare those of one model"
        )
    angles = subspace_angles(*(rows.double().numpy().T for rows in (a, b)))
    return torch.from_numpy(angles[::-1].copy())


def compare(first: Path | str, second: Path | str) -> dict[str, Any]:
    """Compare two files, each of refusal vectors or of a subspace, in plain JSON types.

    Returns: {kind: "comparison", first, second, and of two files of vectors: cosine [n_layers] (null where a vector is
        zero); of two subspaces: angles_degrees [min(rank)]; of one each: share_inside [n_layers], the part of each
        vector's squared length that lies in the subspace}.
    Raises: ArtifactError, ShapeError, MismatchError when the shapes differ.
    """
    a, b = load_vectors_or_subspace(first), load_vectors_or_subspace(second)
    found: dict[str, Any] = {"kind": "comparison", "first": str(first), "second": str(second)}
    if isinstance(a, Subspace) and isinstance(b, Subspace):
        angles = principal_angles(a.basis, b.basis)
        return found | {"angles_degrees": [math.degrees(angle) for angle in angles.tolist()]}
    if a.d_model != b.d_model:
        raise MismatchError(f"{first} has d_model {a.d_model}, {second} has {b.d_model}; compare files of one model")
    if isinstance(a, RefusalVectors) and isinstance(b, RefusalVectors):
        return found | {"cosine": _cosines(a, b)}
    (basis,) = (each.basis.double() for each in (a, b) if isinstance(each, Subspace))
    (wide,) = (each.vectors.double() for each in (a, b) if isinstance(each, RefusalVectors))
    inside = ((wide @ basis.T) ** 2).sum(1) / (wide**2).sum(1)
    return found | {"share_inside": inside.tolist()}


def render_comparison(found: Mapping[str, Any]) -> str:
    """A comparison as text to be read."""
    key, index, heading, form = next(each for each in _COMPARED if each[0] in found)
    cells = [None if value is None else format(value, form) for value in found[key]]
    lines = table([(index, ">5"), (heading, ">9")], enumerate(cells), gap=" ")
    return "\n".join([f"{found['first']} against {found['second']}", *lines])


def _cosines(a: RefusalVectors, b: RefusalVectors) -> list[float | None]:
    if a.n_layers != b.n_layers:
        raise MismatchError(f"one file has vectors of {a.n_layers} layers, the other of {b.n_layers}")
    first, second = a.vectors.double(), b.vectors.double()
    norms = (first.norm(dim=1) * second.norm(dim=1)).tolist()
    return [dot / norm if norm else None for dot, norm in zip((first * second).sum(1).tolist(), norms, strict=True)]
