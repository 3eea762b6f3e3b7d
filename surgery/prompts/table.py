"""Where a prompt table comes from: a file, two files, a Hugging Face dataset, or the built-in sets."""

from dataclasses import dataclass, replace
from pathlib import Path

from surgery.console.errors import PromptFileError
from surgery.files.artifacts import file_sha256
from surgery.prompts import builtin, hub
from surgery.prompts.layouts import HARMFUL, Layout, is_header, layout_of
from surgery.prompts.rows import Row, read_rows


@dataclass(frozen=True)
class PromptTable:
    """Rows of one layout with their origin; attributes as those of PromptSet."""

    source: str
    layout: Layout
    rows: tuple[Row, ...]
    files: tuple[tuple[str, str], ...]
    revision: str | None = None
    left_out: int = 0


def open_table(source: str, role: str | None, split: str | None = None) -> PromptTable:
    """Find and read the table that holds the prompts of a role.

    Args:
        source: a file; "HARMFUL,SAFE", two files; "hf:ORG/NAME[@REVISION][:CONFIG][:SPLIT]" and "[START:STOP]", as
            `hub.find_splits` has them; "builtin[:extraction|evaluation|all][:tier1|tier2][:harmless]".
        role: "harmful" or "safe": which of two files or splits; None: the only one.
        split: of the built-in sets, where the source names none.
    Raises: PromptFileError.
    """
    if builtin.is_builtin(source):
        selection = builtin.select(source, split)
        table = _read(source, (selection.path,))
        rows = tuple(row for row in table.rows if selection.takes(row.fields))
        layout = replace(table.layout, name=selection.name)
        return PromptTable(source, layout, rows, table.files, left_out=len(table.rows) - len(rows))
    if hub.is_dataset(source):
        return _of_dataset(source, role)
    return _read(source, (_file(source, role),))


def _file(source: str, role: str | None) -> Path:
    path = Path(source)
    if "," not in source or path.exists():
        return path
    parts = source.split(",")
    if len(parts) != 2:
        raise PromptFileError(f"{source}: expected one file, or two as HARMFUL,SAFE, found {len(parts)}")
    return Path(parts[0] if role in (None, HARMFUL) else parts[1])


def _of_dataset(source: str, role: str | None) -> PromptTable:
    """The rows of a dataset's splits. Raises: PromptFileError, also when a row is taken twice."""
    found = hub.find_splits(source, role)
    tables = {split: _read(source, paths, found.revision) for split, paths in found.paths.items()}
    taken: dict[str, list[int]] = {split: [] for split in tables}
    rows: list[Row] = []
    for part in found.parts:
        table = tables[part.split]
        numbers = hub.row_range(source, part.rows, len(table.rows))
        taken[part.split] += numbers
        split = part.split if len(tables) > 1 else ""
        rows += [replace(table.rows[number], split=split) for number in numbers]
    twice = [split for split, numbers in taken.items() if len(set(numbers)) < len(numbers)]
    if twice:
        raise PromptFileError(f"{source}: takes rows of {twice[0]} twice; expected slices that do not overlap")
    paths = list(dict.fromkeys(path for paths in found.paths.values() for path in paths))
    alike = len({path.name for path in paths}) < len(paths)
    names = [path.relative_to(found.folder).as_posix() if alike else path.name for path in paths]
    files = tuple(zip(names, map(file_sha256, paths), strict=True))
    n_rows = sum(len(table.rows) for table in tables.values())
    layout = tables[found.parts[0].split].layout
    return PromptTable(source, layout, tuple(rows), files, found.revision, n_rows - len(rows))


def _read(source: str, paths: tuple[Path, ...], revision: str | None = None) -> PromptTable:
    rows = [row for path in paths for row in read_rows(path, is_header)]
    if len(paths) > 1:  # rows of several shards: number them through, so that they are different prompts
        rows = [Row(row.where, number, row.fields) for number, row in enumerate(rows, start=1)]
    layout = layout_of(rows, str(paths[0]))
    return PromptTable(source, layout, tuple(rows), tuple((path.name, file_sha256(path)) for path in paths), revision)
