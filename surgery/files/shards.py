"""Safetensors files at the level of bytes: headers, byte ranges, and copies that never pass through a framework."""

import errno
import hashlib
import json
import mmap
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from surgery.console.errors import ModelError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
METADATA_KEY = "__metadata__"
FLOAT_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_BLOCK = 1 << 18
_PIECE = 1 << 17  # bytes written at once
_MAX_HEADER = 100 << 20  # the format's own limit
_NO_COPY_FILE_RANGE = {errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM}  # then copy by hand


@dataclass(frozen=True)
class StoredTensor:
    """One tensor's place in a file.

    Attributes:
        dtype: the format's own word, e.g. "BF16".
        start, end: absolute byte offsets in `path`, end exclusive.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    start: int
    end: int

    @property
    def n_bytes(self) -> int:
        """Bytes of data."""
        return self.end - self.start


@dataclass(frozen=True)
class Shard:
    """One safetensors file: its tensors in the order of their bytes, and its header as stored.

    Attributes:
        header: the header's JSON object, `__metadata__` included, in file order.
        data_start: absolute offset at which tensor data begins.
    """

    path: Path
    tensors: tuple[StoredTensor, ...]
    header: dict[str, Any]
    data_start: int

    @property
    def n_bytes(self) -> int:
        """Size of the file."""
        return self.path.stat().st_size


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files a model is loaded from, by the loader's rule: the single file, else those of the index.

    Returns: paths sorted by name; empty when the folder has no safetensors weights.
    Raises: ModelError when the index is unreadable or names a file that is not there.
    """
    if (folder / SINGLE_FILE).is_file():
        return [folder / SINGLE_FILE]
    if not (folder / INDEX_FILE).is_file():
        return []
    try:
        names = set(json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))["weight_map"].values())
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as err:
        raise ModelError(f"{folder / INDEX_FILE}: not a safetensors index with a weight_map ({err})") from err
    missing = sorted(name for name in names if not (folder / name).is_file())
    if missing:
        raise ModelError(f"{folder}: {INDEX_FILE} names {missing[0]}, which is not there; download the model again")
    return sorted(folder / name for name in names)


def read_shards(folder: Path) -> list[Shard]:
    """Headers of all weight files of a model folder. Raises: ModelError when it has no safetensors weights."""
    shards = [read_shard(path) for path in weight_files(folder)]
    if not shards:
        raise ModelError(f"{folder}: no safetensors weights ({SINGLE_FILE} or {INDEX_FILE}); convert the model first")
    return shards


def read_shard(path: Path) -> Shard:
    """Read one file's header and check that it describes the file's bytes. Raises: ModelError when it does not."""
    with open(path, "rb") as handle:
        size = os.fstat(handle.fileno()).st_size
        length = int.from_bytes(handle.read(8), "little")
        if not 2 <= length <= min(size - 8, _MAX_HEADER):
            raise ModelError(f"{path}: not a safetensors file, or cut short ({size} bytes); download it again")
        try:
            header = json.loads(handle.read(length))
            tensors = [_stored(path, name, entry, 8 + length) for name, entry in header.items() if name != METADATA_KEY]
        except (ValueError, KeyError, TypeError) as err:
            raise ModelError(f"{path}: its safetensors header cannot be read ({err}); download it again") from err
    tensors.sort(key=lambda tensor: tensor.start)
    if tensors and tensors[-1].end != size:
        raise ModelError(f"{path}: expected {tensors[-1].end} bytes, found {size}; the file is cut short or damaged")
    return Shard(path, tuple(tensors), header, 8 + length)


def tensors_by_name(shards: list[Shard]) -> dict[str, StoredTensor]:
    """All tensors of a model. Raises: ModelError when two files hold the same name."""
    found: dict[str, StoredTensor] = {}
    for tensor in (tensor for shard in shards for tensor in shard.tensors):
        if tensor.name in found:
            raise ModelError(f"{tensor.name} is in both {found[tensor.name].path.name} and {tensor.path.name}")
        found[tensor.name] = tensor
    return found


def header_bytes(header: dict[str, Any]) -> bytes:
    """A header as the format stores it: 8 bytes of length, then JSON padded with spaces to a multiple of 8."""
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def header_of(
    tensors: Iterable[tuple[str, str, Sequence[int], int]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """The header of a file that holds tensors one behind the other.

    Args:
        tensors: (name, safetensors' name of the dtype, shape, bytes) of each, in the order of their bytes.
        metadata: of the file; by default that which says PyTorch.
    """
    header: dict[str, Any] = {METADATA_KEY: dict(metadata or {"format": "pt"})}
    at = 0
    for name, dtype, shape, n_bytes in tensors:
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + n_bytes]}
        at += n_bytes
    return header_bytes(header)


