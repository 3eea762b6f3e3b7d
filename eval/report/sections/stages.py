"""Seconds per stage."""

from eval.report.documents import Column, Measured, Section, Table
from eval.report.results import Results


def sections(results: Results, chapter_id: str) -> list[Section]:
    """The times that the run recorded; nothing for a run without them."""
    stages = (results.manifest.get("stages") or {}).items()
    rows = [[name, Measured(seconds, ".1f")] for name, seconds in stages if isinstance(seconds, (int, float))]
    table = Table("stages", "Time per stage", [Column("stage", "stage"), Column("seconds", "seconds")], rows)
    return Section.of("time", "Time", [table] if rows else [])
