"""A report before it has a form: chapters of sections of tables, figures and paragraphs."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from eval.statistics.intervals import Interval

BLANK = "–"


@dataclass(frozen=True)
class PValue:
    """A p, written the way p is written; `adjusted` ones are bold when below 0.05."""

    value: float
    adjusted: bool = False


@dataclass(frozen=True)
class Measured:
    """A number with its own format, such as "g" for an alpha or ".2f" for Cohen's d."""

    value: float
    spec: str


@dataclass(frozen=True)
class Range:
    """A least and a greatest value without an estimate between them; in the CSV key_low and key_high."""

    low: float
    high: float


@dataclass(frozen=True)
class Count:
    """Scored responses of all; in the CSV n_scored, n and n_unscored."""

    n_scored: int
    n: int


@dataclass(frozen=True)
class Cell:
    """A value with an aside.

    Attributes:
        value: as in `Table.rows`.
        note: small text after the value, or below it when `below`.
        title: shown on hover.
    """

    value: "Value"
    note: str = ""
    title: str = ""
    below: bool = False


Value = None | str | int | float | Interval | PValue | Measured | Range | Count | Cell


@dataclass(frozen=True)
class Column:
    """A column of a table: `key` heads it in the CSV, `label` on the page; `help` explains it on hover.

    Attributes:
        prose: its cells hold sentences, and wrap.
        read: its cell in the row of an item; by default the item's attribute named `key`.
    """

    key: str
    label: str
    help: str = ""
    prose: bool = False
    read: Callable[[Any], Value] | None = field(default=None, compare=False, repr=False)

    def cell(self, item: Any) -> Value:
        """What stands in the row of an item."""
        return self.read(item) if self.read else getattr(item, self.key)


@dataclass(frozen=True)
class Table:
    """A table; `rows` hold one value per column.

    Attributes:
        id: names its CSV; unique within the chapter.
        muted: indices of rows that are shown but not considered (excluded layers).
        judge: label of the judge whose verdicts it shows, "" when it shows none.
        notes: footnotes, one a line.
    """

    id: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Value]]
    muted: frozenset[int] = frozenset()
    judge: str = ""
    notes: Sequence[str] = ()

    @classmethod
    def of(
        cls, table_id: str, caption: str, columns: Sequence[Column], items: Iterable[Any], **options: Any
    ) -> "Table | None":
        """A table with a row for each item, as its columns read it; None without items."""
        rows = [[column.cell(item) for column in columns] for item in items]
        return cls(table_id, caption, columns, rows, **options) if rows else None


@dataclass(frozen=True)
class Picture:
    """A figure: `svg` with colours as CSS variables; `alt` says in words what it shows; `width` in CSS pixels."""

    id: str
    caption: str
    svg: str
    alt: str
    width: int


@dataclass(frozen=True)
class Section:
    """A titled part of a chapter: paragraphs, then figures, then tables."""

    id: str
    title: str
    paragraphs: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()

    @classmethod
    def of(
        cls,
        section_id: str,
        title: str,
        tables: Iterable[Table | None] = (),
        pictures: Iterable[Picture | None] = (),
        paragraphs: Sequence[str] = (),
    ) -> "list[Section]":
        """The section of those tables and figures that there are; none where there is neither."""
        drawn, kept = [picture for picture in pictures if picture], [table for table in tables if table]
        return [cls(section_id, title, paragraphs, drawn, kept)] if drawn or kept else []


@dataclass(frozen=True)
class Chapter:
    """One run.

    Attributes:
        badge, note: "planted ground truth" and what that means, on model organisms; else "".
        headline: sentences.
        facts: (name, value) of what was run.
        provenance: (name, value) for the foot: command, versions, hashes.
    """

    id: str
    title: str
    badge: str
    note: str
    headline: Sequence[str]
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    provenance: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Report:
    """Everything on the page but the response browser.

    Attributes:
        kind: of page, above its title.
    """

    title: str
    judge: str
    chapters: Sequence[Chapter]
    contrast: Table | None = None
    notes: Sequence[str] = field(default_factory=tuple)
    kind: str = "Refusal report"


