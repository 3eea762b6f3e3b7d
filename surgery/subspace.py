"""Subspaces of the residual stream, as orthonormal bases."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.artifacts import file_sha256, load_artifact, save_artifact, shortened
from surgery.errors import ArtifactError, ShapeError
from surgery.layers import LayerSpec, parse_layers
from surgery.vectors import KIND as VECTORS_KIND
from surgery.vectors import RefusalVectors

if TYPE_CHECKING:
    import torch

KIND = "subspace"
RANK_TOLERANCE = 1e-4  # of a unit vector, left after the earlier ones: below it float32 noise decides the direction
ORTHONORMAL_TOLERANCE = 1e-4  # a float32 QR stays below 1e-5; anything above is not a basis


@dataclass(frozen=True, eq=False)
class Subspace:
    """A subspace to be removed.

    Attributes:
        basis: [rank, d_model], float32, orthonormal rows.
        source_layers: the decoder blocks whose RVs span it; empty for a random one.
        header: provenance: model (ModelInfo as JSON) and how the basis was made.
    Raises: ShapeError, ArtifactError (rows not orthonormal) on construction.
    """

    basis: "torch.Tensor"
    source_layers: tuple[int, ...] = ()
    header: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_orthonormal(self.basis)

    @property
    def rank(self) -> int:
        """Dimension of the subspace."""
        return self.basis.shape[0]

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.basis.shape[1]

    @classmethod
    def from_vectors(cls, rvs: RefusalVectors, layers: LayerSpec) -> "Subspace":
        """The span of the RVs of several layers, by QR of their unit vectors.

        The header's `dropped_layers` names those whose RV lies in the span of the others before it.
        Raises: LayerRangeError, ArtifactError when an RV is zero.
        """
        import torch

        source = parse_layers(layers, rvs.n_layers)
        units = torch.stack([rvs.direction(layer) for layer in source])
        kept = independent_rows(units)
        header = {
            key: rvs.header[key]
            for key in ("model", "prompts_sha256", "chat_template_sha256", "n_pairs", "position")
            if key in rvs.header
        }
        dropped = [layer for row, layer in enumerate(source) if row not in kept]
        header |= {"method": "QR of unit refusal vectors", "dropped_layers": dropped}
        return cls(orthonormal_basis(units[kept]), source, header)

    def save(self, path: Path | str, force: bool = False) -> Path:
        """Write as safetensors; see `save_artifact` for errors."""
        header = {**self.header, "source_layers": list(self.source_layers), "rank": self.rank}
        return save_artifact(path, KIND, {"basis": self.basis}, header, force)

    @classmethod
    def load(cls, path: Path | str) -> "Subspace":
        """Read what `save` wrote, or any safetensors file with a tensor `basis`. Raises: ArtifactError, ShapeError."""
        header, tensors = load_artifact(path, (KIND,))
        return cls.from_tensors(tensors, header, str(path))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, "torch.Tensor"], header: Mapping[str, Any], what: str) -> "Subspace":
        """Build from a file's tensors; `what` names the file in errors."""
        if "basis" not in tensors:
            raise ArtifactError(f"{what}: has no tensor `basis` (found {shortened(sorted(tensors))})")
        if "offset" in tensors:
            raise ArtifactError(
                f"{what}: holds an affine `offset`, which this version cannot apply; expected `basis` only"
            )
        try:
            return cls(tensors["basis"].float(), tuple(header.get("source_layers", ())), header)
        except (ShapeError, ArtifactError) as err:
            raise type(err)(f"{what}: {err}") from err


def orthonormal_basis(vectors: "torch.Tensor", tolerance: float = RANK_TOLERANCE) -> "torch.Tensor":
    """Orthonormal rows that span the given vectors, by QR of the normalized rows in float64.

    Removing non-orthogonal directions one after another brings earlier ones back; a basis does not. Rows that lie in the
    span of earlier ones are left out, so the result's first dimension is the rank.

    Args:
        vectors: [n, d_model], any float dtype.
        tolerance: as in `independent_rows`.
    Returns: [rank, d_model], float32; row 0 points along vectors[0].
    Raises: ShapeError, ArtifactError when a vector is zero or not finite.
    """
    import torch

    units = _normalized(vectors)[independent_rows(vectors, tolerance)]
    q, r = torch.linalg.qr(units.T)
    return (q * r.diagonal().sign()).T.contiguous().float()


