"""Rows of one dataclass in a JSONL file: appended whole, read with their line numbers, a torn last line tolerated."""

import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Generic, TypeVar

from surgery.console.errors import ArtifactError
from surgery.files.artifacts import explaining_disk_errors, replacing

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Row = TypeVar("Row", bound="DataclassInstance")

SYNC_SECONDS = 1.0
SPARSE: dict[str, bool] = {"sparse": True}
_KEPT = "what was there is kept; make room and repeat the command"
_PLAIN_ROW = re.compile(rb'\{"item_id":"(\w+)",.*\}\n')


class RowFile(Generic[Row]):
    """An append-only JSONL file with one row of `kind` a line.

    What `append` wrote is with the operating system when it returns, so it outlives the death of the process at any
    moment. It is forced to the disk at most once every SYNC_SECONDS while many appends follow one another, and by
    `sync`; a loss of power can take the rows of that last second.

    Fields with `metadata=SPARSE` are left out of a line while they hold their default.

    Attributes:
        path: the file; it need not exist.
        kind: the frozen dataclass of its rows, whose first field is `item_id`.
    """

    def __init__(self, path: Path, kind: type[Row]):
        self.path, self.kind = path, kind
        self._sparse = {field.name: field.default for field in fields(kind) if field.metadata.get("sparse")}
        if MISSING in self._sparse.values():
            raise ValueError(f"{kind.__name__}: a sparse field needs a default")
        self._synced_at = -SYNC_SECONDS
        self._unsynced = False

    def append(self, rows: Iterable[Row], sync: bool = True) -> int:
        """Append rows; returns how many.

        Args:
            sync: force them to the disk now; without it, only if that was not done within SYNC_SECONDS.
        Raises: DiskError; what was there before is kept.
        """
        lines = [self.line(row) for row in rows]
        if lines:
            with explaining_disk_errors(self.path, _KEPT):
                _mend_last_line(self.path)
                with open(self.path, "ab") as handle:
                    handle.write(b"".join(lines))
                    handle.flush()
                    self._unsynced = True
                    if sync or time.monotonic() - self._synced_at >= SYNC_SECONDS:
                        self._force(handle)
        return len(lines)

    def sync(self) -> None:
        """Force to the disk what was appended and is not there yet. Raises: DiskError."""
        if self._unsynced and self.path.exists():
            with explaining_disk_errors(self.path, _KEPT), open(self.path, "ab") as handle:
                self._force(handle)

    def rows(self, torn: bool = True) -> Iterator[Row]:
        """All rows, in the order they were written.

        Args:
            torn: pass over a torn last line, which a killed `append` leaves; False for a file that only `write` writes.
        Raises: ArtifactError, with the line of a damaged one.
        """
        return (self._row(number, line) for number, line in self._lines(torn))

    def item_ids(self) -> Iterator[str]:
        """`item_id` of every row, several times faster than `rows`: a line of the usual form is not read further."""
        for number, line in self._lines():
            plain = _PLAIN_ROW.fullmatch(line)
            yield plain[1].decode() if plain else self._row(number, line).item_id  # type: ignore[attr-defined]

    def replace(self, rows: Iterable[Row]) -> None:
        """Write the file anew with these rows, whole or not at all; a file that is not there is not made."""
        if self.path.exists():
            self.write(rows)

    def write(self, rows: Iterable[Row]) -> None:
        """Write a file of these rows, in place of what is there, whole or not at all."""
        with replacing(self.path, force=True) as part, open(part, "wb") as handle:
            handle.writelines(map(self.line, rows))

    def line(self, row: Row) -> bytes:
        """One row as it stands in the file, with its newline."""
        record = {key: value for key, value in vars(row).items() if self._sparse.get(key, MISSING) != value}
        try:
            return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        except UnicodeEncodeError:  # half of a surrogate pair, which UTF-8 cannot hold but a JSON escape can
            return json.dumps(record, separators=(",", ":")).encode() + b"\n"

    def _lines(self, torn: bool = True) -> Iterator[tuple[int, bytes]]:
        """Numbered lines that hold anything, without a torn last one if that is passed over."""
        if not self.path.exists():
            return
        with open(self.path, "rb") as handle:
            for number, line in enumerate(handle, start=1):
                if line == b"\n" or (torn and not line.endswith(b"\n") and not _is_json(line)):
                    continue  # the latter can only be the last: torn by a killed writer
                yield number, line

    def _row(self, number: int, line: bytes) -> Row:
        try:
            return self.kind(**json.loads(line.decode()))
        except (ValueError, TypeError) as err:
            name = self.kind.__name__.lower()
            raise ArtifactError(f"{self.path}, line {number}: not a {name} row ({err})") from err

    def _force(self, handle: BinaryIO) -> None:
        os.fsync(handle.fileno())
        self._synced_at, self._unsynced = time.monotonic(), False


def _mend_last_line(path: Path) -> None:
    """Drop a torn last line, left by a killed writer; of a whole one that only lacks its newline, add that."""
    if not path.exists():
        return
    with open(path, "rb+") as handle:
        size = handle.seek(0, os.SEEK_END)
        if not size or _byte_at(handle, size - 1) == b"\n":
            return
        handle.seek(0)
        start = handle.read().rfind(b"\n") + 1
        handle.seek(start)
        if _is_json(handle.read()):
            handle.write(b"\n")
        else:
            handle.truncate(start)


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _byte_at(handle: BinaryIO, position: int) -> bytes:
    handle.seek(position)
    return handle.read(1)
