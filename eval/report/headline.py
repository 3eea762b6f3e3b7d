"""The contrast of single vector and subspace, one line per run, for a terminal."""

from collections.abc import Sequence
from pathlib import Path


def headline(runs: Sequence[Path | str], judge_id: str | None = None) -> str:
    """The contrast of single vector and subspace, one line per run, for a terminal."""
    from eval.report.report import read_results
    from eval.report.sentences import contrast_line, judge_label

    results = read_results(runs, judge_id)
    lines = [contrast_line(each) for each in results]
    return "\n".join(
        [*lines, f"Compliance on harmful prompts, mean [95 % interval]; verdicts: {judge_label(results[0].scored)}."]
    )
