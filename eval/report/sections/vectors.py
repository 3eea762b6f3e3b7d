"""The refusal vectors: how far they separate the prompts, their cosines, and the angles between those of two tiers."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eval.report.documents import Cell, Column, Measured, Picture, Section, Table, Value, formatted, number
from eval.report.figures import DIAMONDS, canvas, colour, label, layer_ticks, legend, mark_excluded, picture
from eval.report.results import Results
from surgery.statistics.angle_table import excess

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_ANNOTATED_LAYERS, MAX_VECTOR_LAYERS = 12, 48
DEGREES = ".1f"


def sections(results: Results, chapter_id: str) -> list[Section]:
    """Separability and cosines by layer, and tier angles; nothing for a run without statistics of its vectors."""
    caveats = results.analysis.get("caveats")
    return Section.of(
        "vectors",
        "Refusal vectors",
        [layer_table(results), angle_table(results)],
        [separability_figure(results, chapter_id), cosine_figure(results, chapter_id)],
        [" ".join(caveats)] if caveats else [],
    )


def layer_table(results: Results) -> Table | None:
    """Separation and norm of each layer's RV, its cosine to the next one, and the planted separation."""
    found = results.analysis
    d, cosine, planted = found.get("cohens_d") or [], found.get("cosine") or [], results.planted.cohens_d
    next_cosine = [row[layer + 1] for layer, row in enumerate(cosine[:-1])]
    help_text = "Measured when the organism was made, on its own pairs"
    columns = [
        Column("layer", "layer", read=lambda layer: layer),
        Column("cohens_d", "Cohen’s d", read=_at(d, ".2f")),
        *([Column("planted_cohens_d", "planted d", help_text, read=_at(planted, ".2f"))] if planted else []),
        Column("norm", "norm", read=_at(found.get("norms") or [], "#.4g")),
        Column("cosine_to_next", "cosine to next layer", read=_at(next_cosine, ".3f")),
    ]
    return Table.of("layers", "Refusal vectors by layer", columns, range(len(d)))


def _at(values: Sequence[float | None], spec: str) -> Callable[[int], Value]:
    """A layer's value with this format; nothing where there is none."""
    return lambda layer: formatted(values[layer], spec) if layer < len(values) else None


def angle_table(results: Results) -> Table | None:
    """A row for each angle; nothing for a run whose refusal vectors have no tiers."""
    found, noise = results.manifest.tier_angles, "Two halves of the same tier: what noise alone gives"
    columns = [
        Column("layers", "layers", "One layer: the angle between two vectors; several: between their QR subspaces"),
        Column("angle", "angle", "Principal angles, smallest first"),
        Column("tiers", "tiers"),
        Column("degrees", "all prompts", "Degrees between the spans fitted on all prompts of either tier"),
        Column("across", "halves of both", "A half of one tier against a half of the other: mean over splits"),
        Column("within_first", "halves of the first", noise),
        Column("within_second", "halves of the second", noise),
        Column("excess", "excess", "Halves of both minus the mean of the halves of one, degrees"),
    ]
    body = [_angle_cells(row, index) for row in found for index in range(len(row["angles_degrees"]))]
    sizes = {row["n_per_half"] for row in found if row["across"]}
    notes = [
        "Finite samples turn vectors apart by noise alone: only the excess over halves of one tier speaks for different "
        "directions. In brackets least and greatest over the splits."
        + "".join(f" Halves: {size} harmful prompts each." for size in sorted(sizes))
    ]
    caption = "Principal angles between the tiers’ vectors, degrees"
    return Table("tier-angles", caption, columns, body, notes=notes) if body else None


def _angle_cells(row: Mapping[str, Any], index: int) -> list[Value]:
    named = [row["layers"], index, " / ".join(row["tiers"]), Measured(row["angles_degrees"][index], DEGREES)]
    parts = [row["across"], *(row["within"] or (None, None))]
    return [*named, *(_spread(part, index) for part in parts), formatted(excess(row, index), "+.1f")]


def _spread(part: Mapping[str, Any] | None, index: int) -> Value:
    if part is None or index >= len(part["mean"]):
        return None
    low, high = (number(part[end][index], DEGREES) for end in ("low", "high"))
    return Cell(Measured(part["mean"][index], DEGREES), f"[{low}, {high}]")


