"""Orthogonalized checkpoints: the weights' share in a subspace removed once, on disk."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.architecture.entry import Architecture
from surgery.architecture.table import entry_of
from surgery.console.errors import AlphaError, ArtifactError, DiskError, ModelError, ShapeError
from surgery.files.artifacts import file_sha256, json_sha256, package_versions
from surgery.files.folders import check_folder
from surgery.files.resuming import Unfinished, n_bytes_unfinished, resuming_folder
from surgery.files.shards import (
    INDEX_FILE,
    SINGLE_FILE,
    HashedFile,
    Shard,
    StoredTensor,
    header_bytes,
    read_shards,
    same_bytes,
    tensors_by_name,
)
from surgery.model.models import ModelInfo, is_tied, model_fingerprint
from surgery.model.quantization import check_not_quantized
from surgery.model.threads import single_threaded
from surgery.residual.layers import LayerSpec, format_layers, parse_layers
from surgery.residual.operator import check_alpha
from surgery.residual.subspace import Subspace
from surgery.weights.edit import EditRecord, write_edited
from surgery.weights.edits import Edit, draft_notes, draft_tensors, plan_edits
from surgery.weights.manifest import BASIS_FILE, CARD, FILE, is_edited, read_manifest, write_manifest, write_model_card

if TYPE_CHECKING:
    import torch

Progress = Callable[[int, int], None]
# Second copies of the weights in other formats: unedited, so they must not lie beside the edited ones.
_OTHER_WEIGHTS = [
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".gguf",
    ".onnx",
    ".msgpack",
    ".h5",
    ".ot",
    ".mlmodel",
    ".bin.index.json",
    ".safetensors.index.json",
]
_NOT_COPIED = {".git", ".cache", ".gitattributes", FILE, Path(BASIS_FILE).parent.name}
_KIND = "an edited checkpoint"
_SPARE_BYTES = 16 << 20  # for the small files and the file system's own records


@dataclass(frozen=True)
class _Job:
    """Everything that decides the output, checked before a byte is written."""

    info: ModelInfo
    entry: Architecture
    basis: "torch.Tensor"
    alpha: float
    layers: tuple[int, ...]
    embeddings: bool
    keep_norms: bool
    shards: list[Shard]
    edits: dict[str, Edit]
    untied: bool  # whether config.json must say that the unembedding is no longer the embedding
    head: StoredTensor | None  # the original embedding, to be stored as an unembedding of its own

    @property
    def n_bytes(self) -> int:
        """Bytes of weights to be written."""
        return sum(shard.n_bytes for shard in self.shards) + (self.head.n_bytes if self.head else 0)

    def identity(self) -> dict[str, Any]:
        """What tells this job from any other that would write other bytes, as JSON."""
        files = [(shard.path.name, shard.n_bytes, shard.path.stat().st_mtime_ns) for shard in self.shards]
        return {
            "model": self.info.to_json(),
            "files": files,
            "basis_sha256": json_sha256(self.basis.tolist()),
            "alpha": self.alpha,
            "layers": self.layers,
            "embeddings": self.embeddings,
            "keep_norms": self.keep_norms,
            "versions": package_versions(),
        }


def orthogonalize(
    info: ModelInfo,
    basis: "torch.Tensor",
    alpha: float,
    out_dir: Path | str,
    layers: LayerSpec = "all",
    embeddings: bool = False,
    force: bool = False,
    source: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    keep_norms: bool = False,
    resumed: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Write a copy of a model whose attention and MLP outputs no longer reach a subspace.

    W' = W - alpha * Q^T (Q W) for the output matrices (and biases) of attention and MLP in each chosen block, Q = basis
    (Arditi et al. 2024, arXiv:2406.11717, eq. 5). This equals ablating their outputs at run time. Shard layout, order of
    tensors, header metadata and all other files stay; other copies of the weights (*.bin, *.pth, …) are left out and
    listed. The folder is written beside `out_dir` and renamed, so it is complete or absent; after an interruption the same
    call goes on with the file it was at (`resuming_folder`).

    Args:
        basis: [rank, d_model], float32, orthonormal rows.
        alpha: 1 removes the component, 0.5 half of it, 1.5 reverses half of it.
        layers: decoder blocks to edit.
        embeddings: edit the token embedding too. A tied unembedding is untied first and keeps the original values.
        force: replace an edited checkpoint that is already there.
        source: where the basis came from (path, sha256, …), for the manifest.
        progress: called with (bytes of weights written, bytes in all).
        keep_norms: give every output vector its old norm back (`weights.norm_scale`). Still exactly orthogonal, but no longer
            what any ablation at run time or LoRA adapter of the subspace's rank does.
        resumed: called with the number of files kept of an interrupted run, if any.
    Returns: the manifest, also in the folder as `surgery.json`.
    Raises: ModelError, ShapeError, AlphaError, LayerRangeError, OutputExistsError, DiskError, ArtifactError.
    """
    out_dir = Path(out_dir)
    check_output_folder(out_dir, Path(info.path), force)
    job = _plan(info, basis, alpha, layers, embeddings, keep_norms)
    _check_space(out_dir, job)
    with resuming_folder(out_dir, force, kind=_KIND, is_kind=is_edited, job=job.identity()) as unfinished:
        if unfinished.finished and resumed is not None:
            resumed(len(unfinished.finished))
        left_out = _copy_other_files(Path(info.path), unfinished.folder, {shard.path.name for shard in job.shards})
        with single_threaded():
            records = _write_weights(job, unfinished, progress)
        manifest = _manifest(job, records, left_out, dict(source or {}))
        _write_records(job, unfinished, manifest)
    return read_manifest(out_dir)


