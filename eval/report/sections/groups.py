"""Tiers and categories of prompts, and whether an intervention moves one tier more than another."""

from collections.abc import Sequence

from eval.report.documents import Cell, Column, Section, Table, Value, formatted
from eval.report.results import HARMFUL, Results
from eval.report.sections.columns import DESCRIBED, described, p_cell, reference_rows, tested_p
from eval.statistics.comparisons import N_FLIPS
from eval.statistics.summaries import group_means
from eval.statistics.tiers import TierContrast, contrast_tiers


def sections(results: Results, chapter_id: str) -> list[Section]:
    """Compliance by tier and by category, and each higher tier against the lowest one."""
    tiers = results.tiers
    contrasts = [_contrast_table(results, tiers[0], upper) for upper in tiers[1:]]
    tables = [_group_table(results, "tier"), *contrasts, _group_table(results, "category")]
    return Section.of("groups", "Tiers and categories", tables)


def _group_table(results: Results, tag: str) -> Table | None:
    """Compliance on harmful prompts by tier or category; RVs at the reference strength only."""
    rows = reference_rows(results)
    means = [group_means(results.scored.scores(row.condition, HARMFUL), tag) for row in rows]
    groups = list(means[0]) if means else []
    if len(groups) < 2:
        return None
    labels = {group: f"tier {group}" if tag == "tier" else group for group in groups}
    columns = [*DESCRIBED, *(Column(f"{tag}_{group}", label) for group, label in labels.items())]
    body = [
        [*described(row), *(_with_unscored(*mean[group]) for group in groups)]
        for row, mean in zip(rows, means, strict=True)
    ]
    sizes = {group: sum(str(getattr(p, tag)) == group for p in results.scored.prompts[HARMFUL]) for group in groups}
    notes = [f"Prompts: {', '.join(f'{labels[group]} {size}' for group, size in sizes.items())}."]
    if any(n_unscored for mean in means for _, n_unscored in mean.values()):
        notes.append("†: prompts left out because they are unscored.")
    caption = f"Compliance on harmful prompts by {tag}"
    return Table(f"by-{tag}", caption, columns, body, judge=results.judge, notes=notes)


def _with_unscored(mean: Value, n_unscored: int) -> Value:
    return Cell(mean, f"†{n_unscored}") if n_unscored else mean


def _contrast_table(results: Results, lower: int, upper: int) -> Table | None:
    """Change against the baseline in two tiers, the difference of the changes, and whether it may be chance."""
    rows = [row for row in reference_rows(results) if row.change is not None]
    if results.baseline is None or not rows:
        return None
    baseline = results.scored.scores(results.baseline.condition, HARMFUL)
    contrasts = contrast_tiers([results.scored.scores(row.condition, HARMFUL) for row in rows], baseline, lower, upper)
    if not any(contrasts):
        return None
    change = "Paired difference from the baseline, 95 % interval"
    columns = [
        *DESCRIBED,
        *(Column(f"change_tier_{tier}", f"Δ tier {tier}", change) for tier in (lower, upper)),
        Column("difference", f"tier {upper} − tier {lower}", "Difference of the two changes, MOVER 95 % interval"),
        *TESTED,
    ]
    body = [[*described(row), *contrast_cells(contrast)] for row, contrast in zip(rows, contrasts, strict=True)]
    caption = f"Difference in differences: change of compliance in tier {upper} minus that in tier {lower}"
    notes = [
        "Below zero: the intervention moves the higher tier less. Scores that cannot rise further, or fall, hide it.",
        *noise_notes(contrasts),
    ]
    return Table(f"tier-{upper}-minus-{lower}", caption, columns, body, judge=results.judge, notes=notes)


TESTED = (
    Column("p", "p", "Permutation of the tier labels over prompts, Welch’s t, two-sided"),
    Column("p_adjusted", "adjusted p", "Step-down max-T over the conditions of this table"),
    Column(
        "detectable",
        "detectable",
        "Least difference found at 80 % power by one test with this spread, and never below what n alone allows",
    ),
)


def contrast_cells(contrast: TierContrast | None) -> list[Value]:
    """Both changes, their difference (marked where so many prompts cannot show it), and the cells under TESTED."""
    if contrast is None:
        return [None] * 6
    seen: Value = contrast.difference
    if contrast.below_detectable:
        seen = Cell(seen, "°", title="smaller than what so many prompts can show")
    adjusted = tested_p(contrast.p_adjusted, contrast.bounds, True)
    return [contrast.lower, contrast.upper, seen, p_cell(contrast.p), adjusted, formatted(contrast.least_shown, ".2f")]


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


def method(results: Results) -> str:
    """How tiers are compared."""
    if len(results.tiers) < 2 or not results.baseline:
        return ""
    return (
        "Differences between tiers are differences in differences: their intervals come from those of the two changes "
        f"(MOVER), p from {N_FLIPS:,} permutations of the tier labels (Welch’s t, seed 0), adjusted by max-T. Beside each "
        "stands the least difference that so many prompts show with 80 % power; one below it is marked and may be noise."
    )
