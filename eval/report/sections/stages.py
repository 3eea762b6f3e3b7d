"""Seconds per stage."""

from eval.report.documents import Column, Measured, Section, Table, Value
from eval.report.results import Results


def sections(results: Results, chapter_id: str) -> list[Section]:
    """The times that the run recorded; nothing for a run without them."""
    rows: list[list[Value]] = [[name, Measured(seconds, ".1f")] for name, seconds in results.manifest.stages.items()]
    table = Table("stages", "Time per stage", [Column("stage", "stage"), Column("seconds", "seconds")], rows)
    return Section.of("time", "Time", [table] if rows else [])