def check_output_folder(out_dir: Path | str, model_folder: Path | str | None = None, force: bool = False) -> None:
    """Check where a checkpoint is to go, before any work.

    Raises: OutputExistsError; ArtifactError when the parent folder is missing, the output lies in the model's own folder,
        or `force` would replace something that is not an edited checkpoint.
    """
    out_dir = Path(out_dir)
    if model_folder is not None:
        _check_apart(out_dir, Path(model_folder).resolve())
    check_folder(out_dir, force, kind=_KIND, is_kind=is_edited)
    if not out_dir.absolute().parent.is_dir():
        raise ArtifactError(f"{out_dir}: folder {out_dir.parent} does not exist; create it first")


def _check_apart(out_dir: Path, model_folder: Path) -> None:
    if out_dir.resolve().is_relative_to(model_folder) or model_folder.is_relative_to(out_dir.resolve()):
        raise ArtifactError(f"{out_dir}: overlaps the model's own folder {model_folder}; choose another output")


def check_edit(info: ModelInfo, basis: "torch.Tensor", alpha: float) -> Architecture:
    """Check that a model's weights can be edited with this basis and strength, before any work; gives its entry.

    Raises: AlphaError, ShapeError, ArtifactError (basis not orthonormal), ModelError (quantized, unknown architecture).
    """
    if check_alpha(alpha) == 0:
        raise AlphaError("alpha 0 would leave every weight as it is; use 0.5, 1 or 1.5")
    subspace = Subspace(basis)  # checks it
    if subspace.d_model != info.d_model:
        raise ShapeError(
            f"subspace has d_model {subspace.d_model} but {info.model} has {info.d_model}; extract vectors from this model"
        )
    check_not_quantized(info)
    return entry_of(info.architecture)


def _plan(
    info: ModelInfo, basis: "torch.Tensor", alpha: float, layers: LayerSpec, embeddings: bool, keep_norms: bool
) -> _Job:
    entry = check_edit(info, basis, alpha)
    shards = read_shards(Path(info.path))
    tensors = tensors_by_name(shards)
    chosen = parse_layers(layers, info.n_layers)
    edits = plan_edits(entry, tensors, chosen, info.d_model, embeddings)
    untied = embeddings and is_tied(info.path)
    head = _head_to_store(entry, tensors, untied) if embeddings else None
    return _Job(info, entry, basis, float(alpha), chosen, embeddings, keep_norms, shards, edits, untied, head)


