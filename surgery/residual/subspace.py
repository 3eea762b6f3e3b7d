"""Subspaces of the residual stream, as orthonormal bases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.console.errors import ArtifactError, ShapeError
from surgery.files.artifacts import file_sha256, load_artifact, save_artifact, shortened
from surgery.residual.layers import LayerSpec, parse_layers
from surgery.residual.vectors import KIND as VECTORS_KIND
from surgery.residual.vectors import RefusalVectors

if TYPE_CHECKING:
    import torch

KIND = "subspace"
PROJECTIONS = ("projected", "biprojected")
_OF_THE_CONTRAST = ("contrast", "n_pairs", "n_harmful", "n_safe")
RANK_TOLERANCE = 1e-4  # of a unit vector, left after the earlier ones: below it float32 noise decides the direction
ORTHONORMAL_TOLERANCE = 1e-4  # a float32 QR stays below 1e-5; anything above is not a basis


@dataclass(frozen=True, eq=False)
class Subspace:
    """A subspace to be removed.

    Attributes:
        basis: [rank, d_model], float32, orthonormal rows.
        source_layers: the decoder blocks whose RVs span it; empty for a random one.
        header: provenance: model (ModelInfo as JSON) and how the basis was made.
        offset: [rank], float32: coordinates of the reference point that an affine ablation moves to; None for zero.
    Raises: ShapeError, ArtifactError (rows not orthonormal) on construction.
    """

    basis: "torch.Tensor"
    source_layers: tuple[int, ...] = ()
    header: Mapping[str, Any] = field(default_factory=dict)
    offset: "torch.Tensor | None" = None

    def __post_init__(self) -> None:
        check_orthonormal(self.basis)
        if self.offset is not None:
            _check_offset(self.offset, self.rank)

    @property
    def rank(self) -> int:
        """Dimension of the subspace."""
        return self.basis.shape[0]

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.basis.shape[1]

    @classmethod
    def from_vectors(
        cls, rvs: RefusalVectors, layers: LayerSpec, projection: str | None = None, n_components: int = 0
    ) -> "Subspace":
        """The span of the RVs of several layers, by QR of their unit vectors.

        The header's `dropped_layers` names those whose RV lies in the span of the others before it, and
        `singular_values` tells how evenly the stacked unit vectors spread over the span.

        Args:
            projection: None, or one of `PROJECTIONS`: see `projected_vectors`.
            n_components: instead of the RVs, take this many singular directions of the paired differences a layer.
        Raises: LayerRangeError, ArtifactError when an RV is zero or the file lacks what is asked for.
        """
        import torch

        source = parse_layers(layers, rvs.n_layers)
        rows = _components(rvs, source, n_components) if n_components else _unit_vectors(rvs, source)
        units = _normalized(projected_vectors(rows, rvs, source, projection)).float()
        kept = independent_rows(units)
        header = {
            key: rvs.header[key]
            for key in (
                "model",
                "prompts_sha256",
                "chat_template_sha256",
                "date",
                *_OF_THE_CONTRAST,
                "site",
                "position",
                "tag",
            )
            if key in rvs.header
        }
        per_layer = max(1, n_components)
        dropped = [layer for index, layer in enumerate(source) if not _any_kept(kept, index, per_layer)]
        header |= {
            "method": f"QR of unit {'singular directions' if n_components else 'refusal vectors'}",
            "dropped_layers": dropped,
            "projection": projection,
            "n_components": n_components,
            "singular_values": torch.linalg.svdvals(units.double()).tolist(),
        }
        return cls(orthonormal_basis(units[kept]), source, header)

    def towards(self, rvs: RefusalVectors, layer: int) -> "Subspace":
        """The same subspace with the safe prompts' mean at one layer as the reference of an affine ablation.

        offset = B mean_safe[layer], so that x - (x B^T - offset) B has the component there that safe prompts have
        (affine concept editing: Marshall et al. 2024, arXiv:2411.09003). It is the mean of that layer alone: apply it
        there (--layers), for elsewhere safe prompts have another.
        Raises: LayerRangeError, ArtifactError when the file holds no means, ShapeError.
        """
        (layer,) = parse_layers(layer, rvs.n_layers)
        if rvs.d_model != self.d_model:
            raise ShapeError(f"subspace has d_model {self.d_model} but the refusal vectors have {rvs.d_model}")
        offset = (self.basis.double() @ _safe_means(rvs)[layer]).float()
        return replace(self, offset=offset, header={**self.header, "reference_layer": layer})

    def save(self, path: Path | str, force: bool = False) -> Path:
        """Write as safetensors; see `save_artifact` for errors."""
        header = {**self.header, "source_layers": list(self.source_layers), "rank": self.rank}
        offset = {} if self.offset is None else {"offset": self.offset}
        return save_artifact(path, KIND, {"basis": self.basis, **offset}, header, force)

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
        offset = tensors["offset"].float() if "offset" in tensors else None
        try:
            return cls(tensors["basis"].float(), tuple(header.get("source_layers", ())), header, offset)
        except (ShapeError, ArtifactError) as err:
            raise type(err)(f"{what}: {err}") from err


def projected_vectors(
    vectors: "torch.Tensor", rvs: RefusalVectors, source: Sequence[int], projection: str | None
) -> "torch.Tensor":
    """Refusal vectors without the part that lies along the harmless mean, which ablation should leave alone.

    r' = r - M^T M r, M an orthonormal basis of the safe means. "projected": of the vector's own layer only (Lai 2025,
    Projected Abliteration, huggingface.co/blog/grimjim/projected-abliteration). "biprojected": of its own and of every
    other layer it may be applied at, so that the part of the stream that safe prompts share stays whole at all of them
    (after Lai 2025, Norm-Preserving Biprojected Abliteration, the same blog, where a vector is projected anew for each
    layer that is edited, away from the mean of that layer; one basis for all layers has to spare all of their means).

    Args:
        vectors: [k * len(source), d_model], k consecutive rows for each source layer.
        projection: None returns `vectors` as they are.
    Raises: ArtifactError when the file holds no means, or nothing of a vector is left; ShapeError for another name.
    """
    import torch

    if projection is None:
        return vectors
    if projection not in PROJECTIONS:
        raise ShapeError(f"projection must be one of {', '.join(PROJECTIONS)}, found {projection!r}")
    means, rows = _safe_means(rvs), []
    for index, row in enumerate(vectors.double()):
        layer = source[index * len(source) // len(vectors)]
        spared = orthonormal_basis(means if projection == "biprojected" else means[layer : layer + 1]).double()
        left = row - (row @ spared.T) @ spared
        if left.norm() < RANK_TOLERANCE * row.norm():
            raise ArtifactError(
                f"the refusal vector of layer {layer} lies along the harmless mean; nothing is left of it"
            )
        rows.append(left)
    return torch.stack(rows)


def orthonormal_basis(vectors: "torch.Tensor") -> "torch.Tensor":
    """Orthonormal rows that span the given vectors, by QR of the normalized rows in float64.

    Removing non-orthogonal directions one after another brings earlier ones back; a basis does not. Rows that lie in the
    span of earlier ones are left out, so the result's first dimension is the rank.

    Args:
        vectors: [n, d_model], any float dtype.
    Returns: [rank, d_model], float32; row 0 points along vectors[0].
    Raises: ShapeError, ArtifactError when a vector is zero or not finite.
    """
    import torch

    units = _normalized(vectors)[independent_rows(vectors)]
    q, r = torch.linalg.qr(units.T)
    return (q * r.diagonal().sign()).T.contiguous().float()


def independent_rows(vectors: "torch.Tensor") -> list[int]:
    """Indices of the rows that are not in the span of the rows kept before them, their unit vectors by RANK_TOLERANCE.

    Args:
        vectors: [n, d_model].
    Raises: as `orthonormal_basis`.
    """
    import torch

    units = _normalized(vectors)
    kept = list(range(units.shape[0]))
    while True:  # drop the first dependent row and factor again: QR's columns after it would be arbitrary
        outside = torch.linalg.qr(units[kept].T).R.diagonal().abs()
        dependent = (outside < RANK_TOLERANCE).nonzero()
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


def load_vectors_or_subspace(path: Path | str) -> RefusalVectors | Subspace:
    """What a file holds: a subspace where it has a tensor `basis`, refusal vectors where it has only `vectors`.

    Raises: ArtifactError, ShapeError.
    """
    header, tensors = load_artifact(path, (KIND, VECTORS_KIND))
    if "basis" in tensors:
        return Subspace.from_tensors(tensors, {**header, "kind": KIND}, str(path))
    if "vectors" in tensors:
        return RefusalVectors.from_tensors(tensors, {**header, "kind": VECTORS_KIND}, str(path))
    raise ArtifactError(f"{path}: holds neither `basis` nor `vectors` (found {shortened(sorted(tensors))})")


def load_basis(
    path: Path | str, source_layers: LayerSpec | None = None, affine: bool = False
) -> tuple[Subspace, dict[str, Any]]:
    """Read the subspace to remove from a subspace file, or from an RV file with the layers to take from it.

    Args:
        source_layers: for an RV file, and only there: one layer or several (QR).
        affine: whether the caller applies an offset; without it a file that holds one is refused, for what an affine
            ablation adds is no linear edit of the weights.
    Returns: (the subspace, {path, sha256, kind, rank, d_model, n_layers, source_layers, header, offset}); header and
        n_layers are those of the file, n_layers None for a subspace; offset is the [rank] list of reference coordinates,
        or None.
    Raises: ArtifactError, ShapeError, LayerRangeError.
    """
    held = load_vectors_or_subspace(path)
    if isinstance(held, Subspace):
        if source_layers is not None:
            raise ArtifactError(f"{path}: is a subspace already; source layers apply to refusal vectors only")
        subspace = held
    elif source_layers is None:
        raise ArtifactError(
            f"{path}: holds refusal vectors of {held.n_layers} layers; name a source layer (--source-layer, or "
            "source_layer= of a module)"
        )
    else:
        subspace = Subspace.from_vectors(held, source_layers)
    if subspace.offset is not None and not affine:
        raise ArtifactError(
            f"{path}: holds an affine `offset`, which moves the stream to a point and is no linear edit of the weights; "
            "apply it at run time (refusal generate, serve), or make the subspace without --affine"
        )
    return subspace, {
        "path": str(path),
        "sha256": file_sha256(path),
        "kind": held.header["kind"],
        "rank": subspace.rank,
        "d_model": subspace.d_model,
        "n_layers": None if isinstance(held, Subspace) else held.n_layers,
        "source_layers": list(subspace.source_layers),
        "header": dict(held.header),
        "offset": None if subspace.offset is None else subspace.offset.tolist(),
    }


def check_orthonormal(basis: "torch.Tensor") -> None:
    """Check a basis. Raises: ShapeError ([rank, d_model] float32 expected), ArtifactError (rows not orthonormal)."""
    import torch

    if basis.ndim != 2 or not 1 <= basis.shape[0] <= basis.shape[1]:
        raise ShapeError(f"basis must be [rank, d_model] with rank 1..d_model, found shape {list(basis.shape)}")
    if basis.dtype != torch.float32:
        raise ShapeError(f"basis must be float32, found {str(basis.dtype).removeprefix('torch.')}")
    error = orthonormal_error(basis)
    if not error <= ORTHONORMAL_TOLERANCE:  # also true of NaN
        raise ArtifactError(
            f"basis rows are not orthonormal: off by {error:.2g}, at most {ORTHONORMAL_TOLERANCE} allowed"
        )


def orthonormal_error(basis: "torch.Tensor") -> float:
    """The largest entry of |B B^T - 1|, in float64."""
    import torch

    wide = basis.double()
    return (wide @ wide.T - torch.eye(len(basis), dtype=torch.float64, device=basis.device)).abs().max().item()


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


def _check_offset(offset: "torch.Tensor", rank: int) -> None:
    if tuple(offset.shape) != (rank,):
        raise ShapeError(f"offset must be [{rank}], one number per basis row, found {list(offset.shape)}")
    if not offset.isfinite().all():
        raise ArtifactError("offset holds values that are not finite")


def _unit_vectors(rvs: RefusalVectors, source: Sequence[int]) -> "torch.Tensor":
    import torch

    return torch.stack([rvs.direction(layer) for layer in source])


def _components(rvs: RefusalVectors, source: Sequence[int], n_components: int) -> "torch.Tensor":
    held = rvs.extras.get("components")
    if held is None or held.shape[1] < n_components:
        found = 0 if held is None else held.shape[1]
        raise ArtifactError(
            f"the file holds {found} singular directions a layer, not {n_components}; extract --components"
        )
    return held[list(source), :n_components].flatten(0, 1)


def _any_kept(kept: Sequence[int], index: int, per_layer: int) -> bool:
    return any(index * per_layer <= row < (index + 1) * per_layer for row in kept)


def _safe_means(rvs: RefusalVectors) -> "torch.Tensor":
    if rvs.mean_safe is None:
        of = f"safe mean of {rvs.header['tag']}; extract it again" if rvs.header.get("tag") else "mean_safe; extract it"
        raise ArtifactError(f"the refusal-vector file holds no {of} with this program")
    return rvs.mean_safe.double()
