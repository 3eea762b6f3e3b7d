"""What a report says in a terminal."""

from collections.abc import Sequence
from pathlib import Path

from eval.report.documents import Table, display, is_text
from eval.report.report import read_results
from eval.report.results import Results
from eval.report.sections import contrast, transfer
from surgery.console.table import table


def headline(runs: Sequence[Path | str], judge_id: str | None = None) -> str:
    """The contrast of single vector and subspace, one line per run."""
    results = read_results(runs, judge_id)
    told = f"Compliance on harmful prompts, mean [95 % interval]; verdicts: {results[0].judge}."
    return "\n".join([*map(contrast.contrast_line, results), told])


def text_table(shown: Table) -> str:
    """Caption, head, rows in aligned columns, notes: words flush left, numbers flush right."""
    columns = [(column.label, "<0" if is_text(shown, index) else ">0") for index, column in enumerate(shown.columns)]
    lines = table(columns, [list(map(display, row)) for row in shown.rows])
    return "\n".join([shown.caption, *(f"  {line}" for line in lines), *shown.notes])


def transfer_text(all_results: Sequence[Results]) -> str:
    """What is from one tier on the prompts of each, run by run; nothing for runs without conditions from tiers."""
    parts = []
    for results in all_results:
        if found := transfer.transfer_tables(results):
            shown = [*map(text_table, found), transfer.sentence(results)]
            parts += ["", f"{results.model_name}, verdicts: {results.judge}", *filter(None, shown)]
    return "\n".join(parts)
