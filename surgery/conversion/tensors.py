"""Tensors under new names: each is a byte range of a stored one, so rewriting a model copies bytes and computes nothing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from surgery.console.errors import ModelError
from surgery.conversion.qwen import QwenConfig, is_buffer, qwen2_names, tensor_shapes
from surgery.files.artifacts import shortened
from surgery.files.shards import (
    FLOAT_DTYPES,
    METADATA_KEY,
    SINGLE_FILE,
    StoredTensor,
    copy_range,
    header_of,
    read_shards,
    tensors_by_name,
    weight_files,
    write_index,
)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class CopyPlan:
    """What is copied from where, decided before a byte is written.

    Attributes:
        parts: for each source file its output tensors, in the order of their bytes.
        n_split: stored tensors of which more than one output tensor is made.
        dropped: names of stored buffers that are no weights.
    """

    parts: dict[Path, tuple[StoredTensor, ...]]
    metadata: dict[Path, dict[str, str]]
    n_read: int
    n_split: int
    dropped: tuple[str, ...]
    dtype: str

    @property
    def n_written(self) -> int:
        """Output tensors."""
        return sum(len(parts) for parts in self.parts.values())

    @property
    def n_bytes(self) -> int:
        """Bytes of tensor data to be written."""
        return sum(part.n_bytes for parts in self.parts.values() for part in parts)


def plan_tensors(folder: Path, config: QwenConfig) -> CopyPlan:
    """Find every tensor that a model must have and what becomes of it.

    Raises: ModelError: pickled weights, a tensor that is missing, of another shape, not a float, or not known.
    """
    pickled = sorted(path.name for path in folder.glob("*.bin"))
    if pickled and not weight_files(folder):
        raise ModelError(
            f"{folder}: has only pickled weights ({pickled[0]}), which run code when they are read; use a release with "
            "safetensors weights"
        )
    shards = read_shards(folder)
    stored = tensors_by_name(shards)
    dropped = tuple(sorted(name for name in stored if is_buffer(name)))
    weights = {name: tensor for name, tensor in stored.items() if name not in dropped}
    _check_weights(folder, weights, tensor_shapes(config))
    parts = {
        shard.path: tuple(part for tensor in shard.tensors if tensor.name in weights for part in split_rows(tensor))
        for shard in shards
    }
    return CopyPlan(
        parts={path: found for path, found in parts.items() if found},
        metadata={shard.path: shard.header.get(METADATA_KEY) or {"format": "pt"} for shard in shards},
        n_read=len(weights),
        n_split=sum(len(qwen2_names(name)) > 1 for name in weights),
        dropped=dropped,
        dtype=FLOAT_DTYPES[weights["transformer.wte.weight"].dtype],
    )


def write_tensors(plan: CopyPlan, folder: Path, progress: Progress | None = None) -> None:
    """Write the planned files, named as their sources, and their index where there are several.

    Args:
        progress: called with (bytes of tensor data written, bytes in all).
    Raises: ModelError when a source file ends too early.
    """
    done = 0
    for path, parts in plan.parts.items():
        with open(path, "rb") as source, open(folder / path.name, "wb") as out:
            stored = ((part.name, part.dtype, part.shape, part.n_bytes) for part in parts)
            out.write(header_of(stored, plan.metadata[path]))
            for part in parts:
                copy_range(source, part.start, part.n_bytes, out)
                done += part.n_bytes
                if progress is not None:
                    progress(done, plan.n_bytes)
    if {path.name for path in plan.parts} != {SINGLE_FILE}:
        file_of = {part.name: path.name for path, parts in plan.parts.items() for part in parts}
        write_index(folder, file_of, plan.n_bytes)


def _check_weights(folder: Path, weights: Mapping[str, StoredTensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    missing = sorted(shapes.keys() - weights.keys())
    if missing:
        raise ModelError(f"{folder}: lacks {len(missing)} tensors of Qwen v1: {shortened(missing)}; download it again")
    unknown = sorted(weights.keys() - shapes.keys())
    if unknown:
        raise ModelError(
            f"{folder}: holds {len(unknown)} tensors that Qwen v1 does not have: {shortened(unknown)}; it is another "
            "model (with vision, audio or quantized weights) and cannot be converted"
        )
    for name, expected in shapes.items():
        if weights[name].shape != expected:
            raise ModelError(f"{folder}: {name} has shape {list(weights[name].shape)}, expected {list(expected)}")
        if weights[name].dtype not in FLOAT_DTYPES:
            raise ModelError(f"{folder}: {name} is {weights[name].dtype}, expected one of {', '.join(FLOAT_DTYPES)}")


def split_rows(tensor: StoredTensor) -> list[StoredTensor]:
    """A stored tensor as Qwen2 has it: renamed, its rows shared equally where it becomes several."""
    names = qwen2_names(tensor.name)
    shape = (tensor.shape[0] // len(names), *tensor.shape[1:])
    step = tensor.n_bytes // len(names)
    starts = range(tensor.start, tensor.end, step)
    return [
        StoredTensor(name, tensor.dtype, shape, tensor.path, at, at + step)
        for name, at in zip(names, starts, strict=True)
    ]
