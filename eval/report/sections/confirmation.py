"""The best single RV chosen on one half of the prompts and confirmed on the other, as a table and in words."""

from eval.report.documents import Cell, Column, Table, bounds, display_p, number
from eval.report.results import Results
from eval.report.sections.columns import p_cell
from eval.statistics.confirmation import Confirmation
from surgery.residual.layers import format_layers

MAX_LAYERS_NAMED = 6


def confirmation_table(results: Results, judge: str) -> Table | None:
    """What the choosing half shows, what the confirming half leaves of it, and how stable the choice is."""
    found = results.confirmation
    if found is None:
        return None
    columns = [
        Column("layer", "layer chosen", "Highest compliance on the choosing half, among the candidate layers"),
        Column("chosen_at", "choosing half", "Mean compliance there, biased upwards by the choice"),
        Column("confirmed", "confirming half", "Mean compliance on the prompts that took no part, 95 % interval"),
        Column("optimism", "optimism", "Choosing minus confirming half"),
        Column("change", "Δ baseline", "Paired difference on the confirming half, 95 % interval"),
        Column("p", "p", "Two-sided sign-flip test on the confirming half; one candidate, so no correction is due"),
        Column("mean_confirmed", "mean over splits", f"Confirmed compliance, mean over {found.n_splits} random splits"),
        Column("mean_optimism", "mean optimism", f"Mean over {found.n_splits} random splits"),
        Column("choices", "chosen in", "Share of the splits in which each layer was chosen"),
    ]
    row = [
        _layer(results, found.index),
        found.chosen_at,
        found.confirmed,
        found.optimism,
        found.change,
        p_cell(found.p),
        found.mean_confirmed,
        found.mean_optimism,
        Cell(_choices(results, found)),
    ]
    caption = "The best single refusal vector, chosen on one half of the harmful prompts and confirmed on the other"
    notes = [
        "Halves are drawn at random within each category and tier (seed 0). The interval and p are those of the first "
        "split; the means tell how much they depend on it."
    ]
    return Table("confirmation", caption, columns, [row], judge=judge, notes=notes)


def confirmation_sentence(results: Results) -> str:
    """The confirmed compliance and the optimism of the choice, for the headline."""
    found = results.confirmation
    if found is None:
        return ""
    p = display_p(found.p) if found.p is not None else ""
    equals = f", p {p if p.startswith('<') else f'= {p}'}" if p else ""
    n, layer = found.confirmed.n, _layer(results, found.index)
    prompts = "the one prompt" if n == 1 else f"the {n} prompts"
    return (
        f"Chosen on one half of the prompts, the vector of layer {layer} reaches {number(found.confirmed.estimate)} "
        f"{bounds(found.confirmed)} on {prompts} of the other half{equals}; over {found.n_splits} such splits the "
        f"choosing half exceeds the other by {number(found.mean_optimism)} on average."
    )


def _layer(results: Results, index: int) -> str:
    return format_layers(results.candidates[index].condition.source_layers)


def _choices(results: Results, found: Confirmation) -> str:
    """Layers by how often they were chosen, the commonest few."""
    ranked = sorted((index for index, share in enumerate(found.shares) if share > 0), key=lambda i: -found.shares[i])
    named = [f"{_layer(results, index)} ({found.shares[index]:.0%})" for index in ranked[:MAX_LAYERS_NAMED]]
    more = len(ranked) - len(named)
    return ", ".join(named) + (f" and {more} more" if more > 0 else "")
