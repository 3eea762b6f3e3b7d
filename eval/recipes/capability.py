"""The benchmarks of a recipe as a section of its report."""

import json
from pathlib import Path
from typing import Any

from eval.intervals import Interval
from eval.report.documents import Column, Section, Table, Value

COLUMNS = (
    Column("task", "Task"),
    Column("variant", "Variant"),
    Column("measure", "Measure"),
    Column("n", "Documents"),
    Column("score", "Score"),
    Column("change", "Against the baseline", "Mean difference over the same documents."),
)


def capability_sections(folder: Path) -> list[Section]:
    """A section when benchmarks were run there, else none."""
    record = folder / "benchmark.json"
    if not record.is_file():
        return []
    content = json.loads(record.read_text(encoding="utf-8"))
    rows = [_row(outcome) for outcome in content["outcomes"]]
    table = Table("capability", "Scores of lm-evaluation-harness with 95 % intervals", COLUMNS, rows)
    return [Section("capability", "Capability", (), (), [table])]


def _row(outcome: Any) -> list[Value]:
    score, change = (None if value is None else Interval(**value) for value in (outcome["score"], outcome["change"]))
    return [outcome["task"], outcome["variant"], outcome["measure"], score.n if score else None, score, change]
