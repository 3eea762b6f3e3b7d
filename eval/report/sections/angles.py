"""Principal angles between the spans of two tiers' refusal vectors, beside those between halves of one tier."""

from collections.abc import Mapping
from typing import Any

from eval.report.documents import Cell, Column, Measured, Table, Value, number
from eval.report.results import Results
from surgery.statistics.tier_angles import excess

DEGREES = ".1f"


def angle_table(results: Results) -> Table | None:
    """A row for each angle; nothing for a run whose refusal vectors have no tiers."""
    found = results.manifest.get("tier_angles") or []
    if not found:
        return None
    columns = [
        Column("layers", "layers", "One layer: the angle between two vectors; several: between their QR subspaces"),
        Column("angle", "angle", "Principal angles, smallest first"),
        Column("tiers", "tiers"),
        Column("degrees", "all prompts", "Degrees between the spans fitted on all prompts of either tier"),
        Column("across", "halves of both", "A half of one tier against a half of the other: mean over splits"),
        Column("within_first", "halves of the first", "Two halves of the same tier: what noise alone gives"),
        Column("within_second", "halves of the second", "Two halves of the same tier: what noise alone gives"),
        Column("excess", "excess", "Halves of both minus the mean of the halves of one, degrees"),
    ]
    body = [_cells(row, index) for row in found for index in range(len(row["angles_degrees"]))]
    sizes = {row["n_per_half"] for row in found if row["across"]}
    notes = [
        "Finite samples turn vectors apart by noise alone: only the excess over halves of one tier speaks for different "
        "directions. In brackets least and greatest over the splits."
        + "".join(f" Halves: {size} harmful prompts each." for size in sorted(sizes))
    ]
    return Table("tier-angles", "Principal angles between the tiers’ vectors, degrees", columns, body, notes=notes)


def _cells(row: Mapping[str, Any], index: int) -> list[Value]:
    parts = [row["across"], *(row["within"] or (None, None))]
    over = excess(row, index)
    return [
        row["layers"],
        index,
        " / ".join(row["tiers"]),
        Measured(row["angles_degrees"][index], DEGREES),
        *(_spread(part, index) for part in parts),
        None if over is None else Measured(over, "+.1f"),
    ]


def _spread(part: Mapping[str, Any] | None, index: int) -> Value:
    if part is None or index >= len(part["mean"]):
        return None
    low, high = (number(part[end][index], DEGREES) for end in ("low", "high"))
    return Cell(Measured(part["mean"][index], DEGREES), f"[{low}, {high}]")
