"""Replacing what took long to make: the old one stays until the new one is there, whatever happens in between."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from eval.records.run import check_run


@dataclass(frozen=True)
class Kind:
    """A kind of folder that --force replaces.

    Attributes:
        check: raises ArtifactError when a folder is none of these, or is being written.
        is_begun: whether a folder holds something that took long to make.
        is_finished: whether a folder holds enough for what it replaces to go.
    """

    check: Callable[[Path], None]
    is_begun: Callable[[Path], bool]
    is_finished: Callable[[Path], bool]


def replacing_run(path: Path, force: bool) -> AbstractContextManager[None]:
    """`replacing` for runs: the first response in its place lets the old one go."""
    return replacing(path, force, RUN)


@contextmanager
def replacing(path: Path, force: bool, kind: Kind) -> Iterator[None]:
    """With `force`, move the folder at `path` out of the way until its replacement is finished.

    It comes back if its replacement is not even begun at the end, and stays aside while that is unfinished. That also
    holds when this process is killed: the next call that names `path` settles it first.

    Raises: ArtifactError when what is there is not of this kind, or is being written.
    """
    settle(path, kind)
    if force and path.exists():
        kind.check(path)
        if aside_of(path).exists():  # what is there is an unfinished replacement itself
            shutil.rmtree(path)
        else:
            path.rename(aside_of(path))
    try:
        yield
    finally:
        settle(path, kind)


def settle(path: Path, kind: "Kind | None" = None) -> None:
    """Where a folder was moved out of the way of `path`: remove it or put it back, if it is time for either.

    Args:
        kind: runs by default.
    Raises: ArtifactError when the replacement is being written.
    """
    aside, kind = aside_of(path), kind or RUN
    if not aside.exists():
        return
    if path.exists() and not _is_bare(path):
        kind.check(path)
    if kind.is_finished(path):
        shutil.rmtree(aside)
    elif not kind.is_begun(path):
        if path.exists():
            shutil.rmtree(path)
        aside.rename(path)


def _is_bare(path: Path) -> bool:
    """Whether a folder holds nothing yet but files under construction: its writer was killed at once."""
    return path.is_dir() and all(found.name.startswith(".") for found in path.iterdir())


def aside_of(path: Path) -> Path:
    """Where a folder is kept that is being replaced."""
    path = path.resolve()
    return path.with_name(f".{path.name}.replaced")


def has_responses(path: Path) -> bool:
    """Whether a run folder holds a response."""
    rows = path / "generations.jsonl"
    return rows.exists() and rows.stat().st_size > 0


def _check_run(path: Path) -> None:
    with check_run(path).writing():
        return


RUN = Kind(_check_run, has_responses, has_responses)