def independent_rows(vectors: "torch.Tensor", tolerance: float = RANK_TOLERANCE) -> list[int]:
    """Indices of the rows that are not in the span of the rows kept before them.

    Args:
        vectors: [n, d_model].
        tolerance: a row is dropped when the part of its unit vector outside that span is shorter than this.
    Raises: as `orthonormal_basis`.
    """
    import torch

    units = _normalized(vectors)
    kept = list(range(units.shape[0]))
    while True:  # drop the first dependent row and factor again: QR's columns after it would be arbitrary
        outside = torch.linalg.qr(units[kept].T).R.diagonal().abs()
        dependent = (outside < tolerance).nonzero()
        if len(kept) > units.shape[1]:  # R has no more than d_model rows: what follows is dependent
            dependent = torch.cat([dependent, torch.tensor([[units.shape[1]]])])
        if not len(dependent):
            return kept
        del kept[int(dependent[0])]


def random_subspace(d_model: int, rank: int, seed: int) -> Subspace:
    """A uniformly random subspace: the control for a fitted one of equal rank.

    Rows of a Gaussian matrix, orthonormalized (Stewart 1980: QR of it is uniform on the orthonormal frames).
    Raises: ShapeError when rank is not within 1..d_model.
    """
    import torch

    if not 1 <= rank <= d_model:
        raise ShapeError(f"a random subspace of d_model {d_model} needs a rank of 1..{d_model}, found {rank}")
    gaussian = torch.randn(rank, d_model, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Subspace(orthonormal_basis(gaussian), (), {"method": "random", "seed": seed})


def load_basis(path: Path | str, source_layers: LayerSpec | None = None) -> tuple["torch.Tensor", dict[str, Any]]:
    """Read the basis to remove from a subspace file, or from an RV file with the layers to take from it.

    Args:
        source_layers: for an RV file, and only there: one layer or several (QR).
    Returns: ([rank, d_model] float32 orthonormal rows, {path, sha256, kind, rank, d_model, n_layers,
        source_layers, header}); n_layers is that of the RV file, None for a subspace.
    Raises: ArtifactError, ShapeError, LayerRangeError.
    """
    header, tensors = load_artifact(path, (KIND, VECTORS_KIND))
    of_vectors = "vectors" in tensors and "basis" not in tensors
    if of_vectors and source_layers is None:
        raise ArtifactError(f"{path}: holds refusal vectors of {len(tensors['vectors'])} layers; name a source layer")
    if not of_vectors and source_layers is not None:
        raise ArtifactError(f"{path}: is a subspace already; source layers apply to refusal vectors only")
    if of_vectors:
        subspace = Subspace.from_vectors(RefusalVectors.from_tensors(tensors, header, str(path)), source_layers)
    else:
        subspace = Subspace.from_tensors(tensors, header, str(path))
    return subspace.basis, {
        "path": str(path),
        "sha256": file_sha256(path),
        "kind": VECTORS_KIND if of_vectors else KIND,
        "rank": subspace.rank,
        "d_model": subspace.d_model,
        "n_layers": len(tensors["vectors"]) if of_vectors else None,
        "source_layers": list(subspace.source_layers),
        "header": dict(header),
    }


def check_orthonormal(basis: "torch.Tensor") -> None:
    """Check a basis. Raises: ShapeError ([rank, d_model] float32 expected), ArtifactError (rows not orthonormal)."""
    import torch

    if basis.ndim != 2 or not 1 <= basis.shape[0] <= basis.shape[1]:
        raise ShapeError(f"basis must be [rank, d_model] with rank 1..d_model, found shape {list(basis.shape)}")
    if basis.dtype != torch.float32:
        raise ShapeError(f"basis must be float32, found {str(basis.dtype).removeprefix('torch.')}")
    wide = basis.double()
    error = (wide @ wide.T - torch.eye(basis.shape[0], dtype=torch.float64, device=basis.device)).abs().max().item()
    if not error <= ORTHONORMAL_TOLERANCE:  # also true of NaN
        raise ArtifactError(
            f"basis rows are not orthonormal: off by {error:.2g}, at most {ORTHONORMAL_TOLERANCE} allowed"
        )


def _normalized(vectors: "torch.Tensor") -> "torch.Tensor":
    if vectors.ndim != 2 or 0 in vectors.shape:
        raise ShapeError(f"vectors must be [n, d_model], found shape {list(vectors.shape)}")
    wide = vectors.double()
    if not wide.isfinite().all():
        raise ArtifactError("vectors hold values that are not finite; no basis can be made of them")
    norms = wide.norm(dim=1, keepdim=True)
    if (norms == 0).any():
        raise ArtifactError(f"vector {int((norms == 0).nonzero()[0, 0])} is zero and spans nothing; leave it out")
    return wide / norms
