"""The columns of benchmark scores, and their cells."""

from eval.report.documents import Column, Value
from eval.statistics.intervals import Interval

TASK, MEASURE, DOCUMENTS = Column("task", "task"), Column("measure", "measure"), Column("n", "documents")
SCORE = Column("score", "score", "Mean over the documents with 95 % interval")
CHANGE = Column("change", "Δ baseline", "Mean paired difference over the same documents, 95 % interval")
SCORED = (MEASURE, DOCUMENTS, SCORE, CHANGE)


def scored(measure: str, score: Interval, change: Interval | None) -> list[Value]:
    """The cells under SCORED."""
    return [measure, score.n, score, change]
