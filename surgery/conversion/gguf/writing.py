"""Tensors dequantized a block of rows at a time and written as safetensors, so that memory holds a block, not a model."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from surgery.console.errors import ModelError
from surgery.conversion.gguf.names import Target
from surgery.files.shards import SINGLE_FILE, header_of, write_index

DTYPES = {"float32": ("F32", 4), "bfloat16": ("BF16", 2)}
"""What can be written: safetensors' name of it and bytes of a value."""
_FILE_BYTES = 5_000_000_000


def n_bytes(target: Target, dtype: str) -> int:
    """Of a tensor as it is written."""
    return math.prod(target.shape) * DTYPES[dtype][1]


def write_targets(
    targets: Sequence[Target], folder: Path, dtype: str, progress: Callable[[int, int], None] | None = None
) -> None:
    """Write tensors in files of at most 5 GB, with an index where there are several.

    Args:
        progress: called with (bytes written, bytes in all).
    Raises: ModelError when a tensor has a value that is no number.
    """
    files = _files(targets, dtype)
    names = [f"model-{k:05}-of-{len(files):05}.safetensors" for k in range(1, len(files) + 1)]
    names = names if len(files) > 1 else [SINGLE_FILE]
    done, total = 0, sum(n_bytes(target, dtype) for target in targets)
    for name, held in zip(names, files, strict=True):
        with open(folder / name, "wb") as out:
            out.write(header_of((each.name, DTYPES[dtype][0], each.shape, n_bytes(each, dtype)) for each in held))
            for target in held:
                _write(target, out, dtype)
                done += n_bytes(target, dtype)
                if progress is not None:
                    progress(done, total)
    if len(files) > 1:
        file_of = {target.name: name for name, held in zip(names, files, strict=True) for target in held}
        write_index(folder, file_of, total)


def _files(targets: Sequence[Target], dtype: str) -> list[list[Target]]:
    files: list[list[Target]] = [[]]
    room = _FILE_BYTES
    for target in targets:
        if files[-1] and n_bytes(target, dtype) > room:
            files.append([])
            room = _FILE_BYTES
        files[-1].append(target)
        room -= n_bytes(target, dtype)
    return files


def _write(target: Target, out: BinaryIO, dtype: str) -> None:
    for block in target.blocks():
        if not np.isfinite(block).all():
            raise ModelError(f"{target.name}: holds values that are no numbers; the file is damaged")
        out.write(_as_stored(block, dtype))


def _as_stored(values: np.ndarray, dtype: str) -> bytes:
    import torch

    if dtype == "float32":
        return np.ascontiguousarray(values, "<f4").tobytes()
    rounded = torch.from_numpy(np.require(values, requirements=["C", "W"])).to(torch.bfloat16)
    return rounded.view(torch.int16).numpy().tobytes()
