"""Writing the report of one or several judged runs: report.html, report.md, tables as CSV, figures as SVG."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from eval.records.run import Run
from eval.report.browser import browser_data, embed
from eval.report.chapter import chapter_ids, make_chapter
from eval.report.documents import Chapter, Report, Section, Table, csv_columns, csv_rows
from eval.report.html import render_html, render_markdown
from eval.report.results import HARMFUL, Results
from eval.report.sections.contrast import contrast_table
from eval.statistics.scores import NoScoresError, open_scored
from surgery.files.folders import replacing_folder

HEURISTIC_NOTE = "These verdicts come from the heuristic judge: rules, not a reader. Treat them as a first look."
PAGE = "report.html"


def write_report(
    runs: Sequence[Run | Path | str],
    out_dir: Path | str,
    judge_id: str | None = None,
    force: bool = False,
    tell: Callable[[Sequence[Results]], None] | None = None,
    first: Callable[[Results], Sequence[Section]] = lambda results: (),
) -> Path:
    """Write the report of these runs into a new folder.

    Args:
        runs: judged runs, or their folders.
        judge_id: whose verdicts to show; without it a language-model judge is preferred to the heuristic one.
        force: replace an earlier report; any other folder is left alone.
        tell: called with what was read, when the report is written.
        first: makes sections that go before all others in a run's chapter.
    Returns: the path of report.html.
    Raises: OutputExistsError, JudgeChoiceError, NoScoresError, ArtifactError, DiskError; nothing is left half-written.
    """
    with replacing_folder(out_dir, force, kind="a report", is_kind=_is_report) as folder:
        results = read_results(runs, judge_id)
        report = make_report(results, first)
        _write(folder / PAGE, render_html(report, embed(browser_data(results))))
        _write(folder / "report.md", render_markdown(report))
        _write_tables(folder / "tables", report)
        _write_figures(folder / "figures", report.chapters)
    if tell:
        tell(results)
    return Path(out_dir) / PAGE


def read_results(runs: Sequence[Run | Path | str], judge_id: str | None = None) -> list[Results]:
    """Read runs and compute their summaries. Raises: as `write_report`."""
    if not runs:
        raise NoScoresError("no run to report; name at least one run folder")
    opened = [run if isinstance(run, Run) else Run.open(run) for run in runs]
    results = [Results(scored) for scored in open_scored(opened, judge_id)]
    for each in results:
        if HARMFUL not in each.scored.prompts:
            raise NoScoresError(
                f"{each.scored.run.path}: no {HARMFUL} prompts were answered; there is nothing to report"
            )
    return results


def make_report(
    all_results: Sequence[Results], first: Callable[[Results], Sequence[Section]] = lambda results: ()
) -> Report:
    """Arrange everything but the response browser; `first` as in `write_report`."""
    judges = list(dict.fromkeys(results.judge for results in all_results))
    chapters = [
        _opened_by(first(results), make_chapter(results, name))
        for results, name in zip(all_results, chapter_ids(all_results), strict=True)
    ]
    contrast = contrast_table(all_results, "; ".join(judges)) if len(all_results) > 1 else None
    notes = [HEURISTIC_NOTE] if any(results.scored.heuristic for results in all_results) else []
    return Report(" · ".join(chapter.title for chapter in chapters), "; ".join(judges), chapters, contrast, notes)


def _opened_by(sections: Sequence[Section], chapter: Chapter) -> Chapter:
    return replace(chapter, sections=[*sections, *chapter.sections])


def _is_report(folder: Path) -> bool:
    return (folder / PAGE).is_file()


def _write_tables(folder: Path, report: Report) -> None:
    folder.mkdir()
    if report.contrast:
        _write_csv(folder / "contrast.csv", report.contrast)
    for chapter in report.chapters:
        for section in chapter.sections:
            for table in section.tables:
                _write_csv(folder / f"{chapter.id}-{table.id}.csv", table)


def _write_csv(path: Path, table: Table) -> None:
    with open(path, "w", encoding="utf-8", errors="replace", newline="") as handle:
        writer = csv.writer(handle)
        judge = ["judge"] if table.judge else []
        writer.writerow([*csv_columns(table), *judge])
        writer.writerows([*row, table.judge] if judge else row for row in csv_rows(table))


def _write_figures(folder: Path, chapters: Sequence[Chapter]) -> None:
    folder.mkdir()
    for chapter in chapters:
        for section in chapter.sections:
            for picture in section.pictures:
                _write(folder / f"{chapter.id}-{picture.id}.svg", picture.svg)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", errors="replace")
