"""What verification measures of one stored tensor, read once in small blocks, and how far rounding alone can take it."""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surgery.files.shards import FLOAT_DTYPES, StoredTensor, aligned_buffer, read_into
from surgery.weights.edit import Operator, Widener, norm_scale
from surgery.weights.edits import Edit
from surgery.weights.matrices import Matrix, Parts, row_blocks, vector_groups

if TYPE_CHECKING:
    import torch

# Largest relative error of one rounding (half a unit in the last place), and of the smallest numbers, absolute.
_UNIT_ROUNDOFF = {"F32": 2.0**-24, "BF16": 2.0**-8, "F16": 2.0**-11}
_HALF_SMALLEST = {"F32": 2.0**-150, "BF16": 2.0**-134, "F16": 2.0**-25}
_BLOCK = 1 << 20  # bytes compared at once
_SAFETY = 4.0  # the floor below is the root mean square of independent errors, at most their bound / sqrt(3)


@dataclass
class MeasuredTensor:
    """Sums over one edited tensor; norms are Frobenius norms. What needs the base model is zero or empty without it.

    Attributes:
        squares_before, squares_scaled, squares_after: |Q W|^2, |Q W S|^2 of the base, |Q W'|^2.
        squares_spread: sum_kij Q_ki^2 W'_ij^2: how rounding of single entries reaches the subspace.
        squares_difference: |W' - edit(W)|^2.
        norm_error: largest relative error of an output vector's norm, over those that were given their old norm.
        base_sha256: of the base model's bytes.
    """

    n_not_finite: int = 0
    n_vectors: int = 0
    squares_before: float = 0.0
    squares_scaled: float = 0.0
    squares_after: float = 0.0
    squares_spread: float = 0.0
    squares_norm: float = 0.0
    squares_difference: float = 0.0
    norm_error: float = 0.0
    base_sha256: str = ""

    @property
    def component_before(self) -> float:
        return self.squares_before**0.5

    @property
    def component_scaled(self) -> float:
        return self.squares_scaled**0.5

    @property
    def component_after(self) -> float:
        return self.squares_after**0.5

    @property
    def difference(self) -> float:
        return self.squares_difference**0.5

    def component_floor(self, operator: Operator, dtype: str) -> float:
        """What rounding alone leaves in the subspace: entries are stored to within u |w|, and float32 dot products over
        d_model terms add about 2^-24 sqrt(d_model). In bf16 this is some 0.002 of |Q W|, in float32 some 1e-6."""
        rank, d_model = operator.removed.probe.shape
        relative = (_UNIT_ROUNDOFF[dtype] + _UNIT_ROUNDOFF["F32"] * d_model**0.5) * self.squares_spread**0.5
        return _SAFETY * (relative + _HALF_SMALLEST[dtype] * (rank * self.n_vectors) ** 0.5)

    def difference_floor(self, operator: Operator, dtype: str) -> float:
        """Two roundings to the stored dtype and float32 sums in another order, over the whole tensor."""
        d_model = operator.removed.basis.shape[1]
        relative = (2 * _UNIT_ROUNDOFF[dtype] + _UNIT_ROUNDOFF["F32"] * d_model**0.5) * self.squares_norm**0.5
        return relative + 2 * _HALF_SMALLEST[dtype] * (d_model * self.n_vectors) ** 0.5

    def norm_floor(self, operator: Operator, dtype: str) -> float:
        """Entries stored to within u |w| change a vector's norm by at most u; the scale, formed from float32 products of
        vectors of which a hundredth of the square may be left, is good to about 100 * 2^-24 * sqrt(d_model)."""
        d_model = operator.removed.basis.shape[1]
        return _UNIT_ROUNDOFF[dtype] + 100 * _UNIT_ROUNDOFF["F32"] * d_model**0.5


def measure(edit: Edit, original: StoredTensor | None, operator: Operator, digest: Any) -> MeasuredTensor:
    """Measure one edited tensor, against the base model's where that is at hand.

    Args:
        original: the base model's tensor, of the same shape and dtype.
        operator: the edit that was to be made; its probe tells what reaches the stream.
        digest: takes the tensor's bytes.
    """
    measured, base_digest = MeasuredTensor(), hashlib.sha256()
    with ExitStack() as stack:
        handle = stack.enter_context(open(edit.tensor.path, "rb"))
        base = stack.enter_context(open(original.path, "rb")) if original is not None else None
        theirs = vector_groups(base, original, edit.output_axis) if base is not None and original is not None else None
        for ours in vector_groups(handle, edit.tensor, edit.output_axis):
            if theirs is None:
                _add_group(measured, ours, None, operator, digest)
            else:
                original_parts = next(theirs)
                reference = _Reference(original_parts, operator, base_digest)
                _add_group(measured, ours, reference, operator, digest)
    if original is not None:
        measured.base_sha256 = base_digest.hexdigest()
    return measured


