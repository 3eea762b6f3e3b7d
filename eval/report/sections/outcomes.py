"""Complied or refused: shares of prompts, and those that changed sides against the baseline."""

from collections.abc import Callable, Sequence

from eval.records.measures import SHARES, Measure
from eval.report.documents import Cell, Column, Section, Value
from eval.report.results import Results
from eval.report.sections.columns import DESCRIBED, MEASURED, p_cell, reference_rows, table_of, tested_p
from eval.statistics.comparisons import holm_p
from eval.statistics.flips import Flips
from eval.statistics.summaries import Summary

HOLM = "Holm’s correction over the rows of this table"
MCNEMAR = "McNemar’s exact test of the prompts that changed sides"


def sections(results: Results, chapter_id: str) -> list[Section]:
    """Every yes-or-no outcome on harmful prompts against the baseline; nothing without one to compare with."""
    rows = reference_rows(results)
    rows = rows if any(row.flips for row in rows) else []
    columns = [column for each in SHARES for column in (MEASURED[each.name], *flip_columns(rows, each))]
    named = ", ".join(f"{share.label} or not" for share in SHARES).capitalize()
    caption = f"{named}, against the baseline, harmful prompts"
    table = table_of(results, "outcomes", caption, [*DESCRIBED, *columns], rows, notes=flip_notes(rows))
    return Section.of("outcomes", "Complied or refused", [table])


def flip_columns(rows: Sequence[Summary], share: Measure) -> list[Column]:
    """Change of a share, its p, and Holm's p over those of these rows that have one."""
    found = {row.condition.id: row.flips[share.name] for row in rows if share.name in row.flips}
    holm = dict(zip(found, map(float, holm_p([flips.p for flips in found.values()])), strict=True))

    def cell(read: Callable[[str, Flips], Value]) -> Callable[[Summary], Value]:
        return lambda row: read(row.condition.id, found[row.condition.id]) if row.condition.id in found else None

    change, tested = "Paired difference of shares, Bonett–Price 95 % interval", f"{MCNEMAR}: {share.label} or not"
    cells: list[tuple[str, str, str, Callable[[str, Flips], Value]]] = [
        ("change", f"Δ {share.label}", change, lambda name, flips: _changed(flips)),
        ("p", f"p{share.plural}", tested, lambda name, flips: p_cell(flips.p)),
        ("p_holm", f"Holm p{share.plural}", HOLM, lambda name, flips: tested_p(holm[name], flips.bounds, True)),
    ]
    return [Column(f"{share.name}_{key}", label, told, read=cell(read)) for key, label, told, read in cells]


def flip_notes(rows: Sequence[Summary]) -> list[str]:
    """How p was found, where not by McNemar's test."""
    if all(flips.exact for row in rows for flips in row.flips.values()):
        return []
    return [
        "Where a prompt’s outcome is a share of several samples or repeats, p is that of the sign-flip test and the "
        "interval BCa."
    ]


def _changed(flips: Flips) -> Cell:
    return Cell(flips.change, title=f"{flips.gained} gained, {flips.lost} lost, of {flips.change.n} prompts")
