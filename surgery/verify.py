"""Proof of an edited checkpoint: everything its manifest claims, recomputed from the stored bytes."""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.artifacts import file_sha256
from surgery.edits import Edit, plan_edits
from surgery.errors import ArtifactError, MismatchError, RefusalError
from surgery.families import family_of
from surgery.gains import Removal
from surgery.layers import parse_layers
from surgery.manifest import read_manifest
from surgery.models import ModelInfo, model_fingerprint
from surgery.shards import FLOAT_DTYPES, StoredTensor, blocks, read_shards, tensors_by_name
from surgery.subspace import Subspace
from surgery.weights import EditRecord, component, pieces, removal_of

if TYPE_CHECKING:
    import torch

Progress = Callable[[int, int], None]
# Largest relative error of one rounding (half a unit in the last place), and of the smallest numbers, absolute.
_UNIT_ROUNDOFF = {"F32": 2.0**-24, "BF16": 2.0**-8, "F16": 2.0**-11}
_HALF_SMALLEST = {"F32": 2.0**-150, "BF16": 2.0**-134, "F16": 2.0**-25}
_CHUNK = 128  # output vectors measured at once
_SAFETY = 4.0  # the floor below is the root mean square of independent errors, at most their bound / sqrt(3)


@dataclass
class VerifyReport:
    """What was checked, and what was found wrong.

    Attributes:
        n_edited, n_untouched: tensors checked of each kind.
        base: folder of the base model the bytes were compared with; None when it is not at hand.
        ratio_low, ratio_high: smallest and largest |Q W'| / |Q W| over edited tensors with a component to remove; the
            manifest's alpha demands |1 - alpha|.
        notes: what could not be checked, and why.
        faults: one line each; empty when the checkpoint is what it claims to be.
    """

    path: str
    alpha: float
    n_edited: int = 0
    n_untouched: int = 0
    base: str | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether no fault was found."""
        return not self.faults

    def add_ratio(self, ratio: float) -> None:
        """Take one tensor's |Q W'| / |Q W| into the range."""
        self.ratio_low = ratio if self.ratio_low is None else min(self.ratio_low, ratio)
        self.ratio_high = ratio if self.ratio_high is None else max(self.ratio_high, ratio)


def verify(folder: Path | str, base: Path | str | None = None, progress: Progress | None = None) -> VerifyReport:
    """Check an edited checkpoint against its manifest, its subspace and, when at hand, its base model.

    Per edited tensor: the sha256 of its bytes, no value that is not finite, |Q W'| = |1 - alpha| |Q W| within the
    rounding of its dtype, and with the base the whole of W' = W - alpha Q^T (Q W). Per other tensor: finite, and with the
    base equal to it byte by byte. The listed tensors must be exactly those that the layers and family demand.

    Args:
        base: the base model's folder; None takes the one in the manifest if it is still there and unchanged.
        progress: called with (tensors checked, tensors in all).
    Raises: ArtifactError (not an edited checkpoint), MismatchError (`base` is another model), ModelError (damaged files).
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    try:
        check = _Check(folder, manifest, base)
    except (KeyError, TypeError) as err:
        raise ArtifactError(f"{folder}: its manifest lacks {err}; it cannot be verified") from err
    check.check_listing()
    for done, (name, tensor) in enumerate(check.tensors.items(), start=1):
        if name in check.records:
            check.check_edited(tensor, check.records[name])
        else:
            check.check_untouched(tensor)
        if progress is not None:
            progress(done, len(check.tensors))
    return check.report


