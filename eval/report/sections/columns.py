"""The columns that tables share, how a condition is described in them, and tables of conditions."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from eval.plan.conditions import from_tag
from eval.records.measures import MEANS, MEASURES, Measure
from eval.report.documents import Cell, Column, Count, Measured, PValue, Range, Table, Value
from eval.report.results import HARMFUL, Results
from eval.statistics.bounds import Bounds, is_withheld
from eval.statistics.summaries import Summary
from surgery.residual.layers import format_layers

ORDER = {"baseline": 0, "rv": 1, "subspace": 2, "named": 3, "checkpoint": 4, "adapter": 4, "random": 5}
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


def counted(row: Summary) -> Cell:
    """Scored responses of all, with the reasons of the unscored ones on hover."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(row.reasons.items()))
    return Cell(Count(row.n_scored, row.n), title=f"unscored: {reasons}" if reasons else "")


def p_cell(value: float | None, adjusted: bool = False) -> PValue | None:
    """A p, or nothing."""
    return None if value is None else PValue(value, adjusted)


def tested_p(p: float | None, bounds: Bounds | None, adjusted: bool) -> Value:
    """A p; marked, and never bold, where the unscored responses could turn the difference round."""
    if is_withheld(p, bounds):
        return Cell(p_cell(p), "‡", title="not called significant: the worst-case bounds cross zero")
    return p_cell(p, adjusted)


def change_p(row: Summary) -> Value:
    """The p of a row's change, adjusted where it is."""
    return tested_p(row.reported_p, row.bounds, row.p_adjusted is not None)


def _alpha(row: Summary) -> Value:
    return None if row.condition.kind == "baseline" else Measured(row.condition.alpha, "g")


def _of_measure(measure: Measure) -> Column:
    """The column of a measure: a mean or a share with its interval."""
    what = (
        f"Share of {measure.share}, Wilson 95 % interval" if measure.share else "Mean of 0 / 0.5 / 1 with 95 % interval"
    )
    return Column(measure.key or measure.name, measure.label, what, read=lambda row: row.means.get(measure.name))


CONDITION = Column("condition", "condition", read=condition_name)
SITE = Column(
    "site",
    "site",
    "stream: block outputs; writes: attention and MLP outputs; weights: orthogonalized checkpoint",
    read=lambda row: row.condition.site or None,
)
ALPHA = Column("alpha", "α", "Ablation strength: x′ = x − α (x Bᵀ) B", read=_alpha)
DESCRIBED = (CONDITION, SITE, ALPHA)
RANK = Column("rank", "rank", "Dimension of the span that is removed", read=lambda row: row.condition.rank or None)
N = Column("n", "scored", "Scored responses of all; unscored ones are left out, never counted as zero", read=counted)
MEASURED = {measure.name: _of_measure(measure) for measure in MEASURES}
COMPLIANCE = MEASURED["compliance"]
CHANGE = Column(
    "change",
    "Δ baseline",
    "Mean paired difference of compliance on the same prompts, 95 % interval",
)
CHANGE_BOUNDS = Column(
    "change_bounds",
    "Δ bounds",
    "Least and greatest Δ baseline whatever the unscored responses of either side were",
    read=lambda row: Range(row.bounds.low, row.bounds.high) if row.bounds else None,
)
P = Column("p", "p", "Two-sided sign-flip permutation test of the paired difference", read=change_p)


def described(row: Summary) -> list[Value]:
    """The cells under DESCRIBED."""
    return [column.cell(row) for column in DESCRIBED]


def columns_of(measures: Sequence[Measure]) -> list[Column]:
    """The columns of these measures."""
    return [MEASURED[measure.name] for measure in measures]


def measured(results: Results, measures: Sequence[Measure] = MEANS, prompt_set: str = HARMFUL) -> list[Column]:
    """The columns of these measures; of a model organism with the planted compliance beside the measured one."""
    first, *others = columns_of(measures)
    planted = Column(
        "planted_compliance",
        "planted",
        "Compliance measured by exact check when the organism was made",
        read=lambda row: results.planted.compliance(row.condition, prompt_set),
    )
    return [first, *([planted] if results.planted else []), *others]


def changes(rows: Sequence[Summary]) -> list[Column]:
    """The change against the baseline, with worst-case bounds where any row has unscored responses to bound."""
    return [CHANGE, CHANGE_BOUNDS] if any(row.bounds for row in rows) else [CHANGE]


def table_of(
    results: Results, table_id: str, caption: str, columns: Sequence[Column], rows: Sequence[Summary], **options: Any
) -> Table | None:
    """A table of conditions, with a note on the mark of a p where a cell has it; None without rows."""
    table = Table.of(table_id, caption, columns, rows, judge=results.judge, **options)
    cells = [cell for line in table.rows for cell in line] if table else []
    if table is None or not any(isinstance(cell, Cell) and cell.note == "‡" for cell in cells):
        return table
    return replace(table, notes=[*table.notes, WITHHELD_NOTE])


def comparison(results: Results, table_id: str, caption: str, rows: Sequence[Summary]) -> Table | None:
    """Conditions on harmful prompts by every measure, and against the baseline; None without rows."""
    selected = any(row.p_adjusted is not None for row in rows)
    notes = (
        ["p of a single RV is adjusted over the source layers of its sweep; the others are not."] if selected else []
    )
    columns = [*DESCRIBED, RANK, N, *measured(results, MEASURES), *changes(rows), P]
    return table_of(results, table_id, caption, columns, rows, notes=notes)


def in_order(rows: Sequence[Summary]) -> list[Summary]:
    """Rows by kind, source layers, site and strength."""

    def place(row: Summary) -> tuple[object, ...]:
        c = row.condition
        return ORDER[c.kind], len(c.source_layers), c.source_layers, c.tag, c.site, c.alpha

    return sorted(rows, key=place)


def reference_rows(results: Results) -> list[Summary]:
    """All conditions on the harmful prompts; of the RVs those of the reference sweep only."""
    sweep = {row.condition.id for row in results.sweep}
    return [row for row in in_order(results.harmful) if row.condition.kind != "rv" or row.condition.id in sweep]


def varied_in_alpha(results: Results) -> list[Summary]:
    """RVs and subspaces that were tried at several strengths, those with the same span side by side."""
    groups: dict[tuple[object, ...], list[Summary]] = {}
    for row in results.of_kind("rv", "subspace"):
        c = row.condition
        groups.setdefault((ORDER[c.kind], c.source_layers, c.tag, c.site, c.layers), []).append(row)
    varied = [groups[key] for key in sorted(groups) if len(groups[key]) > 1]
    return [row for group in varied for row in sorted(group, key=lambda row: row.condition.alpha)]