def _head_to_store(entry: Architecture, tensors: Mapping[str, StoredTensor], tied: bool) -> StoredTensor | None:
    """The embedding, when the files hold no unembedding and need one of its own; None when they hold it."""
    embedding, head = (tensors[f"{entry.embedding}.weight"], tensors.get(entry.head_tensor))
    if head is None and not tied:
        raise ModelError(f"{entry.head_tensor} is not in the model's files, though its config does not tie it")
    if head is not None and tied and not same_bytes(head, embedding):
        raise ModelError(
            f"config.json ties {entry.unembedding} to the embedding, but the files hold another {entry.head_tensor}; "
            "it is unclear which one the model uses"
        )
    return embedding if head is None else None


def _check_space(out_dir: Path, job: _Job) -> None:
    needed = job.n_bytes + _SPARE_BYTES
    free = shutil.disk_usage(out_dir.parent).free + n_bytes_unfinished(out_dir)
    if needed > free:
        raise DiskError(f"{out_dir}: needs {needed / 1e9:.2f} GB but {free / 1e9:.2f} GB are free; choose another disk")


def _copy_other_files(source: Path, folder: Path, weights: set[str]) -> list[str]:
    """Copy all but the files named in `weights`, following links; returns the other copies of weights, left out."""
    left_out = []
    for path in sorted(source.rglob("*")):
        relative = path.relative_to(source)
        if not path.is_file() or str(relative) in weights or _NOT_COPIED.intersection(relative.parts):
            continue
        if str(relative) == INDEX_FILE and not (source / SINGLE_FILE).is_file():
            shutil.copyfile(path, folder / relative)
        elif path.name.endswith(tuple(_OTHER_WEIGHTS)):
            left_out.append(str(relative))
        else:
            (folder / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / relative)
    return left_out


def _write_weights(job: _Job, unfinished: Unfinished, progress: Progress | None) -> list[EditRecord]:
    """Write every file that is not there yet; the records of all edited tensors."""
    done = 0
    for shard in job.shards:
        name = shard.path.name
        if name not in unfinished.finished:
            with HashedFile(unfinished.folder / name) as out:
                records = []
                for record, position in _write_shard(job, shard, out):
                    records.append(record.to_json())
                    if progress is not None:
                        progress(done + position, job.n_bytes)
            unfinished.finish(name, {"n_bytes": out.n_bytes, "sha256": out.sha256, "tensors": records})
        done += unfinished.finished[name]["n_bytes"]
    if progress is not None:
        progress(job.n_bytes, job.n_bytes)
    return _all_records(job, unfinished)


def _all_records(job: _Job, unfinished: Unfinished) -> list[EditRecord]:
    entries = (unfinished.finished[shard.path.name] for shard in job.shards)
    records = [EditRecord.from_json(record) for entry in entries for record in entry["tensors"]]
    if len(records) != len(job.edits):
        raise ModelError(
            f"{len(job.edits)} tensors were to be edited, {len(records)} were; the checkpoint was discarded"
        )
    return records


def _write_shard(job: _Job, shard: Shard, out: HashedFile) -> Iterator[tuple[EditRecord, int]]:
    """Write one file: edited tensors in place of the originals, everything between them copied as bytes.

    Yields each edited tensor's record and the source's byte position after it.
    """
    head = job.head if shard is job.shards[-1] else None
    position = 0
    with open(shard.path, "rb") as source:
        if head is not None:
            out.write(_header_with_head(shard, head, job.entry.head_tensor))
            position = shard.data_start
        for tensor in shard.tensors:
            if tensor.name in job.edits:
                out.copy(source, position, tensor.start)
                record = write_edited(job.edits[tensor.name], job.basis, job.alpha, out, job.keep_norms)
                position = tensor.end
                yield record, position
        out.copy(source, position, shard.n_bytes)
        if head is not None:
            with open(head.path, "rb") as original:
                out.copy(original, head.start, head.end)


