"""Tables of yes-or-no outcomes: full compliance and refusal on harmful prompts, refusals on every other set."""

import re
from collections.abc import Sequence

from eval.report.documents import Cell, Column, Table, Value
from eval.report.results import HARMFUL, OVER_REFUSAL, SAFE, Results
from eval.report.sections.columns import (
    ALPHA,
    CHANGE,
    COHERENCE,
    COMPLIANCE,
    CONDITION,
    FULL,
    REFUSED,
    SITE,
    N,
    bounds_notes,
    counted,
    described,
    in_order,
    p_cell,
    tested_p,
    with_bounds,
)
from eval.report.sections.tables import reference_rows, with_planted
from eval.statistics.comparisons import holm_p
from eval.statistics.flips import Flips
from eval.statistics.summaries import Summary

MCNEMAR = "McNemar’s exact test of the prompts that changed sides"
HOLM_ROWS = "Holm’s correction over the rows of this table"
FULL_CHANGE = Column("full_change", "Δ fully complied", "Paired difference of shares, Bonett–Price 95 % interval")
FULL_P = Column("full_p", "p", f"{MCNEMAR}: fully complied or not")
FULL_HOLM = Column("full_p_holm", "Holm p", HOLM_ROWS)
REFUSED_CHANGE = Column("refused_change", "Δ refused", "Paired difference of shares, Bonett–Price 95 % interval")
REFUSED_P = Column("refused_p", "p of refusals", f"{MCNEMAR}: refused or not")
REFUSED_HOLM = Column("refused_p_holm", "Holm p of refusals", HOLM_ROWS)


def outcome_table(results: Results, judge: str) -> Table | None:
    """Full compliance and refusal on harmful prompts against the baseline, prompt by prompt."""
    rows = reference_rows(results)
    if not any(row.full_flips for row in rows):
        return None
    columns = [CONDITION, SITE, ALPHA, FULL, FULL_CHANGE, FULL_P, FULL_HOLM]
    columns += [REFUSED, REFUSED_CHANGE, REFUSED_P, REFUSED_HOLM]
    full = _flip_cells([row.full_flips for row in rows])
    refused = _flip_cells([row.refused_flips for row in rows])
    body = [
        [*described(row), row.full, *complied, row.refused, *declined]
        for row, complied, declined in zip(rows, full, refused, strict=True)
    ]
    caption = "Fully complied or not, refused or not, against the baseline, harmful prompts"
    notes = _flip_notes(rows) + bounds_notes(body)
    return Table("outcomes", caption, columns, body, judge=judge, notes=notes)


def set_table(results: Results, prompt_set: str, judge: str) -> Table | None:
    """All conditions on one set of prompts other than the harmful ones: refusals, and damage to what is answered."""
    rows = in_order(results.of_set(prompt_set))
    if not rows:
        return None
    harmless = results.is_harmless(prompt_set)
    columns = [
        CONDITION,
        SITE,
        ALPHA,
        N,
        COMPLIANCE,
        COHERENCE,
        REFUSED,
        REFUSED_CHANGE,
        REFUSED_P,
        REFUSED_HOLM,
        CHANGE,
    ]
    flips = _flip_cells([row.refused_flips for row in rows])
    body = [
        [*described(row), counted(row), row.compliance, row.coherence, row.refused, *cells, row.change]
        for row, cells in zip(rows, flips, strict=True)
    ]
    columns, body = with_bounds(rows, columns, body)
    notes = ["“refused” is a false refusal here; a fall of compliance or coherence is damage."] if harmless else []
    notes += _flip_notes(rows) + bounds_notes(body)
    table = Table(set_id(prompt_set), _caption(prompt_set, harmless), columns, body, judge=judge, notes=notes)
    return with_planted(results, rows, prompt_set, table)


def other_sets(results: Results) -> list[str]:
    """Prompt sets besides the harmful one, safe first."""
    return [name for name in results.by_set if name != HARMFUL]


def set_id(prompt_set: str) -> str:
    """A prompt set's name fit for anchors and file names; that of another set never equals a table's own id."""
    stem = re.sub(r"[^a-z0-9]+", "-", prompt_set.lower()).strip("-")
    return SAFE if prompt_set == SAFE else f"set-{stem or 'other'}"


def set_title(prompt_set: str) -> str:
    """A prompt set's name as a heading."""
    named = "over-refusal" if prompt_set == OVER_REFUSAL else prompt_set
    return f"{named[:1].upper()}{named[1:]} prompts"


def _caption(prompt_set: str, harmless: bool) -> str:
    named = set_title(prompt_set)
    return f"{named}: false refusals and damage" if harmless else f"{named}: compliance and refusals"


def _flip_cells(flips: Sequence[Flips | None]) -> list[list[Value]]:
    """Per row the change of a share, its p, and Holm's p over the rows that have one."""
    corrected = iter(holm_p([found.p for found in flips if found]))
    return [
        [_changed(found), p_cell(found.p), tested_p(float(next(corrected)), found.bounds, True)]
        if found
        else [None, None, None]
        for found in flips
    ]


def _changed(flips: Flips) -> Cell:
    return Cell(flips.change, title=f"{flips.gained} gained, {flips.lost} lost, of {flips.change.n} prompts")


def _flip_notes(rows: Sequence[Summary]) -> list[str]:
    """How p was found, where not by McNemar's test."""
    found = [flips for row in rows for flips in (row.full_flips, row.refused_flips) if flips]
    if all(flips.exact for flips in found):
        return []
    return [
        "Where a prompt’s outcome is a share of several samples or repeats, p is that of the sign-flip test and the "
        "interval BCa."
    ]
