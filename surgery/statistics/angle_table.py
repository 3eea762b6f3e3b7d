"""Angles between tiers as a table, and what of them is more than noise."""

from collections.abc import Mapping, Sequence
from typing import Any

from surgery.console.table import table

_HALVES = [(name, ">22") for name in ("halves across", "within first", "within second")]
_COLUMNS = [("layers", ">10"), ("angle", ">5"), ("tiers", ">15"), ("all prompts", ">11"), *_HALVES, ("excess", ">6")]


def excess(row: Mapping[str, Any], index: int) -> float | None:
    """Degrees by which halves of different tiers lie farther apart than halves of one tier, on average over the splits.

    Args:
        row: one of `tier_angles`.
        index: which of its angles.
    Returns: None without halves, or where their spans have fewer dimensions.
    """
    parts = [row["across"], *(row["within"] or ())]
    if None in parts or any(index >= len(part["mean"]) for part in parts):
        return None
    across, first, second = (part["mean"][index] for part in parts)
    return across - (first + second) / 2


def angle_lines(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """The angles as lines of text: a row for each angle."""
    if not found:
        return []
    rows: list[list[object]] = []
    for row in found:
        for index, angle in enumerate(row["angles_degrees"]):
            halves = [_spread(part, index) for part in (row["across"], *(row["within"] or (None, None)))]
            over = excess(row, index)
            above = None if over is None else f"{over:+.1f}"
            rows.append([row["layers"], index, " / ".join(row["tiers"]), f"{angle:.1f}", *halves, above])
    return [
        "",
        "principal angles between the vectors of two tiers, in degrees; of halves mean (least .. greatest) over splits.",
        f"Halves of one tier lie apart by noise alone; only the excess over them tells tiers apart. {_size(found[0])}",
        *table(_COLUMNS, rows, gap=" "),
    ]


def _size(row: Mapping[str, Any]) -> str:
    if row["across"] is None:
        return "This file has no halves: extract it again, from at least four prompts a tier."
    return f"Halves: {row['n_per_half']} harmful prompts each."


def _spread(part: Mapping[str, Any] | None, index: int) -> str | None:
    if part is None or index >= len(part["mean"]):
        return None
    return f"{part['mean'][index]:.1f} ({part['low'][index]:.1f} .. {part['high'][index]:.1f})"
