"""Proof of an edited checkpoint: everything its manifest claims, recomputed from the stored bytes."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.architecture.table import entry_of
from surgery.console.errors import ArtifactError, MismatchError, RefusalError
from surgery.files.artifacts import file_sha256
from surgery.files.shards import Shard, StoredTensor, file_blocks, read_shards, tensors_by_name
from surgery.model.models import ModelInfo, is_tied, model_fingerprint
from surgery.model.threads import single_threaded
from surgery.residual.layers import parse_layers
from surgery.residual.subspace import Subspace
from surgery.weights.edit import EditRecord, Operator, removal_of
from surgery.weights.edits import Edit, draft_notes, draft_tensors, plan_edits
from surgery.weights.manifest import read_manifest
from surgery.weights.measure import MeasuredTensor, measure, measure_untouched

if TYPE_CHECKING:
    import torch

Progress = Callable[[int, int], None]


@dataclass
class VerificationReport:
    """What was checked, and what was found wrong.

    Attributes:
        base: folder of the base model that was compared with; None when it is not at hand.
        notes: what could not be checked, and why; what the edit leaves out.
        faults: one line each; empty when the folder is what it claims to be.
    """

    path: str
    alpha: float
    base: str | None = None
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether no fault was found."""
        return not self.faults


@dataclass
class VerifyReport(VerificationReport):
    """Of a checkpoint.

    Attributes:
        n_edited, n_untouched: tensors checked of each kind.
        ratio_low, ratio_high: smallest and largest |Q W'| / |Q W| over edited tensors with a component to remove; the
            manifest's alpha demands |1 - alpha|.
    """

    n_edited: int = 0
    n_untouched: int = 0
    ratio_low: float | None = None
    ratio_high: float | None = None

    def add_ratio(self, ratio: float) -> None:
        """Take one tensor's |Q W'| / |Q W| into the range."""
        self.ratio_low = ratio if self.ratio_low is None else min(self.ratio_low, ratio)
        self.ratio_high = ratio if self.ratio_high is None else max(self.ratio_high, ratio)


