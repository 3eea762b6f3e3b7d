"""What a judged run says about the claims of a recipe."""

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.plan.conditions import Condition
from eval.report.results import HARMFUL, Results
from eval.statistics.confirmation import choose_on_half
from eval.statistics.intervals import Interval, paired_difference
from eval.studies.recipes.claims import Evidence
from eval.studies.recipes.recipe import Recipe
from surgery.residual.layers import format_layers, late_layers, parse_layers

Mask = NDArray[np.bool_] | slice
EVERYBODY = slice(None)


def gather(results: Results, recipe: Recipe) -> Evidence:
    """The evidence of one run.

    Args:
        recipe: with layers of the run's model (`Recipe.at_depth`).
    """
    candidates = [row.condition for row in results.candidates]
    chosen = choose_on_half([results.scored.scores(each, HARMFUL) for each in candidates])
    single, others = (candidates[chosen[0]], chosen[1]) if chosen else (None, EVERYBODY)
    reference, half = subspace_of(results, recipe.subspace, 1.0), subspace_of(results, recipe.subspace, 0.5)
    strongest = subspace_of(results, recipe.subspace, max(recipe.alphas)) if max(recipe.alphas) > 1 else None
    return Evidence(
        cohens_d=separations(results),
        **_cosines(results),
        best_single=results.confirmation.confirmed if results.confirmation else None,
        subspace_gain=change(results, single, reference, keep=others),
        wider_gain=change(results, reference, subspace_of(results, recipe.wider, 1.0)),
        tag_change=tag_change(results, recipe.tag),
        strength_gain=change(results, half, reference),
        strength_cost=change(results, reference, strongest, "coherence"),
    )


def subspace_of(results: Results, layers: str, alpha: float) -> Condition | None:
    """The run's condition that ablates the QR subspace of these layers' RVs in the stream of every layer."""
    sources = parse_layers(layers, results.n_layers)
    asked = ("subspace", sources, alpha, "stream", "all", "")
    found = [c for c in results.scored.conditions if _traits(c) == asked and results.scored.has(c, HARMFUL)]
    return next(iter(found), None)


def _traits(condition: Condition) -> tuple[object, ...]:
    c = condition
    return c.kind, c.source_layers, c.alpha, c.site, c.layers, c.tag


def separations(results: Results) -> dict[int, Interval | None]:
    """Layer -> Cohen's d, of held-out pairs where there are some; None for a layer without d or interval."""
    statistics = results.analysis.get("held_out") or results.analysis
    values, ends = statistics.get("cohens_d") or (), statistics.get("cohens_d_interval") or ()
    n = int(statistics.get("n_harmful") or statistics.get("n_pairs") or 0)
    rows = enumerate(zip_longest(values, ends[: len(values)]))  # of a record without intervals, or of fewer layers
    return {
        layer: Interval(d, pair[0], pair[1], n, "bootstrap") if d is not None and pair else None
        for layer, (d, pair) in rows
    }


def _cosines(results: Results) -> dict[str, Any]:
    """The evidence on cosines between layers; nothing where the vectors' file had none."""
    found = results.analysis.get("cosine_statistics") or {}
    names = {"near": "neighbours", "far": "far", "decay": "decay", "late": "late"}
    intervals = {
        f"cosine_{ours}": Interval(**found[theirs], method="jackknife")
        for ours, theirs in names.items()
        if found.get(theirs)
    }
    return {**intervals, "late_layers": format_layers(late_layers(results.n_layers))}


def change(
    results: Results,
    before: Condition | None,
    after: Condition | None,
    measure: str = "compliance",
    keep: Mask = EVERYBODY,
) -> Interval | None:
    """Mean paired difference over the harmful prompts that are scored under both; None without one."""
    if before is None or after is None:
        return None
    pair = (results.scored.scores(each, HARMFUL).values[measure][keep] for each in (before, after))
    return _interval(-np.subtract(*pair))


def tag_change(results: Results, tag: str | None) -> Interval | None:
    """RVs of one tag minus those of all pairs: per prompt the mean over the source layers that both sweeps have."""
    general, other = (_by_layer(results.sweeps_by_tag.get(name, ())) for name in ("", tag or "\0"))
    common = sorted(general.keys() & other.keys())
    if not common:
        return None
    pairs = [[results.scored.scores(rows[layer], HARMFUL).compliance for layer in common] for rows in (other, general)]
    return _interval(np.mean(np.subtract(*map(np.array, pairs)), axis=0))


def _by_layer(rows: Iterable[object]) -> dict[tuple[int, ...], Condition]:
    return {row.condition.source_layers: row.condition for row in rows}  # type: ignore[attr-defined]


def _interval(differences: NDArray[np.float64] | Sequence[float]) -> Interval | None:
    values = np.asarray(differences, dtype=np.float64)
    values = values[~np.isnan(values)]
    return paired_difference(values) if values.size else None
