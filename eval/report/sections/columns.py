"""The columns that tables share, and how a condition is described in them."""

from collections.abc import Sequence

from eval.plan.conditions import from_tag
from eval.report.documents import Cell, Column, Count, Measured, PValue, Range, Value
from eval.statistics.bounds import Bounds, is_withheld
from eval.statistics.summaries import Summary
from surgery.residual.layers import format_layers

ORDER = {"baseline": 0, "rv": 1, "subspace": 2, "named": 3, "checkpoint": 4, "random": 5}

CONDITION = Column("condition", "condition")
ALPHA = Column("alpha", "α", "Ablation strength: x′ = x − α (x Bᵀ) B")
SITE = Column(
    "site", "site", "stream: block outputs; writes: attention and MLP outputs; weights: orthogonalized checkpoint"
)
RANK = Column("rank", "rank", "Dimension of the span that is removed")
N = Column("n", "scored", "Scored responses of all; unscored ones are left out, never counted as zero")
COMPLIANCE = Column("compliance", "compliance", "Mean of 0 / 0.5 / 1 with 95 % interval")
COHERENCE = Column("coherence", "coherence", "Mean of 0 / 0.5 / 1 with 95 % interval")
FULL = Column("full_compliance", "fully complied", "Share of prompts with compliance 1, Wilson 95 % interval")
REFUSED = Column("refused", "refused", "Share of prompts judged refusals, Wilson 95 % interval")
CHANGE = Column("change", "Δ baseline", "Mean paired difference of compliance on the same prompts, 95 % interval")
P = Column("p", "p", "Two-sided sign-flip permutation test of the paired difference")
P_ADJUSTED = Column("p_adjusted", "adjusted p", "Westfall–Young step-down max-T over the source layers of the sweep")
P_HOLM = Column("p_holm", "Holm p", "Holm’s correction over the same layers, as a check")
CHANGE_BOUNDS = Column(
    "change_bounds", "Δ bounds", "Least and greatest Δ baseline whatever the unscored responses of either side were"
)
PLANTED = Column("planted_compliance", "planted", "Compliance measured by exact check when the organism was made")
WITHHELD_NOTE = (
    "‡: p is at most .05, but the unscored responses could turn the difference round (its worst-case bounds cross "
    "zero), so it is not called significant."
)


def condition_name(row: Summary) -> str:
    """A condition as a table names it, without its alpha."""
    condition = row.condition
    where = "" if condition.layers == "all" else f", at layers {condition.layers}"
    match condition.kind:
        case "baseline":
            return "baseline (unedited)"
        case "rv":
            return f"RV of layer {format_layers(condition.source_layers)}{from_tag(condition.tag)}{where}"
        case "subspace":
            return f"QR of layers {format_layers(condition.source_layers)}{from_tag(condition.tag)}{where}"
    return condition.label


def in_order(rows: Sequence[Summary]) -> list[Summary]:
    """Rows by kind, source layers, site and strength."""
    return sorted(
        rows,
        key=lambda r: (
            ORDER[r.condition.kind],
            len(r.condition.source_layers),
            r.condition.source_layers,
            r.condition.tag,
            r.condition.site,
            r.condition.alpha,
        ),
    )


def described(row: Summary) -> list[Value]:
    """The cells under CONDITION, SITE and ALPHA."""
    condition = row.condition
    alpha = None if condition.kind == "baseline" else Measured(condition.alpha, "g")
    return [condition_name(row), condition.site or None, alpha]


def counted(row: Summary) -> Cell:
    """Scored responses of all, with the reasons of the unscored ones on hover."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(row.reasons.items()))
    return Cell(Count(row.n_scored, row.n), title=f"unscored: {reasons}" if reasons else "")


def p_cell(value: float | None, adjusted: bool = False) -> PValue | None:
    """A p, or nothing."""
    return None if value is None else PValue(value, adjusted)


def change_p(row: Summary) -> Value:
    """The p of a row's change, adjusted where it is."""
    return tested_p(row.reported_p, row.bounds, row.p_adjusted is not None)


def tested_p(p: float | None, bounds: Bounds | None, adjusted: bool) -> Value:
    """A p; marked, and never bold, where the unscored responses could turn the difference round."""
    if is_withheld(p, bounds):
        return Cell(p_cell(p), "‡", title="not called significant: the worst-case bounds cross zero")
    return p_cell(p, adjusted)


def with_bounds(
    rows: Sequence[Summary], columns: Sequence[Column], body: Sequence[Sequence[Value]]
) -> tuple[list[Column], list[list[Value]]]:
    """Columns and cells with worst-case bounds after the change, where any row has unscored responses to bound."""
    at = 1 + [column.key for column in columns].index(CHANGE.key)
    if not any(row.bounds for row in rows):
        return list(columns), [list(cells) for cells in body]
    spans = [Range(row.bounds.low, row.bounds.high) if row.bounds else None for row in rows]
    cells = [[*line[:at], span, *line[at:]] for line, span in zip(body, spans, strict=True)]
    return [*columns[:at], CHANGE_BOUNDS, *columns[at:]], cells


def bounds_notes(body: Sequence[Sequence[Value]]) -> list[str]:
    """What the mark on a p means, where a cell has it."""
    marked = any(isinstance(cell, Cell) and cell.note == "‡" for cells in body for cell in cells)
    return [WITHHELD_NOTE] if marked else []
