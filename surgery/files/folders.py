"""Folders written whole or not at all: made beside the target and renamed."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from surgery.console.errors import ArtifactError, DiskError, OutputExistsError
from surgery.files.artifacts import abandoned_parts, explaining_disk_errors, part_prefix


@contextmanager
def replacing_folder(
    target: Path | str, force: bool = False, *, kind: str, is_kind: Callable[[Path], bool]
) -> Iterator[Path]:
    """Yield an empty folder beside `target`; rename it to `target` on success, delete it on any failure.

    Missing parent folders are made.

    Args:
        force: replace what is at `target`, if it is of this kind or an empty folder.
        kind: what is written, with its article, for the message: "a report".
        is_kind: whether a folder holds one.
    Raises: as `check_folder`, and DiskError.
    """
    check_folder(target, force, kind=kind, is_kind=is_kind)
    target = Path(target).absolute()
    with explaining_disk_errors(target):
        scratch = _scratch_beside(target)
        try:
            part = scratch / "new"
            part.mkdir()
            yield part
            swap_folder(part, target, scratch / "old")
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def check_folder(target: Path | str, force: bool = False, *, kind: str, is_kind: Callable[[Path], bool]) -> None:
    """Find out before the work whether a folder may be written after it; arguments as `replacing_folder`.

    Raises: OutputExistsError without `force`; ArtifactError when `force` would replace something else.
    """
    target = Path(target)
    if not target.exists():
        return
    if not force:
        raise OutputExistsError(target)
    if not target.is_dir() or (any(target.iterdir()) and not is_kind(target)):
        raise ArtifactError(f"{target}: is not {kind}, so --force does not replace it; choose another output")


def make_folder(path: Path) -> None:
    """Make a folder and its missing parents. Raises: DiskError when that is not possible, ArtifactError under a file."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (NotADirectoryError, FileExistsError) as err:
        raise ArtifactError(f"{path}: lies inside something that is not a folder; choose another output") from err
    except OSError as err:
        raise DiskError(f"cannot write {path}: {err.strerror}; choose another output") from err


def _scratch_beside(target: Path) -> Path:
    make_folder(target.parent)
    for abandoned in abandoned_parts(target):
        if not (abandoned / "old").exists():  # killed between two renames: the only copy of what was there
            shutil.rmtree(abandoned, ignore_errors=True)
    try:
        return Path(tempfile.mkdtemp(prefix=part_prefix(target), suffix=".part", dir=target.parent))
    except OSError as err:
        raise DiskError(f"cannot write {target}: {err.strerror}; choose another output") from err


def swap_folder(part: Path, target: Path, old: Path) -> None:
    """Rename `part` to `target`, setting what was there aside as `old` and putting it back if that fails."""
    if target.exists():
        target.rename(old)
    try:
        part.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