class _Check:
    """One verification under way."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any], base: Path | str | None):
        self.info = ModelInfo.from_json(manifest["base_model"])
        self.manifest = manifest
        self.folder = folder
        self.alpha = float(manifest["alpha"])
        self.report = VerifyReport(str(folder), self.alpha)
        self.records = {record["name"]: EditRecord.from_json(record) for record in manifest["tensors"]}
        self.tensors = tensors_by_name(read_shards(folder))
        self.basis = self._load_basis()
        self.originals = self._load_base(base)
        self.family = family_of(self.info.architecture)
        self.expected: dict[str, Edit] = {}

    def check_listing(self) -> None:
        """The listed tensors are those the edit demands, and the files are the ones the manifest describes."""
        if not self.records:
            self.fault("the manifest lists no edited tensor")
        layers = parse_layers(self.manifest["layers"], self.info.n_layers)
        try:
            self.expected = plan_edits(
                self.family, self.tensors, layers, self.info.d_model, self.manifest["embeddings"]
            )
        except RefusalError as err:
            return self.fault(str(err))
        for name in sorted(self.expected.keys() ^ self.records.keys()):
            self.fault(
                f"{name}: {'to be edited but not listed' if name in self.expected else 'listed but not to be edited'}"
            )
        if model_fingerprint(self.folder) != self.manifest["fingerprint"]:
            self.fault("the weights' fingerprint is not the manifest's: they were changed after the edit")
        if self.originals is not None:
            for name in sorted(self.originals.keys() - self.tensors.keys()):
                self.fault(f"{name}: in the base model but not in the checkpoint")

    def check_edited(self, tensor: StoredTensor, record: EditRecord) -> None:
        """One edited tensor: hash, finite, removed component, and with the base the whole edit."""
        self.report.n_edited += 1
        original = self._original(tensor)
        if (tensor.dtype, tensor.shape) != (record.dtype, record.shape):
            return self.fault(
                f"{tensor.name}: is {tensor.dtype} {tensor.shape}, listed as {record.dtype} {record.shape}"
            )
        edit = self.expected.get(tensor.name, Edit(tensor, record.output_axis))
        removed = removal_of(edit, self.basis)
        measured = _measure(edit, original, removed, self.alpha)
        if measured.sha256 != record.sha256:
            self.fault(f"{tensor.name}: its bytes hash to {measured.sha256[:12]}, listed as {record.sha256[:12]}")
        if measured.n_not_finite:
            return self.fault(f"{tensor.name}: {measured.n_not_finite} values are not finite")
        before = measured.component_before if original is not None else record.component_before
        expected = abs(1 - self.alpha) * before
        floor = measured.component_floor(removed.probe, tensor.dtype) + _not_orthonormal(removed.basis) * before
        if before > floor:
            self.report.add_ratio(measured.component_after / before)
        if not abs(measured.component_after - expected) <= floor:
            self.fault(
                f"{tensor.name}: keeps a component of {measured.component_after:.3g} in the subspace, expected "
                f"{expected:.3g} ± {floor:.1g} (|1 - alpha| of {before:.3g})"
            )
        if original is not None and not measured.difference <= measured.difference_floor(removed.basis, tensor.dtype):
            self.fault(
                f"{tensor.name}: is not the base model's tensor with the edit applied (off by {measured.difference:.3g})"
            )

    def check_untouched(self, tensor: StoredTensor) -> None:
        """One tensor that must be the base model's, byte by byte; an untied unembedding must be the base's embedding."""
        self.report.n_untouched += 1
        n_not_finite = sum(_count_not_finite(block, tensor.dtype) for block in blocks(tensor))
        if n_not_finite:
            self.fault(f"{tensor.name}: {n_not_finite} values are not finite")
        if self.originals is None:
            return
        original = self._original(tensor)
        if original is None:
            return self.fault(f"{tensor.name}: not in the base model")
        if (original.dtype, original.shape) != (tensor.dtype, tensor.shape):
            return self.fault(
                f"{tensor.name}: is {tensor.dtype} {tensor.shape}, base {original.dtype} {original.shape}"
            )
        if any(ours != theirs for ours, theirs in zip(blocks(tensor), blocks(original), strict=True)):
            self.fault(f"{tensor.name}: differs from the base model but is not listed as edited")

    def fault(self, line: str) -> None:
        """Note one fault."""
        self.report.faults.append(line)

    def _original(self, tensor: StoredTensor) -> StoredTensor | None:
        if self.originals is None:
            return None
        name = tensor.name
        if self.manifest["untied"] and name == self.family.head_tensor:
            name = f"{self.family.embedding}.weight"
        return self.originals.get(name)

    def _load_basis(self) -> "torch.Tensor":
        path = self.folder / self.manifest["basis"]["file"]
        basis = Subspace.load(path).basis
        if file_sha256(path) != self.manifest["basis"]["sha256"]:
            self.fault(f"{path.name}: is not the subspace the manifest names (its sha256 differs)")
        return basis

    def _load_base(self, base: Path | str | None) -> dict[str, StoredTensor] | None:
        folder = Path(base or self.info.path)
        if not folder.is_dir():
            if base is not None:
                raise ArtifactError(f"{base}: no such folder; expected the base model {self.info.model}")
            self.report.notes.append(f"base model {folder} is not there: not compared with it")
            return None
        found = model_fingerprint(folder)
        if found != self.info.fingerprint:
            message = f"{folder} has fingerprint {found[:12]}, the base model had {self.info.fingerprint[:12]}"
            if base is not None:
                raise MismatchError(f"{message}; give the folder of {self.info.model}")
            self.report.notes.append(f"{message}: not compared with it")
            return None
        self.report.base = str(folder)
        return tensors_by_name(read_shards(folder))


@dataclass
class _Measured:
    """Sums over one edited tensor; norms are Frobenius norms."""

    sha256: str = ""
    n_not_finite: int = 0
    n_vectors: int = 0
    squares_before: float = 0.0  # |Q W|^2 of the base
    squares_after: float = 0.0  # |Q W'|^2
    squares_spread: float = 0.0  # sum_kij Q_ki^2 W'_ij^2: how rounding of single entries reaches the subspace
    squares_norm: float = 0.0  # |W'|^2
    squares_difference: float = 0.0  # |W' - edit(W)|^2

    @property
    def component_before(self) -> float:
        return self.squares_before**0.5

    @property
    def component_after(self) -> float:
        return self.squares_after**0.5

    @property
    def difference(self) -> float:
        return self.squares_difference**0.5

    def component_floor(self, basis: "torch.Tensor", dtype: str) -> float:
        """What rounding alone leaves in the subspace: entries are stored to within u |w|, and float32 dot products over
        d_model terms add about 2^-24 sqrt(d_model). In bf16 this is some 0.002 of |Q W|, in float32 some 1e-6."""
        rank, d_model = basis.shape
        relative = (_UNIT_ROUNDOFF[dtype] + _UNIT_ROUNDOFF["F32"] * d_model**0.5) * self.squares_spread**0.5
        return _SAFETY * (relative + _HALF_SMALLEST[dtype] * (rank * self.n_vectors) ** 0.5)

    def difference_floor(self, basis: "torch.Tensor", dtype: str) -> float:
        """Two roundings to the stored dtype and float32 sums in another order, over the whole tensor."""
        d_model = basis.shape[1]
        relative = (2 * _UNIT_ROUNDOFF[dtype] + _UNIT_ROUNDOFF["F32"] * d_model**0.5) * self.squares_norm**0.5
        return relative + 2 * _HALF_SMALLEST[dtype] * (d_model * self.n_vectors) ** 0.5


def _measure(edit: Edit, original: StoredTensor | None, removed: Removal, alpha: float) -> _Measured:
    """Sums over a tensor: components by the probe, which tells what reaches the stream, the edit by the basis removed."""
    measured, digest, squared_probe = _Measured(), hashlib.sha256(), removed.probe.square()
    theirs = pieces(Edit(original, edit.output_axis)) if original is not None else None
    for buffer, rows in pieces(edit):
        digest.update(buffer)
        original_rows = next(theirs)[1] if theirs is not None else None
        for start in range(0, len(rows), _CHUNK):
            chunk = rows[start : start + _CHUNK]
            _add_chunk(measured, chunk, removed.probe, squared_probe)
            if original_rows is not None:
                _add_difference(measured, chunk, original_rows[start : start + _CHUNK], removed, alpha)
    measured.sha256 = digest.hexdigest()
    return measured


def _add_chunk(
    measured: _Measured, chunk: "torch.Tensor", probe: "torch.Tensor", squared_probe: "torch.Tensor"
) -> None:
    wide = chunk.float().contiguous()
    squares = wide.square()
    norm = squares.sum().item()
    if not math.isfinite(norm):
        measured.n_not_finite += int((~chunk.isfinite()).sum())
    measured.n_vectors += len(chunk)
    measured.squares_norm += norm
    measured.squares_after += component(wide, probe).square().sum().item()
    measured.squares_spread += (squares @ squared_probe.T).sum().item()


def _add_difference(
    measured: _Measured, chunk: "torch.Tensor", original: "torch.Tensor", removed: Removal, alpha: float
) -> None:
    """The stored vectors against the reference operator applied to the base model's."""
    from surgery.ablation import ablate

    original = original.contiguous()
    measured.squares_before += component(original, removed.probe).square().sum().item()
    measured.squares_difference += (
        (chunk.float() - ablate(original, removed.basis, alpha).float()).square().sum().item()
    )


def _count_not_finite(block: bytearray, dtype: str) -> int:
    import torch

    if dtype not in FLOAT_DTYPES or not block:
        return 0
    values = torch.frombuffer(block, dtype=getattr(torch, FLOAT_DTYPES[dtype]))
    if values.sum(dtype=torch.float32).isfinite():  # a sum that is finite has finite terms, and costs far less
        return 0
    return int((~values.isfinite()).sum())


def _not_orthonormal(basis: "torch.Tensor") -> float:
    import torch

    wide = basis.double()
    return torch.linalg.matrix_norm(wide @ wide.T - torch.eye(len(basis), dtype=torch.float64), 2).item()
