"""Folders written in steps, one file each: an interrupted run is continued by the next one that does the same job."""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from surgery.console.errors import ArtifactError
from surgery.files.artifacts import explaining_disk_errors, file_sha256
from surgery.files.folders import check_folder, make_folder, swap_folder

JOURNAL = "journal.jsonl"
_LOCK = "lock"


@dataclass
class Unfinished:
    """A folder under construction.

    Attributes:
        folder: where the files go; renamed to the target at the end.
        finished: file name -> what was noted of it; after an interruption, the files whose size and sha256 are still those.
    """

    folder: Path
    finished: dict[str, dict[str, Any]] = field(default_factory=dict)

    def finish(self, name: str, entry: Mapping[str, Any]) -> None:
        """Note that a file is complete.

        Args:
            entry: `n_bytes`, `sha256`, and whatever the caller needs to go on without making the file again.
        """
        self.finished[name] = {"file": name, **entry}
        with open(self.folder.parent / JOURNAL, "a", encoding="utf-8") as journal:
            journal.write(json.dumps(self.finished[name]) + "\n")


@contextmanager
def resuming_folder(
    target: Path | str,
    force: bool = False,
    *,
    kind: str,
    is_kind: Callable[[Path], bool],
    job: Mapping[str, Any],
) -> Iterator[Unfinished]:
    """Yield a folder beside `target` with the finished files of an interrupted run; rename it to `target` on success.

    It lies in a hidden folder with a journal, so it is never taken for a finished one. A killed process and Ctrl-C leave
    it there; an exception deletes it, for the job itself has failed. A process holds a lock on it while it writes.

    Args:
        target, force, kind, is_kind: as `replacing_folder`.
        job: everything that decides the files, as JSON; what was made for another job is deleted.
    Raises: as `replacing_folder`; ArtifactError when another process is writing `target`.
    """
    target = Path(target).absolute()
    scratch = scratch_of(target)
    check_folder(target, force, kind=kind, is_kind=is_kind)
    with explaining_disk_errors(target), _locked(scratch, target):
        _put_back(scratch, target)
        check_folder(target, force, kind=kind, is_kind=is_kind)
        unfinished = _take_up(scratch, json.loads(json.dumps(job)))
        try:
            yield unfinished
            swap_folder(unfinished.folder, target, scratch / "old")
        except BaseException as err:
            if isinstance(err, Exception) or not unfinished.finished:
                shutil.rmtree(scratch, ignore_errors=True)
            raise
        shutil.rmtree(scratch, ignore_errors=True)


def scratch_of(target: Path | str) -> Path:
    """The hidden folder beside `target` in which it is made."""
    target = Path(target).absolute()
    return target.with_name(f".{target.name}.part")


def unfinished_files(target: Path | str) -> list[str]:
    """Names of the files that an interrupted run has finished, by its journal."""
    return [entry["file"] for entry in _read(scratch_of(target) / JOURNAL)[1:]]


def n_bytes_unfinished(target: Path | str) -> int:
    """Bytes that an interrupted run holds on the disk: they are used again or given back."""
    return sum(path.stat().st_size for path in scratch_of(target).rglob("*") if path.is_file())


@contextmanager
def _locked(scratch: Path, target: Path) -> Iterator[None]:
    """Hold the scratch folder's lock. Raises: ArtifactError when another process does."""
    while True:
        make_folder(scratch)
        try:
            lock = open(scratch / _LOCK, "w")
        except FileNotFoundError:  # another process has just finished and deleted the folder
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            lock.close()
            raise ArtifactError(
                f"{target}: another process is writing it; wait for it or choose another output"
            ) from err
        if (scratch / _LOCK).exists() and os.path.samestat(os.fstat(lock.fileno()), os.stat(scratch / _LOCK)):
            break
        lock.close()
    try:
        yield
    finally:
        lock.close()


def _put_back(scratch: Path, target: Path) -> None:
    """Undo a replacement that was killed between its two renames."""
    if (scratch / "old").exists() and not target.exists():
        (scratch / "old").rename(target)


def _take_up(scratch: Path, job: Mapping[str, Any]) -> Unfinished:
    """What an earlier run of the same job has finished; everything else in the scratch folder is deleted."""
    first, *entries = _read(scratch / JOURNAL) or [{}]
    folder = scratch / "new"
    kept = [entry for entry in entries if first.get("job") == job and _is_intact(folder, entry)]
    _delete_all_but(folder, {entry["file"] for entry in kept})
    part = scratch / f"{JOURNAL}.part"
    part.write_text("".join(json.dumps(line) + "\n" for line in ({"job": job}, *kept)), encoding="utf-8")
    part.replace(scratch / JOURNAL)
    return Unfinished(folder, {entry["file"]: entry for entry in kept})


def _is_intact(folder: Path, entry: Mapping[str, Any]) -> bool:
    path = folder / entry["file"]
    return path.is_file() and path.stat().st_size == entry["n_bytes"] and file_sha256(path) == entry["sha256"]


def _delete_all_but(folder: Path, names: set[str]) -> None:
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in names:
            path.unlink()


def _read(journal: Path) -> list[dict[str, Any]]:
    """The journal's lines; a last one that was cut off is left out, and of a damaged one all, so that the job starts anew."""
    if not journal.is_file():
        return []
    try:
        return [json.loads(line) for line in journal.read_bytes().split(b"\n")[:-1]]
    except ValueError:
        return []