def display(value: Value) -> str:
    """A value as text: 0.210 [0.14, 0.29], < .001, 128, – for nothing."""
    match value:
        case None:
            return BLANK
        case Cell():
            return f"{display(value.value)} {value.note}".rstrip()
        case Interval():
            return f"{number(value.estimate)} {bounds(value)}"
        case PValue():
            return display_p(value.value)
        case Measured():
            return number(value.value, value.spec)
        case Range():
            return bounds(value)
        case Count():
            return f"{value.n_scored} / {value.n}"
        case float():
            return number(value)
        case _:
            return str(value)


def number(value: float, spec: str = ".3f") -> str:
    """Three decimals unless told otherwise, a true minus sign, no negative zero."""
    if math.isnan(value):
        return BLANK
    text = format(value, spec)
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def bounds(interval: Interval | Range) -> str:
    """[0.14, 0.29]"""
    return f"[{number(interval.low, '.2f')}, {number(interval.high, '.2f')}]"


def display_p(p: float) -> str:
    """.032, < .001, 1"""
    if p < 0.001:
        return "< .001"
    return "1" if p > 0.9995 else f"{p:.3f}".removeprefix("0")


def equals_p(p: float) -> str:
    """= .032, < .001, = 1: what follows a p in a sentence."""
    text = display_p(p)
    return text if text.startswith("<") else f"= {text}"


def formatted(value: float | None, spec: str) -> Measured | None:
    """A number with its own format, or nothing."""
    return None if value is None else Measured(value, spec)


def sort_key(value: Value) -> str | float:
    """What a column is sorted by: a number where there is one; nothing sorts last."""
    match value:
        case None:
            return ""
        case Cell():
            return sort_key(value.value)
        case Interval():
            return value.estimate
        case PValue() | Measured():
            return value.value
        case Count():
            return value.n_scored
        case Range():
            return value.low
        case _:
            return value


def is_text(table: Table, index: int) -> bool:
    """Whether a column holds words, which are set flush left."""
    return any(isinstance(_plain(row[index]), str) for row in table.rows)


def csv_columns(table: Table) -> list[str]:
    """Heads of the CSV: a column of intervals becomes key, key_low, key_high, key_n, key_method."""
    return [head for heads in _csv_heads(table) for head in heads]


def csv_rows(table: Table) -> list[list[str | int | float]]:
    """The table's values at full precision, matching `csv_columns`."""
    columns = list(zip(table.columns, _csv_heads(table), strict=True))
    return [
        [
            _csv_cells(column.key, value).get(head, "")
            for (column, heads), value in zip(columns, row, strict=True)
            for head in heads
        ]
        for row in table.rows
    ]


def _csv_heads(table: Table) -> list[list[str]]:
    """Per column the heads of its value with most cells."""
    cells = [[_csv_cells(column.key, row[index]) for row in table.rows] for index, column in enumerate(table.columns)]
    return [
        list(max(found, key=len, default={}) or [column.key])
        for column, found in zip(table.columns, cells, strict=True)
    ]


def _csv_cells(key: str, value: Value) -> dict[str, str | int | float]:
    """Head -> cell of one value under a column of this key; nothing of nothing."""
    match value:
        case None:
            return {}
        case Cell():
            return _csv_cells(key, value.value)
        case Interval() as x:
            ends = {f"{key}_low": x.low, f"{key}_high": x.high}
            return {key: x.estimate, **ends, f"{key}_n": x.n, f"{key}_method": x.method}
        case Range():
            return {f"{key}_low": value.low, f"{key}_high": value.high}
        case Count():
            return {"n_scored": value.n_scored, "n": value.n, "n_unscored": value.n - value.n_scored}
        case PValue() | Measured():
            return {key: value.value}
        case _:
            return {key: value}


def _plain(value: Value) -> Value:
    return _plain(value.value) if isinstance(value, Cell) else value