def separability_figure(results: Results, prefix: str) -> Picture | None:
    """Cohen's d per layer as bars, with the organism's own measurement as diamonds."""
    d = results.analysis.get("cohens_d") or []
    if not any(value is not None for value in d):
        return None
    figure, axes = canvas(6.2, 3.1)
    heights = [value if value is not None else 0.0 for value in d]
    axes.bar(range(len(d)), heights, width=0.62, color=colour("coherence"), label="this run")
    if planted := results.planted.cohens_d:
        axes.plot(range(len(planted)), planted, label="planted ground truth", **DIAMONDS)
        legend(axes)
    mark_excluded(axes, results.n_layers)
    label(axes, "layer", "Cohen’s d (in-sample)")
    layer_ticks(axes, len(d))
    pairs = f", {results.analysis['n_pairs']} pairs" if results.analysis.get("n_pairs") else ""
    caption = (
        f"Separability: Cohen’s d of harmful and safe prompts along each layer’s refusal vector{pairs}. "
        "A large d does not show causal control."
    )
    return picture("separability", caption, figure, prefix, f"Cohen's d per layer: {_in_words(d)}")


def cosine_figure(results: Results, prefix: str) -> Picture | None:
    """Cosine similarity of the refusal vectors of every two layers as a heat map, and its mean by distance."""
    cosine = results.analysis.get("cosine") or []
    if not cosine:
        return None
    distances = results.analysis.get("cosine_by_distance") or []
    figure, axes = canvas(7.4 if distances else 4.4, 3.5, width_ratios=(1.25, 1) if distances else (1,))
    _draw_heat_map(figure, axes[0] if distances else axes, cosine)
    if distances:
        _draw_decay(axes[1], distances)
    decay = ", and its mean by distance of the layers." if distances else "."
    caption = f"Cross-layer cosine similarity of the refusal vectors{decay}"
    return picture("cosine", caption, figure, prefix, f"Mean cosine by layer distance: {_in_words(distances)}")


def _in_words(values: Sequence[float | None]) -> str:
    return ", ".join(f"{key}: {'unknown' if value is None else f'{value:.2f}'}" for key, value in enumerate(values))


def _draw_heat_map(figure: "Figure", axes: "Axes", cosine: Sequence[Sequence[float]]) -> None:
    image = _heat_map(axes, cosine)
    if len(cosine) <= MAX_ANNOTATED_LAYERS:
        _annotate(axes, cosine)
    bar = figure.colorbar(image, ax=axes, shrink=0.86, pad=0.03, ticks=[-1, -0.5, 0, 0.5, 1])
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=colour("muted"), labelcolor=colour("ink"), labelsize=9, length=3)
    bar.set_label("cosine", color=colour("ink"), fontsize=9.5)
    axes.set_aspect("equal")
    axes.set_xlabel("layer", color=colour("ink"), fontsize=9.5)
    axes.set_ylabel("layer", color=colour("ink"), fontsize=9.5)
    layer_ticks(axes, len(cosine), 12)
    axes.set_yticks(axes.get_xticks())
    axes.spines[:].set_visible(False)


def _draw_decay(axes: "Axes", distances: Sequence[float]) -> None:
    style: dict[str, Any] = {"color": colour("coherence"), "markersize": 4, "linewidth": 1.2, "clip_on": False}
    axes.plot(range(len(distances)), distances, "o-", **style)
    label(axes, "distance in layers", "mean cosine")
    axes.set_ylim(min(-0.03, *distances) - 0.02, 1.03)
    axes.axhline(0, color=colour("muted"), linewidth=0.8)
    layer_ticks(axes, len(distances), 12)


def _heat_map(axes: "Axes", cosine: Sequence[Sequence[float]]) -> Any:
    """Cells as vectors while they are few; beyond that one embedded image, which keeps the page small."""
    from matplotlib.colors import LinearSegmentedColormap

    # Blue for -1, white for 0, vermilion for 1: distinguishable with every common colour vision deficiency.
    shades = LinearSegmentedColormap.from_list("cosine", ["#08519c", "#6baed6", "#f7f7f5", "#f4a06b", "#b63a00"])
    edges = [index - 0.5 for index in range(len(cosine) + 1)]
    style: dict[str, Any] = {"cmap": shades, "vmin": -1, "vmax": 1}
    image: Any = (
        axes.pcolormesh(edges, edges, cosine, edgecolors="face", linewidth=0.2, **style)
        if len(cosine) <= MAX_VECTOR_LAYERS
        else axes.imshow(cosine, origin="lower", **style)
    )
    axes.invert_yaxis()
    return image


def _annotate(axes: "Axes", cosine: Sequence[Sequence[float]]) -> None:
    for i, row in enumerate(cosine):
        for j, value in enumerate(row):
            text = f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")
            shade = "#ffffff" if abs(value) > 0.62 else "#222222"
            axes.text(j, i, text, ha="center", va="center", fontsize=6.5, color=shade)
