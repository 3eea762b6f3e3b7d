"""The benchmarks of a recipe as a section of its report."""

import json
from pathlib import Path
from typing import Any

from eval.report.documents import Column, Section, Table, Value
from eval.report.sections.benchmark import SCORED, TASK, scored
from eval.statistics.intervals import Interval

COLUMNS = (TASK, Column("variant", "variant"), *SCORED)


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
    assert score is not None, "every task is scored"
    return [outcome["task"], outcome["variant"], *scored(outcome["measure"], score, change)]
