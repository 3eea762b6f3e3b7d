"""The documents of a task with their scores, as lm-evaluation-harness logs them, and what is said of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval.cost.benchmark.tasks import MEASURES, BenchmarkError
from eval.statistics.intervals import Interval, bootstrap_mean, paired_difference
from surgery.console.errors import ArtifactError
from surgery.files.rowfile import RowFile

FILTERS = ("none", "strict-match")  # in order of preference, where a task scores each answer by several


@dataclass(frozen=True)
class Document:
    """One scored document.

    Attributes:
        id: the (sub)task and the harness's number of it.
        digest: of the document itself, so that only the same ones are paired.
        score: of `measure`, 0..1.
        detail: log likelihoods of the choices in nats, or the answer that was generated.
    """

    id: str
    digest: str
    measure: str
    score: float
    detail: Any


def read_samples(samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Document]:
    """The documents of one task from the harness's log, which has a list for each of its subtasks.

    Raises: BenchmarkError when there is none, or none of the known measures was taken.
    """
    found = [document for name, rows in samples.items() for document in _read(name, rows)]
    if not found:
        raise BenchmarkError("the harness scored no document; give a larger --limit or another task")
    return found


def _read(name: str, rows: Sequence[Mapping[str, Any]]) -> list[Document]:
    filters = [row["filter"] for row in rows]
    chosen = next((each for each in FILTERS if each in filters), filters[0] if filters else "")
    return [_document(name, row) for row in rows if row["filter"] == chosen]


def _document(name: str, row: Mapping[str, Any]) -> Document:
    measure = next((each for each in MEASURES if each in row["metrics"]), None)
    if measure is None:
        raise BenchmarkError(f"{name}: scored by {', '.join(row['metrics'])}; expected one of {', '.join(MEASURES)}")
    score = float(row[measure])
    if not 0 <= score <= 1:
        raise BenchmarkError(f"{name}: {measure} of document {row['doc_id']} is {score:g}; expected a score in 0..1")
    return Document(f"{name}/{row['doc_id']}", row["doc_hash"], measure, score, row["filtered_resps"])


def score_of(documents: Sequence[Document]) -> Interval:
    """Mean score with its interval."""
    return bootstrap_mean([document.score for document in documents])


def change_of(before: Sequence[Document], after: Sequence[Document]) -> Interval:
    """Mean paired difference, after minus before.

    Raises: BenchmarkError when the documents are not the same.
    """
    if [(row.id, row.digest) for row in before] != [(row.id, row.digest) for row in after]:
        raise BenchmarkError(
            f"{before[0].id.split('/')[0]}: {len(before)} and {len(after)} documents that are not the same cannot be "
            "paired; run the benchmark anew with --force"
        )
    return paired_difference(np.subtract([row.score for row in after], [row.score for row in before]))


def write_documents(path: Path, documents: Sequence[Document]) -> None:
    """Write them as JSON lines, whole or not at all."""
    RowFile(path, Document).write(documents)


def read_documents(path: Path) -> list[Document]:
    """Read what `write_documents` wrote. Raises: BenchmarkError."""
    try:
        documents = list(RowFile(path, Document).rows(torn=False))
    except ArtifactError as err:
        raise BenchmarkError(f"{err}; run the benchmark anew with --force") from err
    if not documents:
        raise BenchmarkError(f"{path}: not the documents of a benchmark (none are there); run it anew with --force")
    return documents
