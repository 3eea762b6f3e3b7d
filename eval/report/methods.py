"""How the numbers of a report were made, named where they are read, and what this many prompts can show."""

from eval.report.results import HARMFUL, Results
from eval.statistics.comparisons import N_FLIPS
from eval.statistics.confirmation import N_SPLITS
from eval.statistics.intervals import MIN_MOVED, N_RESAMPLES
from eval.statistics.summaries import detectable_difference, differences


def statistics_notes(results: Results) -> list[str]:
    """The method of every kind of number, and the least difference that this many prompts can show."""
    return [
        note for note in (_means(), _comparisons(), _choice(results), _tiers(results), _unscored(results)) if note
    ] + [*_detectable(results)]


def _means() -> str:
    return (
        "Means carry bias-corrected accelerated (BCa) bootstrap 95 % intervals over prompts "
        f"({N_RESAMPLES:,} resamples, seed 0); where all scores are equal, an exact bound "
        "takes their place. Shares carry Wilson intervals. "
        "A prompt’s score is the mean over its scored samples, a response’s that over the judge’s scored repeats."
    )


def _comparisons() -> str:
    return (
        "Differences from the baseline are paired on prompts; p is that of a two-sided sign-flip permutation test "
        f"({N_FLIPS:,} flips, seed 0). Over the source layers of a sweep p is adjusted by Westfall–Young step-down "
        "max-T, with Holm’s correction as a check. Yes-or-no outcomes are compared by McNemar’s exact test; their "
        "differences carry Bonett–Price intervals, as do differences of means where fewer than "
        f"{MIN_MOVED} prompts moved."
    )


def _choice(results: Results) -> str:
    if results.confirmation is None:
        return ""
    return (
        "The best layer is chosen on a random half of the prompts, drawn within category and tier, and measured on the "
        f"other half, where one test needs no correction; {N_SPLITS} such splits show how far the choice overstates."
    )


def _tiers(results: Results) -> str:
    if len({prompt.tier for prompt in results.scored.prompts[HARMFUL]} - {None}) < 2 or not results.baseline:
        return ""
    return (
        "Differences between tiers are differences in differences: their intervals come from those of the two changes "
        f"(MOVER), p from {N_FLIPS:,} permutations of the tier labels (Welch’s t, seed 0), adjusted by max-T. Beside each "
        "stands the least difference that so many prompts show with 80 % power; one below it is marked and may be noise."
    )


def _unscored(results: Results) -> str:
    text = "Unscored responses are left out pairwise and counted, never scored zero."
    if not any(row.bounds for rows in results.by_set.values() for row in rows):
        return text
    return (
        f"{text} Where there are any, Δ bounds give the mean difference had all of them been 0 on one side and 1 on "
        "the other; a difference whose bounds cross zero is not called significant."
    )


def _detectable(results: Results) -> list[str]:
    baseline = results.baseline
    rows = [row for row in results.sweep or results.of_kind("subspace", "named") if row.n_pairs >= 2]
    if baseline is None or not rows:
        return []
    unedited = results.scored.scores(baseline.condition, HARMFUL)
    pairs = [differences(results.scored.scores(row.condition, HARMFUL), unedited) for row in rows]
    alone, corrected = detectable_difference(pairs), detectable_difference(pairs, len(rows))
    n = min(row.n_pairs for row in rows)
    after = f", and of {corrected:.2f} after correction over {len(rows)} conditions" if len(rows) > 1 else ""
    return [
        f"With {n} prompts and the spread seen here, a paired difference in compliance of {alone:.2f} is found with "
        f"80 % power by one test{after}. Smaller ones are more often missed."
    ]
