"""Single vector against subspace: one row for each run, as a table and as lines for a terminal."""

from collections.abc import Sequence

from eval.report.documents import Cell, Column, Table, Value, display
from eval.report.planted import PLANTED_BADGE
from eval.report.results import Results
from eval.report.sections.columns import condition_name
from eval.statistics.intervals import Interval
from eval.statistics.summaries import Summary

COLUMNS = (
    Column("model", "model"),
    Column("baseline", "baseline"),
    Column("best_rv", "best single RV"),
    Column("best_subspace", "best subspace"),
    Column("random", "random control", "Highest of the random controls"),
    Column("safe", "safe prompts", "Compliance on safe prompts under the best subspace (or single RV)"),
)


def contrast_table(all_results: Sequence[Results], judge: str) -> Table:
    """Baseline, the best single RV, the best subspace, random control."""
    caption = "Compliance on harmful prompts: single refusal vector against subspace, per model"
    notes = ["RVs of the last fifth of the layers are not considered."]
    return Table("contrast", caption, COLUMNS, list(map(_row, all_results)), judge=judge, notes=notes)


def contrast_line(results: Results) -> str:
    """The same of one run, in words."""
    named = {"baseline": results.baseline, "best single RV": results.best_rv, "best subspace": results.best_subspace}
    parts = [f"{name} {display(row.compliance)}{_origin(row)}" for name, row in named.items() if row and row.means]
    if randoms := _randoms(results):
        parts.append(f"random {display(randoms)}")
    return f"{results.model_name}: " + " · ".join(parts)


def _row(results: Results) -> list[Value]:
    last = results.best_subspace or results.best_rv
    safe = next((row.compliance for row in results.safe if last and row.condition.id == last.condition.id), None)
    return [
        Cell(results.model_name, PLANTED_BADGE if results.planted else "", below=True),
        results.baseline.compliance if results.baseline else None,
        *(
            Cell(row.compliance, condition_name(row), below=True) if row else None
            for row in (results.best_rv, results.best_subspace)
        ),
        _randoms(results),
        safe,
    ]


def _randoms(results: Results) -> Interval | None:
    found = [row.means["compliance"] for row in results.of_kind("random") if row.means]
    return max(found, key=lambda interval: interval.estimate, default=None)


def _origin(row: Summary) -> str:
    return "" if row.condition.kind == "baseline" else f" ({condition_name(row)})"
