"""The edit of one stored tensor."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass
from typing import TYPE_CHECKING, Any

from surgery.console.errors import ModelError
from surgery.files.shards import FLOAT_DTYPES, HashedFile, read_bytes
from surgery.residual.gains import Removal, removal
from surgery.weights.edits import Edit
from surgery.weights.matrices import Parts, vector_groups

if TYPE_CHECKING:
    import torch

_LEAST_LEFT = 0.01  # of the square of a vector, outside the subspace: with less, what is left is not stretched tenfold


@dataclass(frozen=True)
class EditRecord:
    """What was done to one tensor.

    Attributes:
        file: file name within the checkpoint.
        component_before, component_after: Frobenius norm of what the tensor writes into the subspace, |Q W| (with the
            post-norm's gain where there is one), before the edit and after it as stored.
        component_scaled: where norms are kept, |Q W S|, with S the diagonal matrix that gives every output vector its old
            norm back; otherwise the same as `component_before`. The edit demands |1 - alpha| times it.
        n_not_scaled: output vectors left without that, of which too little lies outside the subspace.
        base_sha256: of the base model's bytes.
    """

    name: str
    file: str
    dtype: str
    shape: tuple[int, ...]
    output_axis: int
    component_before: float
    component_after: float
    component_scaled: float
    n_not_scaled: int
    base_sha256: str

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON types."""
        return {**asdict(self), "shape": list(self.shape)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "EditRecord":
        """Read what `to_json` wrote."""
        return cls(**{**record, "shape": tuple(record["shape"])})


@dataclass(frozen=True)
class Change:
    """Sums over edited output vectors.

    Attributes:
        before, after, scaled: squared components in the stream's subspace, as in `EditRecord`.
    """

    before: float = 0.0
    after: float = 0.0
    scaled: float = 0.0
    n_not_scaled: int = 0

    def __add__(self, other: "Change") -> "Change":
        return Change(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True, eq=False)
class Operator:
    """The edit of one tensor's output vectors: w' = s (w - alpha (w B^T) B), B = removed.basis.

    s is 1, or with `keep_norms` what gives w' the norm of w (`norm_scale`).
    """

    removed: Removal
    alpha: float
    keep_norms: bool = False


def write_edited(
    edit: Edit, basis: "torch.Tensor", alpha: float, target: HashedFile, keep_norms: bool = False
) -> EditRecord:
    """Append the edited tensor's bytes to a file.

    W' = (W - alpha * Q^T (Q W)) S         (Arditi et al. 2024, arXiv:2406.11717, eq. 5; rank k), Q = basis, or what
                                           `gains.removal` makes of it where a post-norm follows

    applied to every output vector of W (column of a Linear weight, row of an embedding); S = 1 unless `keep_norms`. The
    products run in float32 and round once to the stored dtype. Memory is a few blocks of rows, whatever the tensor's size:
    a matrix with output vectors in columns is read twice, first for Q W.

    Raises: ModelError when a value is not finite, before or after.
    """
    operator = Operator(removal_of(edit, basis), alpha, keep_norms)
    tensor, change, digest = edit.tensor, Change(), hashlib.sha256()
    with open(tensor.path, "rb") as handle:
        for parts in vector_groups(handle, tensor, edit.output_axis):
            change += _write_group(parts, operator, target, digest)
    if not math.isfinite(change.after):
        raise ModelError(
            f"{tensor.name} holds values that are not finite, in the model or after an edit with alpha {alpha:g}"
        )
    return EditRecord(
        name=tensor.name,
        file=tensor.path.name,
        dtype=tensor.dtype,
        shape=tensor.shape,
        output_axis=edit.output_axis,
        component_before=change.before**0.5,
        component_after=change.after**0.5,
        component_scaled=change.scaled**0.5,
        n_not_scaled=change.n_not_scaled,
        base_sha256=digest.hexdigest(),
    )


def _write_group(parts: Parts, operator: Operator, target: HashedFile, digest: Any) -> Change:
    """Edit some output vectors in two passes over their parts, and append their bytes; `digest` takes the old ones."""
    import torch

    basis, probe, alpha = operator.removed.basis, operator.removed.probe, operator.alpha
    widen = Widener()
    coordinates = reaching = squares = torch.zeros(())
    for rows, data, block in parts():
        digest.update(data)
        wide = widen(block)
        coordinates = coordinates + basis[:, rows] @ wide
        if probe is not basis:
            reaching = reaching + probe[:, rows] @ wide
        if operator.keep_norms:
            squares = squares + wide.square().sum(0, dtype=torch.float64)
    scale, n_not_scaled = None, 0
    if operator.keep_norms:
        scale, able = norm_scale(squares, coordinates, alpha)
        n_not_scaled = int((~able & (squares > 0)).sum())
    before, scaled = _squares(coordinates if probe is basis else reaching, scale)
    after = torch.zeros(())
    for rows, data, block in parts():
        wide = widen(block).addmm_(basis[:, rows].T, coordinates, alpha=-alpha)
        block.copy_(wide if scale is None else wide.mul_(scale))
        after = after + probe[:, rows] @ widen(block)
        target.write(data)
    return Change(before, _squares(after)[0], scaled, n_not_scaled)


def removal_of(edit: Edit, basis: "torch.Tensor") -> Removal:
    """What to remove from one tensor's outputs so that `basis` is ablated from the residual stream.

    Raises: ModelError when the gain of its post-norm cannot be used.
    """
    import torch

    if edit.gain is None:
        return removal(basis)
    dtype = getattr(torch, FLOAT_DTYPES[edit.gain.dtype])
    return removal(basis, torch.frombuffer(read_bytes(edit.gain), dtype=dtype).float() + edit.gain_offset)


class Widener:
    """Gives float32 copies of blocks, all in the same memory: fresh memory for each would cost more than the products."""

    def __init__(self) -> None:
        self._memory: torch.Tensor | None = None

    def __call__(self, block: "torch.Tensor") -> "torch.Tensor":
        import torch

        if block.ndim == 2 and block.stride(0) < block.stride(1):
            return self(block.T).T  # laid out as the block is: a copy across would take twice as long
        if self._memory is None or self._memory[: len(block)].shape != block.shape:
            self._memory = torch.empty(block.shape, dtype=torch.float32, device=block.device)
        return self._memory[: len(block)].copy_(block)


def norm_scale(
    squares: "torch.Tensor", coordinates: "torch.Tensor", alpha: float
) -> "tuple[torch.Tensor, torch.Tensor]":
    """What gives edited output vectors their old norms back, s = |w| / |w - alpha Q^T Q w|, and which can have them.

    |w - alpha Q^T Q w|^2 = |w|^2 - alpha (2 - alpha) |Q w|^2, as the rows of Q are orthonormal. Scaling a whole output
    vector leaves its direction, so at alpha 1 Q W' = 0 stays exact. The published norm-preserving edit (grimjim 2025,
    huggingface.co/blog/grimjim/norm-preserving-biprojected-abliteration; heretic's row normalization, pull request 52) keeps
    the norms of the other axis, of one output coordinate over all inputs, which turns the vectors back towards the subspace:
    Q W' is then no longer zero. What is kept here is how far each input moves the stream; behind a post-norm, how long the
    norm finds that output before it applies its gain.

    Args:
        squares: [n], float64: |w|^2.
        coordinates: [rank, n], float32: Q w.
    Returns: ([n] float32, [n] bool). A zero vector, and one of which less than a tenth lies outside the subspace, has a
        scale of 1 and False.
    """
    import torch

    left = squares - alpha * (2 - alpha) * coordinates.to(squares.dtype).square().sum(0)
    able = (left >= _LEAST_LEFT * squares) & (squares > 0)
    return torch.where(able, (squares / left).sqrt(), 1.0).float(), able


def _squares(coordinates: "torch.Tensor", scale: "torch.Tensor | None" = None) -> tuple[float, float]:
    """Sum of squares of [rank, n], and of them times `scale` [n]."""
    squares = coordinates.double().square()
    total = squares.sum().item()
    return total, total if scale is None else (squares * scale.double().square()).sum().item()
