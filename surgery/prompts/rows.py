"""Rows of a table in a file: JSONL, JSON, CSV (any common delimiter), plain text lines, Parquet.

Texts stay as they stand and faults name their line: readers that guess types, as pandas and with it the datasets library,
make 7 of an id "007" and nothing of a prompt "NA".
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.console.errors import PromptFileError

DELIMITERS = (",", ";", "\t", "|")
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".parquet")
_PROSE_WORDS = 4  # a cell of so many words is a prompt, not the name of a column
_BEYOND = "its JSON is nested too deeply or holds a number too long to be read; expected texts"
IsHeader = Callable[[Sequence[str]], bool]


@dataclass(frozen=True)
class Row:
    """One record.

    Attributes:
        where: file and line, for messages.
        number: of its first line in the file, from 1; of the record, where a format has no lines.
        fields: column name in lower case -> value.
        split: of a dataset, where its rows are taken together with those of another: its ids are then "SPLIT:ID".
    """

    where: str
    number: int
    fields: dict[str, Any]
    split: str = ""


def read_rows(path: Path, is_header: IsHeader) -> list[Row]:
    """Read every record of a file; its suffix says the format, and where that is unknown its first character.

    Args:
        is_header: whether these column names are those of a known layout; decides a CSV's delimiter and whether its
            first line names columns. Without such a line, one column is "prompt" and two are "harmful" and "safe".
    Raises: PromptFileError naming the line: unreadable, not of its format, columns without a known name.
    """
    suffix, content = path.suffix.lower(), _content(path)
    if suffix == ".parquet":
        return list(_parquet_rows(path, content))
    text = _text(path, content)
    first = text.lstrip()[:1]
    if suffix == ".txt":
        lines = enumerate(text.split("\n"), start=1)
        return [Row(f"{path}, line {n}", n, {"prompt": line.strip()}) for n, line in lines if line.strip()]
    if suffix in (".csv", ".tsv") or (suffix not in SUFFIXES and first not in ("{", "[", "")):
        return list(_csv_rows(path, text, is_header))
    return list(_json_rows(path, text) if suffix != ".jsonl" and first == "[" else _jsonl_rows(path, text))


def _text(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")  # the mark that spreadsheets write before CSV
    except UnicodeDecodeError as err:
        line = err.object.count(b"\n", 0, err.start) + 1
        raise PromptFileError(
            f"{path}, line {line}: not UTF-8 text (byte {err.start} of the file); save it as UTF-8"
        ) from err


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as err:
        raise PromptFileError(f"{path}: no such file; expected prompts as JSONL or CSV") from err
    except IsADirectoryError as err:
        raise PromptFileError(f"{path}: is a folder; expected a file of prompts, JSONL or CSV") from err
    except OSError as err:
        raise PromptFileError(f"{path}: cannot be read ({err.strerror})") from err


def _jsonl_rows(path: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):  # splitlines would cut at U+2028 inside a prompt
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as err:
            raise PromptFileError(f"{path}, line {number}: not JSON ({err.msg} at column {err.colno})") from err
        except (ValueError, RecursionError) as err:
            raise PromptFileError(f"{path}, line {number}: {_BEYOND}") from err
        yield _json_row(record, f"{path}, line {number}", number)


def _json_rows(path: Path, text: str) -> Iterator[Row]:
    try:
        records = json.loads(text)
    except json.JSONDecodeError as err:
        raise PromptFileError(f"{path}, line {err.lineno}: not JSON ({err.msg} at column {err.colno})") from err
    except (ValueError, RecursionError) as err:
        raise PromptFileError(f"{path}: {_BEYOND}") from err
    for number, record in enumerate(records, start=1):
        yield _json_row(record, f"{path}, record {number}", number)


def _json_row(record: Any, where: str, number: int) -> Row:
    if isinstance(record, str):
        record = {"prompt": record}
    if not isinstance(record, dict):
        raise PromptFileError(f"{where}: expected a JSON object or a text, found {type(record).__name__}")
    return Row(where, number, {str(key).strip().lower(): value for key, value in record.items()})


def _csv_rows(path: Path, text: str, is_header: IsHeader) -> Iterator[Row]:
    records = _named_records(path, text, is_header)
    names = next(records, (0, []))[1]
    for number, cells in records:
        where = f"{path}, line {number}"
        if len(cells) != len(names):
            raise PromptFileError(
                f"{where}: expected {len(names)} columns ({', '.join(names)}), found {len(cells)}; a text that holds "
                "the delimiter or a quote must be quoted"
            )
        yield Row(where, number, dict(zip(names, cells, strict=True)))


def _named_records(path: Path, text: str, is_header: IsHeader) -> Iterator[tuple[int, list[str]]]:
    """The column names, then (line, cells) of every record."""
    firsts = {delimiter: _first_record(text, delimiter) for delimiter in DELIMITERS}
    headers = {delimiter: _names(cells) for delimiter, cells in firsts.items() if is_header(_names(cells))}
    if headers:
        delimiter = max(headers, key=lambda key: len(headers[key]))
        records = _csv_records(path, text, delimiter)
        next(records)
        yield 1, headers[delimiter]
    else:
        delimiter = max(firsts, key=lambda key: _n_alike(path, text, key))
        yield 1, _nameless(path, firsts[delimiter])
        records = _csv_records(path, text, delimiter)
    yield from records


def _first_record(text: str, delimiter: str) -> list[str]:
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        return next((cells for cells in rows if any(cell.strip() for cell in cells)), [])
    except csv.Error:  # met again, with its line, by the reading of all records
        return []


def _n_alike(path: Path, text: str, delimiter: str) -> int:
    """Columns of every record if all have as many, else 0."""
    try:
        counts = {len(cells) for _, cells in _csv_records(path, text, delimiter)}
    except PromptFileError:
        return 0
    return counts.pop() if len(counts) == 1 else 0


def _nameless(path: Path, first: list[str]) -> list[str]:
    """Names for the columns of a CSV whose first record is a prompt already."""
    names = {1: ["prompt"], 2: ["harmful", "safe"]}.get(len(first))
    if names is None or not all(len(cell.split()) >= _PROSE_WORDS for cell in first):
        raise PromptFileError(
            f"{path}, line 1: columns {', '.join(_names(first)) or 'none'} are of no known layout; expected a first line "
            "such as id,prompt,category,tier or id,harmful,safe,category,tier"
        )
    return names


def _names(cells: Sequence[str]) -> list[str]:
    return [cell.strip().lower() for cell in cells]


def _csv_records(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(first line, cells) of every record that is not blank."""
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    start = 1
    while True:
        try:
            cells = next(rows, None)
        except csv.Error as err:
            raise PromptFileError(f"{path}, line {start}: not CSV ({err}); is a quote left open or unescaped?") from err
        if cells is None:
            return
        if any(cell.strip() for cell in cells):
            yield start, cells
        start = rows.line_num + 1


def _parquet_rows(path: Path, content: bytes) -> Iterator[Row]:
    from pyarrow import ArrowException
    from pyarrow.parquet import read_table

    try:
        records = read_table(io.BytesIO(content)).to_pylist()
    except (OSError, ArrowException) as err:
        raise PromptFileError(f"{path}: cannot be read as Parquet ({str(err).splitlines()[0]})") from err
    for number, record in enumerate(records, start=1):
        yield _json_row(record, f"{path}, record {number}", number)
