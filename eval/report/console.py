"""Tables of a report as text for a terminal."""

from collections.abc import Sequence

from eval.report.documents import Table, display, is_text
from eval.report.results import Results
from eval.report.sections.transfer import BY_LAYER, transfer_sentence, transfer_tables
from eval.report.sentences import judge_label


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
        judge = judge_label(results.scored)
        tables = transfer_tables(results, judge)
        if tables:
            shown = [text_table(table) for table in tables if table.id != BY_LAYER]
            parts += ["", f"{results.model_name}, verdicts: {judge}", *shown]
            parts += filter(None, [transfer_sentence(results)])
    return "\n".join(parts)
