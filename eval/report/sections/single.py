"""Single-vector ablation: the sweep over source layers, and the best of them chosen on one half, confirmed on the other."""

from eval.records.measures import MEANS
from eval.report.documents import Cell, Column, Picture, Section, Table, Value, display, equals_p, formatted, number
from eval.report.figures import (
    DIAMONDS,
    MARKERS,
    SERIES,
    baseline_band,
    canvas,
    label,
    layer_ticks,
    legend_above,
    mark_excluded,
    picture,
    points,
    unit_axis,
)
from eval.report.results import HARMFUL, Results
from eval.report.sections.columns import (
    N,
    change_p,
    changes,
    comparison,
    in_order,
    measured,
    p_cell,
    table_of,
    varied_in_alpha,
)
from eval.statistics.confirmation import N_SPLITS, Confirmation
from eval.statistics.summaries import Summary
from surgery.residual.layers import format_layers

MAX_LAYERS_NAMED = 6
WITHHELD = ", not called significant because the unscored responses could turn the change round"


def sections(results: Results, chapter_id: str) -> list[Section]:
    """The reference sweep, its best layer confirmed, and single vectors that are not in it."""
    tables = [sweep_table(results), confirmation_table(results), other_rvs_table(results)]
    return Section.of("single", "Single-vector ablation", tables, [sweep_figure(results, chapter_id)])


def sweep_table(results: Results) -> Table | None:
    """Compliance and coherence per source layer, with adjusted p, Cohen's d and what was planted."""
    rows, d = results.sweep, results.analysis.get("cohens_d") or []
    if not rows:
        return None

    def separation(row: Summary) -> Value:
        layer = row.condition.source_layers[0]
        return formatted(d[layer], ".2f") if layer < len(d) else None

    over = "Westfall–Young step-down max-T over the source layers of the sweep"
    holm, apart = (
        "Holm’s correction over the same layers, as a check",
        "Separation of harmful and safe prompts along this RV",
    )
    columns = [
        Column("layer", "source layer", read=lambda row: row.condition.source_layers[0]),
        N,
        *measured(results),
        *changes(rows),
        Column("p_adjusted", "adjusted p", over, read=change_p),
        Column("p_holm", "Holm p", holm, read=lambda row: p_cell(row.p_holm)),
        Column("cohens_d", "Cohen’s d", f"{apart}, in-sample", read=separation),
    ]
    muted = frozenset(index for index, row in enumerate(rows) if not results.is_candidate(row))
    notes = ["Grey rows: the last fifth of the layers, shown but not considered for the best layer."] if muted else []
    where = rows[0].condition.layers
    at = "every layer" if where == "all" else f"layers {where}"
    caption = f"Single refusal vectors: each layer’s RV ablated at {at}, α = {results.alpha:g}, harmful prompts"
    return table_of(results, "single-rvs", caption, columns, rows, muted=muted, notes=notes)


def other_rvs_table(results: Results) -> Table | None:
    """Single RVs outside the reference sweep that no table of strengths has: at other layers, or from some prompts."""
    elsewhere = {row.condition.id for row in (*results.sweep, *varied_in_alpha(results))}
    rows = [row for row in in_order(results.of_kind("rv")) if row.condition.id not in elsewhere]
    caption = "Other single refusal vectors: ablated at other layers, or extracted from some of the prompts"
    return comparison(results, "other-rvs", f"{caption}; harmful prompts", rows)


def confirmation_table(results: Results) -> Table | None:
    """What the choosing half shows, what the confirming half leaves of it, and how stable the choice is."""
    found = results.confirmation
    if found is None:
        return None
    splits = f"over {found.n_splits} random splits"
    among = "Highest compliance on the choosing half, among the candidate layers"
    halves = "Two-sided sign-flip test on the confirming half; one candidate, so no correction is due"
    shares = "Share of the splits in which each layer was chosen"
    columns = [
        Column("layer", "layer chosen", among, read=lambda found: _layer(results, found.index)),
        Column("chosen_at", "choosing half", "Mean compliance there, biased upwards by the choice"),
        Column("confirmed", "confirming half", "Mean compliance on the prompts that took no part, 95 % interval"),
        Column("optimism", "optimism", "Choosing minus confirming half"),
        Column("change", "Δ baseline", "Paired difference on the confirming half, 95 % interval"),
        Column("p", "p", halves, read=lambda found: p_cell(found.p)),
        Column("mean_confirmed", "mean over splits", f"Confirmed compliance, mean {splits}"),
        Column("mean_optimism", "mean optimism", f"Mean {splits}"),
        Column("choices", "chosen in", shares, read=lambda found: Cell(_choices(results, found))),
    ]
    caption = "The best single refusal vector, chosen on one half of the harmful prompts and confirmed on the other"
    notes = [
        "Halves are drawn at random within each category and tier (seed 0). The interval and p are those of the first "
        "split; the means tell how much they depend on it."
    ]
    return Table.of("confirmation", caption, columns, [found], judge=results.judge, notes=notes)