def verify(folder: Path | str, base: Path | str | None = None, progress: Progress | None = None) -> VerifyReport:
    """Check an edited checkpoint against its manifest, its subspace and, when at hand, its base model.

    Per file: its sha256. Per edited tensor: no value that is not finite, |Q W'| = |1 - alpha| |Q W S| within the rounding of
    its dtype (S = 1 unless norms are kept), and with the base: its sha256, the whole of W' = (W - alpha Q^T (Q W)) S, and
    where norms are kept those of all output vectors. Per other tensor: finite, and with the base equal to it byte by byte.
    The listed tensors must be exactly those that the layers and architecture demand. Files are read once and the base's edited
    tensors twice, a few MiB at a time.

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
    check.check_other_files()
    done = 0
    with single_threaded():
        for shard in check.shards:
            for _ in check.check_shard(shard):
                done += 1
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
        self.fault = self.report.faults.append
        self.records = {record["name"]: EditRecord.from_json(record) for record in manifest["tensors"]}
        self.files: dict[str, str] = manifest["files"]
        self.keep_norms = bool(manifest["keep_norms"])
        self.shards = read_shards(folder)
        self.tensors = tensors_by_name(self.shards)
        self.basis = self._load_basis()
        self.originals = self._load_base(base)
        self.entry = entry_of(self.info.architecture)
        self.expected: dict[str, Edit] = {}

    def check_listing(self) -> None:
        """The listed tensors are those the edit demands, and the files are the ones the manifest describes."""
        if not self.records:
            self.fault("the manifest lists no edited tensor")
        layers = parse_layers(self.manifest["layers"], self.info.n_layers)
        try:
            self.expected = plan_edits(self.entry, self.tensors, layers, self.info.d_model, self.manifest["embeddings"])
        except RefusalError as err:
            return self.fault(str(err))
        for name in sorted(self.expected.keys() ^ self.records.keys()):
            self.fault(
                f"{name}: {'to be edited but not listed' if name in self.expected else 'listed but not to be edited'}"
            )
        if self.manifest["embeddings"] and is_tied(self.folder):
            self.fault(f"config.json ties {self.entry.unembedding} to the edited embedding, which the edit unties")
        self.report.notes += draft_notes(draft_tensors(self.entry, self.tensors, self.info.n_layers))
        if model_fingerprint(self.folder) != self.manifest["fingerprint"]:
            self.fault("the weights' fingerprint is not the manifest's: they were changed after the edit")
        if self.originals is not None:
            for name in sorted(self.originals.keys() - self.tensors.keys()):
                self.fault(f"{name}: in the base model but not in the checkpoint")

    def check_other_files(self) -> None:
        """Every listed file that holds no weights, and that no file of weights is unlisted."""
        shards = {shard.path.name for shard in self.shards}
        for name in sorted(shards - self.files.keys()):
            self.fault(f"{name}: holds weights but is not listed in the manifest")
        for name in self.files:
            path = self.folder / name
            if not path.is_file():
                self.fault(f"{name}: listed in the manifest but not there")
            elif name not in shards:
                self._check_hash(name, file_sha256(path))

    def check_shard(self, shard: Shard) -> Iterator[None]:
        """One file of weights: its tensors in the order of their bytes, then the hash of all of them."""
        digest = hashlib.sha256()
        with open(shard.path, "rb") as handle:
            for block in file_blocks(handle, 0, shard.data_start):
                digest.update(block)
        for tensor in shard.tensors:
            if tensor.name in self.records:
                self.check_edited(tensor, self.records[tensor.name], digest)
            else:
                self.check_untouched(tensor, digest)
            yield
        self._check_hash(shard.path.name, digest.hexdigest())

    def check_edited(self, tensor: StoredTensor, record: EditRecord, digest: Any) -> None:
        """One edited tensor: finite, removed component, and with the base the whole edit; `digest` takes its bytes."""
        self.report.n_edited += 1
        original = self._original(tensor)
        if (tensor.dtype, tensor.shape) != (record.dtype, record.shape):
            self.fault(f"{tensor.name}: is {tensor.dtype} {tensor.shape}, listed as {record.dtype} {record.shape}")
            measure_untouched(tensor, None, digest)
            return
        if original is not None and (original.dtype, original.shape) != (tensor.dtype, tensor.shape):
            self.fault(f"{tensor.name}: is {tensor.dtype} {tensor.shape}, base {original.dtype} {original.shape}")
            original = None
        edit = self.expected.get(tensor.name, Edit(tensor, record.output_axis))
        operator = Operator(removal_of(edit, self.basis), self.alpha, self.keep_norms)
        measured = measure(edit, original, operator, digest)
        if measured.n_not_finite:
            return self.fault(f"{tensor.name}: {measured.n_not_finite} values are not finite")
        self._check_component(tensor, record, measured, operator)
        if original is not None:
            self._check_edit(tensor, record, measured, operator)

    def _check_component(
        self, tensor: StoredTensor, record: EditRecord, measured: MeasuredTensor, operator: Operator
    ) -> None:
        before = measured.component_before if measured.base_sha256 else record.component_before
        scaled = measured.component_scaled if measured.base_sha256 else record.component_scaled
        after, expected = measured.component_after, abs(1 - self.alpha) * scaled
        floor = measured.component_floor(operator, tensor.dtype) + _not_orthonormal(operator.removed.basis) * scaled
        if before > floor:
            self.report.add_ratio(after / scaled)
        if not abs(after - expected) <= floor:
            self.fault(
                f"{tensor.name}: keeps a component of {after:.3g} in the subspace, expected {expected:.3g} ± {floor:.1g} "
                f"(|1 - alpha| of {scaled:.3g})"
            )

    def _check_edit(
        self, tensor: StoredTensor, record: EditRecord, measured: MeasuredTensor, operator: Operator
    ) -> None:
        if measured.base_sha256 != record.base_sha256:
            self.fault(
                f"{tensor.name}: the base model's bytes hash to {measured.base_sha256[:12]}, listed as "
                f"{record.base_sha256[:12]}"
            )
        if not measured.difference <= measured.difference_floor(operator, tensor.dtype):
            self.fault(
                f"{tensor.name}: is not the base model's tensor with the edit applied (off by {measured.difference:.3g})"
            )
        if self.keep_norms and not measured.norm_error <= measured.norm_floor(operator, tensor.dtype):
            self.fault(
                f"{tensor.name}: an output vector's norm is off by {measured.norm_error:.3g} of itself, though norms are kept"
            )

    def check_untouched(self, tensor: StoredTensor, digest: Any) -> None:
        """One tensor that must be the base model's, byte by byte; an untied unembedding must be the base's embedding."""
        self.report.n_untouched += 1
        original = self._original(tensor)
        comparable = original is not None and (original.dtype, original.shape) == (tensor.dtype, tensor.shape)
        n_not_finite, same = measure_untouched(tensor, original if comparable else None, digest)
        if n_not_finite:
            self.fault(f"{tensor.name}: {n_not_finite} values are not finite")
        if self.originals is None:
            return
        if original is None:
            return self.fault(f"{tensor.name}: not in the base model")
        if not comparable:
            return self.fault(
                f"{tensor.name}: is {tensor.dtype} {tensor.shape}, base {original.dtype} {original.shape}"
            )
        if not same:
            self.fault(f"{tensor.name}: differs from the base model but is not listed as edited")

    def _check_hash(self, name: str, sha256: str) -> None:
        if name in self.files and self.files[name] != sha256:
            self.fault(f"{name}: its bytes hash to {sha256[:12]}, listed as {self.files[name][:12]}")

    def _original(self, tensor: StoredTensor) -> StoredTensor | None:
        if self.originals is None:
            return None
        name = tensor.name
        if self.manifest["untied"] and name == self.entry.head_tensor:
            name = f"{self.entry.embedding}.weight"
        return self.originals.get(name)

    def _load_basis(self) -> "torch.Tensor":
        path = self.folder / self.manifest["basis"]["file"]
        basis = Subspace.load(path).basis
        if file_sha256(path) != self.manifest["basis"]["sha256"]:
            self.fault(f"{path.name}: is not the subspace the manifest names (its sha256 differs)")
        return basis

    def _load_base(self, base: Path | str | None) -> dict[str, StoredTensor] | None:
        folder, note = find_base(self.info, base)
        if folder is None:
            self.report.notes.append(note)
            return None
        self.report.base = str(folder)
        return tensors_by_name(read_shards(folder))


def find_base(info: ModelInfo, base: Path | str | None = None) -> tuple[Path | None, str]:
    """The folder of the base model, or None and why it cannot be compared with.

    Args:
        base: given by the user; None takes the recorded one if it is still there and unchanged.
    Raises: ArtifactError (`base` is not there), MismatchError (`base` is another model).
    """
    folder = Path(base or info.path)
    if not folder.is_dir():
        if base is not None:
            raise ArtifactError(f"{base}: no such folder; expected the base model {info.model}")
        return None, f"base model {folder} is not there: not compared with it"
    found = model_fingerprint(folder)
    if found != info.fingerprint:
        message = f"{folder} has fingerprint {found[:12]}, the base model had {info.fingerprint[:12]}"
        if base is not None:
            raise MismatchError(f"{message}; give the folder of {info.model}")
        return None, f"{message}: not compared with it"
    return folder, ""


def _not_orthonormal(basis: "torch.Tensor") -> float:
    import torch

    wide = basis.double()
    return torch.linalg.matrix_norm(wide @ wide.T - torch.eye(len(basis), dtype=torch.float64), 2).item()
