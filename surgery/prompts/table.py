"""Where a prompt table comes from: a file, two files, a Hugging Face dataset, or the built-in sets."""

from dataclasses import dataclass, replace
from pathlib import Path

from surgery.artifacts import file_sha256
from surgery.errors import PromptFileError
from surgery.prompts import builtin, hub
from surgery.prompts.layouts import HARMFUL, Layout, is_header, layout_of
from surgery.prompts.rows import Row, read_rows


@dataclass(frozen=True)
class Table:
    """Rows of one layout with their origin; attributes as those of PromptSet."""

    source: str
    layout: Layout
    rows: tuple[Row, ...]
    files: tuple[tuple[str, str], ...]
    revision: str | None = None
    left_out: int = 0


def open_table(source: str, role: str | None, split: str | None = None) -> Table:
    """Find and read the table that holds the prompts of a role.

    Args:
        source: a file; "HARMFUL,SAFE", two files; "hf:ORG/NAME[@REVISION][:CONFIG][:SPLIT]" and "[START:STOP]";
            "builtin[:extraction|evaluation|all][:tier1|tier2][:harmless]".
        role: "harmful" or "safe": which of two files or splits; None: the only one.
        split: of the built-in sets, where the source names none.
    Raises: PromptFileError.
    """
    if builtin.is_builtin(source):
        selection = builtin.select(source, split)
        table = _read(source, (selection.path,))
        rows = tuple(row for row in table.rows if selection.takes(row.fields))
        layout = replace(table.layout, name=selection.name)
        return Table(source, layout, rows, table.files, left_out=len(table.rows) - len(rows))
    if hub.is_dataset(source):
        found = hub.find_split(source, role)
        table = _read(source, found.paths, found.revision)
        taken = hub.row_range(source, found.rows, len(table.rows))
        rows = tuple(table.rows[number] for number in taken)
        return replace(table, rows=rows, left_out=len(table.rows) - len(rows))
    return _read(source, (_file(source, role),))


def _file(source: str, role: str | None) -> Path:
    path = Path(source)
    if "," not in source or path.exists():
        return path
    parts = source.split(",")
    if len(parts) != 2:
        raise PromptFileError(f"{source}: expected one file, or two as HARMFUL,SAFE, found {len(parts)}")
    return Path(parts[0] if role in (None, HARMFUL) else parts[1])


def _read(source: str, paths: tuple[Path, ...], revision: str | None = None) -> Table:
    rows = [row for path in paths for row in read_rows(path, is_header)]
    if len(paths) > 1:  # rows of several shards: number them through, so that they are different prompts
        rows = [Row(row.where, number, row.fields) for number, row in enumerate(rows, start=1)]
    layout = layout_of(rows, str(paths[0]))
    return Table(source, layout, tuple(rows), tuple((path.name, file_sha256(path)) for path in paths), revision)
