"""What a report says in a terminal."""

from collections.abc import Sequence
from pathlib import Path

from eval.report.documents import Table, display, is_text
from eval.report.report import read_results
from eval.report.results import Results
from eval.report.sections import contrast, transfer


def headline(runs: Sequence[Path | str], judge_id: str | None = None) -> str:
    """The contrast of single vector and subspace, one line per run."""
    results = read_results(runs, judge_id)
    told = f"Compliance on harmful prompts, mean [95 % interval]; verdicts: {results[0].judge}."
    return "\n".join([*map(contrast.contrast_line, results), told])


def text_table(table: Table) -> str:
    """Caption, head, rows in aligned columns, notes: words flush left, numbers flush right."""
    texts = [[column.label for column in table.columns], *([display(value) for value in row] for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    words = [is_text(table, index) for index in range(len(widths))]
    lines = [
        "  ".join(
            text.ljust(width) if left else text.rjust(width)
            for text, width, left in zip(row, widths, words, strict=True)
        ).rstrip()
        for row in texts
    ]
    return "\n".join([table.caption, *(f"  {line}" for line in lines), *table.notes])


def transfer_text(all_results: Sequence[Results]) -> str:
    """What is from one tier on the prompts of each, run by run; nothing for runs without conditions from tiers."""
    parts = []
    for results in all_results:
        if tables := transfer.transfer_tables(results):
            shown = [*map(text_table, tables), transfer.sentence(results)]
            parts += ["", f"{results.model_name}, verdicts: {results.judge}", *filter(None, shown)]
    return "\n".join(parts)