def _header_with_head(shard: Shard, head: StoredTensor, name: str) -> bytes:
    """The shard's header with one more tensor at the end of its data."""
    end = shard.n_bytes - shard.data_start
    entry = {"dtype": head.dtype, "shape": list(head.shape), "data_offsets": [end, end + head.n_bytes]}
    return header_bytes({**shard.header, name: entry})


def _notes(job: _Job, drafts: list[str]) -> list[str]:
    """What a user of the checkpoint must know."""
    notes = draft_notes(drafts)
    if job.untied and job.entry.vllm.always_tied:
        notes += [
            f"In vLLM, {job.entry.name} uses the edited embedding as unembedding too, so that it refuses this "
            "checkpoint or answers differently; run it in transformers, or leave the embeddings as they are"
        ]
    return notes


def _manifest(job: _Job, records: list[EditRecord], left_out: list[str], source: dict[str, Any]) -> dict[str, Any]:
    previous = Path(job.info.path) / FILE
    drafts = draft_tensors(job.entry, tensors_by_name(job.shards), job.info.n_layers)
    return {
        "base_model": job.info.to_json(),
        "base_manifest_sha256": file_sha256(previous) if previous.is_file() else None,
        "basis": {
            "file": BASIS_FILE,
            "rank": job.basis.shape[0],
            "source_layers": list(source.get("source_layers", ())),
        },
        "source": source,
        "alpha": job.alpha,
        "layers": format_layers(job.layers, job.info.n_layers),
        "embeddings": job.embeddings,
        "keep_norms": job.keep_norms,
        "untied": job.untied,
        "draft_tensors": drafts,
        "notes": _notes(job, drafts),
        "tensors": [record.to_json() for record in records],
        "n_untouched": sum(len(shard.tensors) for shard in job.shards) - len(records),
        "left_out": left_out,
        "versions": package_versions(),
    }


def _write_records(job: _Job, unfinished: Unfinished, manifest: dict[str, Any]) -> None:
    folder = unfinished.folder
    if job.untied:
        _untie(job, folder)
    basis_file = folder / BASIS_FILE
    basis_file.parent.mkdir()
    header = {"model": job.info.to_json(), "source_sha256": manifest["source"].get("sha256")}
    Subspace(job.basis, tuple(manifest["basis"]["source_layers"]), header).save(basis_file)
    manifest["basis"]["sha256"] = file_sha256(basis_file)
    manifest["fingerprint"] = model_fingerprint(folder)
    manifest["files"] = _file_hashes(unfinished)
    write_manifest(folder, manifest)
    write_model_card(folder, manifest)


def _file_hashes(unfinished: Unfinished) -> dict[str, str]:
    """File name -> sha256 of everything but the model card, which people go on writing."""
    paths = (path for path in sorted(unfinished.folder.rglob("*")) if path.is_file())
    names = (str(path.relative_to(unfinished.folder)) for path in paths)
    return {
        name: unfinished.finished[name]["sha256"]
        if name in unfinished.finished
        else file_sha256(unfinished.folder / name)
        for name in names
        if name != CARD
    }


def _untie(job: _Job, folder: Path) -> None:
    """Say in config.json and in the index that the unembedding is a tensor of its own."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["tie_word_embeddings"] = False
    if isinstance(config.get("text_config"), dict):
        config["text_config"]["tie_word_embeddings"] = False
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if job.head is None or not (folder / INDEX_FILE).is_file():
        return
    index = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
    index["weight_map"][job.entry.head_tensor] = job.shards[-1].path.name
    for key, extra in (("total_size", job.head.n_bytes), ("total_parameters", job.head.shape[0] * job.head.shape[1])):
        if key in index.get("metadata", {}):
            index["metadata"][key] += extra
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