def measure_untouched(tensor: StoredTensor, original: StoredTensor | None, digest: Any) -> tuple[int, bool]:
    """(number of values that are not finite, whether the bytes are those of `original`); `digest` takes the bytes."""
    n_not_finite, same, widen = 0, True, Widener()
    with ExitStack() as stack:
        handle = stack.enter_context(open(tensor.path, "rb"))
        base = stack.enter_context(open(original.path, "rb")) if original is not None else None
        ours, theirs = aligned_buffer(_BLOCK), aligned_buffer(_BLOCK)
        for done in range(0, tensor.n_bytes, _BLOCK):
            n_bytes = min(_BLOCK, tensor.n_bytes - done)
            read_into(handle, tensor.start + done, ours[:n_bytes])
            digest.update(ours[:n_bytes])
            n_not_finite += _count_not_finite(ours[:n_bytes], tensor.dtype, widen)
            if base is not None and original is not None:
                read_into(base, original.start + done, theirs[:n_bytes])
                same = same and _equal(ours[:n_bytes], theirs[:n_bytes])
    return n_not_finite, same


def coordinates_of(matrix: Matrix, basis: "torch.Tensor") -> "tuple[torch.Tensor, float]":
    """(Q W, [rank, n_vectors], float32; |W|) of a stored matrix, read once."""
    import torch

    widen, squares, total = Widener(), 0.0, torch.zeros(())
    parts: list[torch.Tensor] = []
    with open(matrix.tensor.path, "rb") as handle:
        for rows, _, block in row_blocks(handle, matrix):
            wide = widen(block)
            squares += torch.linalg.vector_norm(wide).double().square().item()
            if matrix.vectors_are_rows:
                parts.append(basis @ wide.T)
            else:
                total = total + basis[:, rows] @ wide
    return (torch.cat(parts, dim=1) if parts else total), squares**0.5


class _Reference:
    """Some output vectors of the base model, and what the edit should have made of them."""

    def __init__(self, parts: Parts, operator: Operator, digest: Any):
        import torch

        self._parts, self._operator, self._widen = parts, operator, Widener()
        basis, probe = operator.removed.basis, operator.removed.probe
        coordinates = reaching = self.squares = torch.zeros(())
        for rows, data, block in parts():
            digest.update(data)
            wide = self._widen(block)
            coordinates = coordinates + basis[:, rows] @ wide
            reaching = coordinates if probe is basis else reaching + probe[:, rows] @ wide
            if operator.keep_norms:
                self.squares = self.squares + wide.square().sum(0, dtype=torch.float64)
        self._coordinates = coordinates
        self.scale, self.is_scaled = (
            torch.ones(coordinates.shape[1]),
            torch.zeros(coordinates.shape[1], dtype=torch.bool),
        )
        if operator.keep_norms:
            self.scale, self.is_scaled = norm_scale(self.squares, coordinates, operator.alpha)
        self.before = reaching.double().square().sum().item()
        self.scaled = (reaching.double() * self.scale.double()).square().sum().item()

    def expected(self) -> "Iterator[torch.Tensor]":
        """Part by part: (w - alpha Q^T (Q w)) s, float32, in memory that the next part takes over."""
        basis, alpha = self._operator.removed.basis, self._operator.alpha
        for rows, _, block in self._parts():
            wide = self._widen(block).addmm_(basis[:, rows].T, self._coordinates, alpha=-alpha)
            yield wide.mul_(self.scale) if self._operator.keep_norms else wide


def _add_group(
    measured: MeasuredTensor, parts: Parts, reference: _Reference | None, operator: Operator, digest: Any
) -> None:
    import torch

    probe, widen = operator.removed.probe, Widener()
    expected = reference.expected() if reference is not None else None
    reaching = squares = torch.zeros(())
    for rows, data, block in parts():
        digest.update(data)
        wide = widen(block)
        reaching = reaching + probe[:, rows] @ wide
        by_value = torch.linalg.vector_norm(wide, dim=1).double().square()
        measured.squares_norm += by_value.sum().item()
        measured.squares_spread += (probe[:, rows].double().square().sum(0) @ by_value).item()
        if not by_value.sum().isfinite():
            measured.n_not_finite += int((~wide.isfinite()).sum())
        if operator.keep_norms:
            squares = squares + wide.square().sum(0, dtype=torch.float64)
        if expected is not None:
            measured.squares_difference += torch.linalg.vector_norm(wide.sub_(next(expected))).double().square().item()
    measured.n_vectors += reaching.shape[1]
    measured.squares_after += reaching.double().square().sum().item()
    if reference is not None:
        measured.squares_before += reference.before
        measured.squares_scaled += reference.scaled
        if operator.keep_norms:
            measured.norm_error = max(measured.norm_error, _norm_error(squares, reference))


def _norm_error(squares: "torch.Tensor", reference: _Reference) -> float:
    """Largest |(|w'| / |w|) - 1| over the vectors that were to get their old norm."""
    error = (squares.sqrt() / reference.squares.sqrt() - 1).abs()
    return error[reference.is_scaled].max().item() if reference.is_scaled.any() else 0.0


def _equal(ours: memoryview, theirs: memoryview) -> bool:
    import torch

    whole = len(ours) // 8 * 8
    if whole and not torch.equal(
        torch.frombuffer(ours[:whole], dtype=torch.int64), torch.frombuffer(theirs[:whole], dtype=torch.int64)
    ):
        return False
    return bytes(ours[whole:]) == bytes(theirs[whole:])


def _count_not_finite(block: memoryview, dtype: str, widen: Widener) -> int:
    import torch

    if dtype not in FLOAT_DTYPES:
        return 0
    values = torch.frombuffer(block, dtype=getattr(torch, FLOAT_DTYPES[dtype]))
    if widen(values).sum().isfinite():  # a sum that is finite has finite terms, and costs far less
        return 0
    return int((~values.isfinite()).sum())
