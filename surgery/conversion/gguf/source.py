"""A GGUF file, or the parts of a split one: what it says of itself, its tensors, and how each is quantized."""

import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.console.errors import ModelError

if TYPE_CHECKING:
    from gguf import GGUFReader, ReaderTensor

MAGIC = b"GGUF"
_PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<total>\d{5})\.gguf")
_BLOCK_VALUES = 1 << 24  # 64 MiB of float32 at a time


@dataclass(frozen=True)
class GGUFTensor:
    """One tensor as the file has it.

    Attributes:
        name: as in the file: "blk.0.attn_q.weight".
        quantization: ggml's name of its type: "Q4_K", "F32".
        shape: as in PyTorch, outermost first.
    """

    name: str
    quantization: str
    shape: tuple[int, ...]
    _stored: "ReaderTensor"

    def values(self) -> np.ndarray:
        """[*shape] float32, as the library dequantizes it."""
        return self.rows(0, self._n_rows).reshape(self.shape)

    def blocks(self) -> Iterator[np.ndarray]:
        """The same a block of rows at a time: [n_rows, last dimension] float32."""
        step = max(1, _BLOCK_VALUES // self.shape[-1])
        for start in range(0, self._n_rows, step):
            yield self.rows(start, start + step)

    def rows(self, start: int, end: int) -> np.ndarray:
        """Some rows, counted over all but the last dimension: [end - start, last dimension] float32."""
        from gguf import dequantize

        stored = self._stored.data.reshape(self._n_rows, -1)[start:end]
        return np.asarray(dequantize(stored, self._stored.tensor_type), np.float32).reshape(-1, self.shape[-1])

    @property
    def _n_rows(self) -> int:
        return math.prod(self.shape[:-1])


@dataclass(frozen=True)
class GGUFSource:
    """What is read of one model.

    Attributes:
        files: the file, or all parts of a split one in order; the first holds the metadata.
        metadata: key -> value, but for lists of texts.
    """

    files: tuple[Path, ...]
    metadata: dict[str, Any]
    tensors: tuple[GGUFTensor, ...]

    @property
    def architecture(self) -> str:
        """GGUF's name of it: "qwen2"."""
        return str(self.metadata["general.architecture"])


def is_gguf(path: Path) -> bool:
    """Whether a path is a file that begins as GGUF files do, or is at least called like one."""
    if not path.is_file():
        return path.suffix == ".gguf"
    with open(path, "rb") as file:
        return file.read(4) == MAGIC or path.suffix == ".gguf"


def read_gguf(path: Path) -> GGUFSource:
    """Read what a file says of itself; tensors are mapped, not read.

    Raises: ModelError: no file, not GGUF, cut short, of a quantization that the library does not know, a part missing, a
        tensor twice.
    """
    files = _parts(path)
    readers = [_opened(file) for file in files]
    metadata = _metadata(readers[0])
    if "general.architecture" not in metadata:
        raise ModelError(f"{path}: does not say its architecture (general.architecture); it is no language model")
    tensors = [_tensor(file, stored) for file, reader in zip(files, readers, strict=True) for stored in reader.tensors]
    names = [tensor.name for tensor in tensors]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ModelError(f"{path}: holds {twice[0]} twice; convert the model to GGUF again")
    n_stated = metadata.get("split.tensors.count", len(tensors))
    if n_stated != len(tensors):
        raise ModelError(f"{path}: its parts hold {len(tensors)} tensors, expected {n_stated}; download them again")
    return GGUFSource(files, metadata, tuple(tensors))


def _parts(path: Path) -> tuple[Path, ...]:
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    found = _PART.fullmatch(path.name)
    if found is None:
        return (path,)
    total = int(found["total"])
    parts = [path.with_name(f"{found['stem']}-{k:05}-of-{total:05}.gguf") for k in range(1, total + 1)]
    if missing := [part.name for part in parts if not part.is_file()]:
        raise ModelError(f"{path}: one of {total} parts, of which {missing[0]} is not beside it; download all of them")
    return tuple(parts)


def _opened(path: Path) -> "GGUFReader":
    with open(path, "rb") as file:
        if (found := file.read(4)) != MAGIC:
            raise ModelError(f"{path}: not a GGUF file (it begins with {found!r}, expected {MAGIC!r})")
    try:
        return _reader_class()(path)
    except (ValueError, IndexError, KeyError, OverflowError, struct.error) as err:
        said = str(err).splitlines()[0] if str(err) else type(err).__name__
        if "is not a valid GGMLQuantizationType" in said:
            raise ModelError(f"{path}: a tensor's quantization is not known ({said}); upgrade gguf") from err
        raise ModelError(f"{path}: cut short or damaged ({said}); download it again") from err


def _metadata(reader: "GGUFReader") -> dict[str, Any]:
    from gguf import GGUFValueType

    lists = {key: field for key, field in reader.fields.items() if field.types[:1] == [GGUFValueType.ARRAY]}
    single = {key: field.contents() for key, field in reader.fields.items() if key not in lists}
    return single | {key: field.parts[field.data[0]].tolist() for key, field in lists.items() if field.data}


@cache
def _reader_class() -> "type[GGUFReader]":
    """The library's reader without the lists of strings (vocabularies), of which it makes three arrays a string."""
    from gguf import GGUFEndian, GGUFReader, GGUFValueType

    class Reader(GGUFReader):
        def _get_field_parts(
            self, orig_offs: int, raw_type: int
        ) -> tuple[int, list[Any], list[int], list[GGUFValueType]]:
            if raw_type != GGUFValueType.ARRAY:
                return super()._get_field_parts(orig_offs, raw_type)
            kind = GGUFValueType(int(self._get(orig_offs, np.uint32)[0]))
            n, start = int(self._get(orig_offs + 4, np.uint64)[0]), orig_offs + 12
            if kind == GGUFValueType.STRING:
                return self._end_of_strings(start, n) - orig_offs, [], [], [GGUFValueType.ARRAY, kind]
            values = self._get(start, self.gguf_scalar_to_np[kind], n)
            return 12 + int(values.nbytes), [values], [0], [GGUFValueType.ARRAY, kind]

        def _end_of_strings(self, at: int, n: int) -> int:
            length = struct.Struct(("<" if self.endianess == GGUFEndian.LITTLE else ">") + "Q")
            data = self.data.data
            for _ in range(n):
                at += 8 + length.unpack_from(data, at)[0]
            return at

    return Reader


def _tensor(path: Path, stored: "ReaderTensor") -> GGUFTensor:
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import _type_traits  # which types `dequantize` knows

    plain = (GGMLQuantizationType.F32, GGMLQuantizationType.F16)
    quantization = stored.tensor_type
    if quantization not in plain and quantization not in _type_traits:
        raise ModelError(
            f"{path}: {stored.name} is {quantization.name}, which gguf does not dequantize; use another file"
        )
    return GGUFTensor(stored.name, quantization.name, tuple(int(n) for n in reversed(stored.shape)), stored)
