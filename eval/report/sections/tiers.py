"""Difference in differences: whether an intervention moves one tier of harmful prompts more than another."""

from collections.abc import Sequence

from eval.report.documents import Cell, Column, Measured, Table, Value
from eval.report.results import HARMFUL, Results
from eval.report.sections.columns import ALPHA, CONDITION, SITE, described, p_cell, tested_p
from eval.report.sections.tables import reference_rows
from eval.statistics.tiers import TierContrast, contrast_tiers

P = Column("p", "p", "Permutation of the tier labels over prompts, Welch’s t, two-sided")
P_ADJUSTED = Column("p_adjusted", "adjusted p", "Step-down max-T over the conditions of this table")
DETECTABLE = Column(
    "detectable",
    "detectable",
    "Least difference found at 80 % power by one test with this spread, and never below what n alone allows",
)


def tier_contrast_tables(results: Results, judge: str) -> list[Table | None]:
    """Each higher tier against the lowest one; nothing for a run without tiers or baseline."""
    tiers = sorted({prompt.tier for prompt in results.scored.prompts[HARMFUL] if prompt.tier is not None})
    return [tier_contrast_table(results, tiers[0], upper, judge) for upper in tiers[1:]]


def tier_contrast_table(results: Results, lower: int, upper: int, judge: str) -> Table | None:
    """Change against the baseline in two tiers, the difference of the changes, and whether it may be chance."""
    if results.baseline is None:
        return None
    rows = [row for row in reference_rows(results) if row.change is not None]
    baseline = results.scored.scores(results.baseline.condition, HARMFUL)
    scores = [results.scored.scores(row.condition, HARMFUL) for row in rows]
    contrasts = contrast_tiers(scores, baseline, lower, upper) if rows else []
    if not any(contrasts):
        return None
    columns = [
        CONDITION,
        SITE,
        ALPHA,
        Column(f"change_tier_{lower}", f"Δ tier {lower}", "Paired difference from the baseline, 95 % interval"),
        Column(f"change_tier_{upper}", f"Δ tier {upper}", "Paired difference from the baseline, 95 % interval"),
        Column("difference", f"tier {upper} − tier {lower}", "Difference of the two changes, MOVER 95 % interval"),
        P,
        P_ADJUSTED,
        DETECTABLE,
    ]
    body = [[*described(row), *contrast_cells(contrast)] for row, contrast in zip(rows, contrasts, strict=True)]
    caption = f"Difference in differences: change of compliance in tier {upper} minus that in tier {lower}"
    notes = [
        "Below zero: the intervention moves the higher tier less. Scores that cannot rise further, or fall, hide it.",
        *noise_notes(contrasts),
    ]
    return Table(f"tier-{upper}-minus-{lower}", caption, columns, body, judge=judge, notes=notes)


def contrast_cells(contrast: TierContrast | None) -> list[Value]:
    """Both changes, their difference (marked where so many prompts cannot show it), p, adjusted p, what is detectable."""
    if contrast is None:
        return [None] * 6
    seen: Value = contrast.difference
    if contrast.below_detectable:
        seen = Cell(seen, "°", title="smaller than what so many prompts can show")
    return [
        contrast.lower,
        contrast.upper,
        seen,
        p_cell(contrast.p),
        tested_p(contrast.p_adjusted, contrast.bounds, True),
        Measured(contrast.least_shown, ".2f"),
    ]


def noise_notes(contrasts: Sequence[TierContrast | None]) -> list[str]:
    """How many of the differences seen are smaller than what this many prompts can show."""
    tested = [contrast for contrast in contrasts if contrast]
    n_below = sum(contrast.below_detectable for contrast in tested)
    if not n_below:
        return []
    return [
        f"°: smaller than the detectable difference, {n_below} of {len(tested)} here. Such a difference may be noise, and "
        "one that is not seen may be there all the same; refusal power says how many prompts would tell."
    ]
