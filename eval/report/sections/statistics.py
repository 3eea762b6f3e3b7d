"""How the numbers of a report were made, what this many prompts can show, and what is unscored."""

from eval.report.documents import Column, Section, Table
from eval.report.results import HARMFUL, Results
from eval.report.sections import groups, single
from eval.report.sections.columns import DESCRIBED, described
from eval.statistics.comparisons import N_FLIPS
from eval.statistics.intervals import MIN_MOVED, N_RESAMPLES
from eval.statistics.summaries import detectable_difference, differences

MEANS = (
    "Means carry bias-corrected accelerated (BCa) bootstrap 95 % intervals over prompts "
    f"({N_RESAMPLES:,} resamples, seed 0); where all scores are equal, an exact bound "
    "takes their place. Shares carry Wilson intervals. "
    "A prompt’s score is the mean over its scored samples, a response’s that over the judge’s scored repeats."
)
COMPARISONS = (
    "Differences from the baseline are paired on prompts; p is that of a two-sided sign-flip permutation test "
    f"({N_FLIPS:,} flips, seed 0). Over the source layers of a sweep p is adjusted by Westfall–Young step-down "
    "max-T, with Holm’s correction as a check. Yes-or-no outcomes are compared by McNemar’s exact test; their "
    "differences carry Bonett–Price intervals, as do differences of means where fewer than "
    f"{MIN_MOVED} prompts moved."
)


def sections(results: Results, chapter_id: str) -> list[Section]:
    """The method of every kind of number; why responses are unscored, per condition and prompt set."""
    notes = [MEANS, COMPARISONS, single.method(results), groups.method(results), _unscored(results), _power(results)]
    body = [
        [*described(row), row.prompt_set, reason, count]
        for rows in results.by_set.values()
        for row in rows
        for reason, count in sorted(row.reasons.items())
    ]
    told = [Column("prompt_set", "prompts"), Column("reason", "reason"), Column("count", "responses")]
    table = Table("unscored", "Unscored responses", [*DESCRIBED, *told], body, judge=results.judge)
    return [Section("statistics", "Statistics", list(filter(None, notes)), (), [table] if body else [])]


def _unscored(results: Results) -> str:
    text = "Unscored responses are left out pairwise and counted, never scored zero."
    if not any(row.bounds for rows in results.by_set.values() for row in rows):
        return text
    return (
        f"{text} Where there are any, Δ bounds give the mean difference had all of them been 0 on one side and 1 on "
        "the other; a difference whose bounds cross zero is not called significant."
    )


def _power(results: Results) -> str:
    """The least difference that this many prompts can show."""
    rows = [row for row in results.sweep or results.of_kind("subspace", "named") if row.n_pairs >= 2]
    if results.baseline is None or not rows:
        return ""
    unedited = results.scored.scores(results.baseline.condition, HARMFUL)
    pairs = [differences(results.scored.scores(row.condition, HARMFUL), unedited) for row in rows]
    alone, corrected = detectable_difference(pairs), detectable_difference(pairs, len(rows))
    n = min(row.n_pairs for row in rows)
    after = f", and of {corrected:.2f} after correction over {len(rows)} conditions" if len(rows) > 1 else ""
    return (
        f"With {n} prompts and the spread seen here, a paired difference in compliance of {alone:.2f} is found with "
        f"80 % power by one test{after}. Smaller ones are more often missed."
    )