def _layer(results: Results, index: int) -> str:
    return format_layers(results.candidates[index].condition.source_layers)


def _choices(results: Results, found: Confirmation) -> str:
    """Layers by how often they were chosen, the commonest few."""
    ranked = sorted((index for index, share in enumerate(found.shares) if share > 0), key=lambda i: -found.shares[i])
    named = [f"{_layer(results, index)} ({found.shares[index]:.0%})" for index in ranked[:MAX_LAYERS_NAMED]]
    more = len(ranked) - len(named)
    return ", ".join(named) + (f" and {more} more" if more > 0 else "")


def sentence(results: Results) -> str:
    """The best single vector, for the headline."""
    best, n_candidates = results.best_rv, sum(map(results.is_candidate, results.sweep))
    if best is None:
        return ""
    before = f"from {display(results.baseline.compliance)} to " if results.baseline else "to "
    p = f", adjusted p {equals_p(best.p_adjusted)}" if best.p_adjusted is not None else ""
    p += WITHHELD if best.withheld else ""
    chosen = f"the highest of {n_candidates} candidate layers, so biased upwards"
    of_how_many = chosen if n_candidates > 1 else "the only candidate"
    return (
        f"The best single refusal vector, that of layer {best.condition.source_layers[0]} ({of_how_many}), takes "
        f"compliance on harmful prompts {before}{display(best.compliance)} at α = {best.condition.alpha:g}, with coherence "
        f"{number(best.means['coherence'].estimate)}{p}."
    )


def confirmation_sentence(results: Results) -> str:
    """The confirmed compliance and the optimism of the choice, for the headline."""
    found = results.confirmation
    if found is None:
        return ""
    equals = f", p {equals_p(found.p)}" if found.p is not None else ""
    n = found.confirmed.n
    prompts = "the one prompt" if n == 1 else f"the {n} prompts"
    return (
        f"Chosen on one half of the prompts, the vector of layer {_layer(results, found.index)} reaches "
        f"{display(found.confirmed)} on {prompts} of the other half{equals}; over {found.n_splits} such splits the "
        f"choosing half exceeds the other by {number(found.mean_optimism)} on average."
    )


def method(results: Results) -> str:
    """How the best layer is chosen."""
    if results.confirmation is None:
        return ""
    return (
        "The best layer is chosen on a random half of the prompts, drawn within category and tier, and measured on the "
        f"other half, where one test needs no correction; {N_SPLITS} such splits show how far the choice overstates."
    )


def sweep_figure(results: Results, prefix: str) -> Picture | None:
    """Compliance and coherence per source layer with intervals, baseline and planted ground truth."""
    rows = [row for row in results.sweep if row.means]
    if not rows:
        return None
    figure, axes = canvas(7.4, 3.4)
    layers = [row.condition.source_layers[0] for row in rows]
    baseline_band(axes, results.baseline)
    for index, measure in enumerate(MEANS):
        x = [layer + (index - (len(MEANS) - 1) / 2) * 0.36 for layer in layers]
        intervals = [row.means[measure.name] for row in rows]
        points(axes, x, intervals, SERIES[index], MARKERS[index], measure.label)
    planted = [results.planted.compliance(row.condition, HARMFUL) for row in rows]
    if any(value is not None for value in planted):
        y = [float("nan") if value is None else value for value in planted]
        axes.plot(layers, y, label="planted compliance", **DIAMONDS)
    mark_excluded(axes, results.n_layers)
    label(axes, "source layer of the refusal vector", "mean score (0–1)")
    unit_axis(axes)
    axes.set_xlim(-0.6, results.n_layers - 0.4)
    layer_ticks(axes, results.n_layers)
    legend_above(axes)
    acted = sorted({row.condition.layers for row in rows})
    where = "at every layer" if acted == ["all"] else f"at layers {', '.join(acted)}"
    caption = (
        f"Each layer’s refusal vector ablated {where}, α = {results.alpha:g}, harmful prompts; bars are 95 % "
        "intervals. Grey: the last fifth of the layers, not considered."
    )
    told = (f"{layer}: {display(row.compliance)}" for layer, row in zip(layers, rows, strict=True))
    return picture("sweep", caption, figure, prefix, f"Compliance per source layer: {', '.join(told)}")