def write_index(folder: Path, file_of: Mapping[str, str], n_bytes: int) -> None:
    """Write the index of a model in several files.

    Args:
        file_of: tensor -> name of the file that holds it.
        n_bytes: of all tensors' data.
    """
    index = {"metadata": {"total_size": n_bytes}, "weight_map": dict(file_of)}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def read_bytes(tensor: StoredTensor) -> bytearray:
    """All bytes of one tensor, in a buffer that may be changed."""
    with open(tensor.path, "rb") as handle:
        return read_range(handle, tensor.start, tensor.n_bytes)


def read_range(handle: BinaryIO, start: int, n_bytes: int) -> bytearray:
    """Bytes start … start + n_bytes of an open file."""
    buffer = bytearray(n_bytes)
    read_into(handle, start, memoryview(buffer))
    return buffer


def read_into(handle: BinaryIO, start: int, view: memoryview) -> None:
    """Fill `view` with the bytes of an open file from `start` on. Raises: ModelError when the file ends before."""
    done, n_bytes = 0, len(view)
    while done < n_bytes:
        count = os.preadv(handle.fileno(), [view[done:]], start + done)
        if count == 0:
            raise ModelError(f"{handle.name}: ended at byte {start + done}, expected {start + n_bytes}")
        done += count


def aligned_buffer(n_bytes: int) -> memoryview:
    """Memory that begins at a page, between which and a file the system copies fastest."""
    return memoryview(mmap.mmap(-1, n_bytes))[:n_bytes]


def file_blocks(handle: BinaryIO, start: int, end: int) -> Iterator[memoryview]:
    """Bytes start … end of an open file in blocks of at most 1 MiB, cut where the position is a multiple of that.

    All blocks are read into the same memory: use one before asking for the next.
    """
    buffer = aligned_buffer(_BLOCK)
    while start < end:
        view = buffer[: min(end - start, _BLOCK - start % _BLOCK)]
        read_into(handle, start, view)
        yield view
        start += len(view)


def same_bytes(first: StoredTensor, second: StoredTensor) -> bool:
    """Whether two tensors hold the same bytes."""
    if first.n_bytes != second.n_bytes:
        return False
    with open(first.path, "rb") as ours, open(second.path, "rb") as theirs:
        for done in range(0, first.n_bytes, _BLOCK):
            n_bytes = min(_BLOCK, first.n_bytes - done)
            if read_range(ours, first.start + done, n_bytes) != read_range(theirs, second.start + done, n_bytes):
                return False
    return True


class HashedFile:
    """A file under construction, and the sha256 of what has been written."""

    def __init__(self, path: Path):
        self._handle = open(path, "wb")
        self._digest = hashlib.sha256()
        self.n_bytes = 0

    def __enter__(self) -> "HashedFile":
        return self

    def __exit__(self, *_exception: object) -> None:
        self._handle.close()

    @property
    def sha256(self) -> str:
        """Hexadecimal."""
        return self._digest.hexdigest()

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes, a small piece at a time: the system takes several times longer for pages written by the megabyte."""
        view = memoryview(data)
        for start in range(0, len(view), _PIECE):
            piece = view[start : start + _PIECE]
            self._digest.update(piece)
            self._handle.write(piece)
        self.n_bytes += len(view)

    def copy(self, source: BinaryIO, start: int, end: int) -> None:
        """Append bytes start … end of another file. They are read to be hashed, so no system call copies them unseen."""
        for block in file_blocks(source, start, end):
            self.write(block)


def copy_range(source: BinaryIO, start: int, n_bytes: int, target: BinaryIO) -> None:
    """Append bytes of one file to another without a pass through user space where the system can."""
    target.flush()
    done = 0
    while done < n_bytes:
        count = _copy_some(source, start + done, n_bytes - done, target)
        if count == 0:
            raise ModelError(f"{source.name}: ended at byte {start + done}, expected {start + n_bytes}")
        done += count


def _copy_some(source: BinaryIO, start: int, n_bytes: int, target: BinaryIO) -> int:
    try:
        return os.copy_file_range(source.fileno(), target.fileno(), min(n_bytes, 1 << 30), offset_src=start)
    except OSError as err:
        if err.errno not in _NO_COPY_FILE_RANGE:
            raise
    data = read_range(source, start, min(n_bytes, _BLOCK))
    target.write(data)
    target.flush()
    return len(data)


def _stored(path: Path, name: str, entry: dict[str, Any], data_start: int) -> StoredTensor:
    start, end = entry["data_offsets"]
    return StoredTensor(name, entry["dtype"], tuple(entry["shape"]), path, data_start + start, data_start + end)
