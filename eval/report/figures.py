"""The figures of a chapter, drawn by matplotlib as SVG whose text stays text and whose colours follow the page."""

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from eval.report.documents import Picture, bounds, number
from eval.report.results import HARMFUL, Results
from eval.report.sections.tables import condition_name, varied_in_alpha
from eval.statistics.intervals import Interval
from eval.statistics.summaries import EXCLUDED_FROM, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colour-blind safe palette (2008) and neutrals: name -> (on white, on a dark page).
PALETTE = {
    "compliance": ("#d55e00", "#f0843c"),
    "coherence": ("#0072b2", "#5cb3e6"),
    "third": ("#009e73", "#3ccfa3"),
    "fourth": ("#cc79a7", "#e29cc3"),
    "fifth": ("#56b4e9", "#8fd0f5"),
    "sixth": ("#b08a00", "#e6c34a"),
    "ink": ("#1b1b1a", "#e8e6e1"),
    "muted": ("#6f6e6a", "#a09e98"),
    "grid": ("#dddbd5", "#3b3a38"),
    "band": ("#f1efea", "#2a2928"),
    "paper": ("#fffffe", "#1a1918"),
}
SERIES = ("compliance", "coherence", "third", "fourth", "fifth", "sixth")
MARKERS = "osD^vP"
MAX_ANNOTATED_LAYERS, MAX_VECTOR_LAYERS = 12, 48
EXCLUDED = "not considered"
LEGEND_ORDER = ("compliance", "planted compliance", "coherence", "baseline compliance", EXCLUDED)


def colour(name: str) -> str:
    """A palette colour as drawn on white; `themed` turns it into a CSS variable."""
    return PALETTE[name][0]


def themed(svg: str) -> str:
    """A figure's SVG for a page: palette colours become CSS variables, so that it follows light and dark."""
    for name, (light, _) in PALETTE.items():
        svg = svg.replace(light, f"var(--{name})")
    return re.sub(r' xmlns(:xlink)?="[^"]*"| font-family="sans-serif"', "", svg)


def separability_figure(results: Results, prefix: str) -> Picture | None:
    """Cohen's d per layer as bars, with the organism's own measurement as diamonds."""
    d = results.analysis.get("cohens_d") or []
    if not any(value is not None for value in d):
        return None
    figure, axes = canvas(6.2, 3.1)
    layers = range(len(d))
    axes.bar(
        layers,
        [value if value is not None else 0.0 for value in d],
        width=0.62,
        color=colour("coherence"),
        label="this run",
    )
    planted = results.planted.cohens_d
    if planted:
        axes.plot(range(len(planted)), planted, label="planted ground truth", **_diamonds())
        _legend(axes)
    mark_excluded(axes, results.n_layers)
    label(axes, "layer", "Cohen’s d (in-sample)")
    layer_ticks(axes, len(d))
    pairs = f", {results.analysis['n_pairs']} pairs" if results.analysis.get("n_pairs") else ""
    caption = (
        f"Separability: Cohen’s d of harmful and safe prompts along each layer’s refusal vector{pairs}. "
        "A large d does not show causal control."
    )
    alt = "Cohen's d per layer: " + ", ".join(f"{layer}: {_two(value)}" for layer, value in enumerate(d))
    return picture("separability", caption, figure, prefix, alt)


def cosine_figure(results: Results, prefix: str) -> Picture | None:
    """Cosine similarity of the refusal vectors of every two layers as a heat map, and its mean by distance."""
    cosine = results.analysis.get("cosine") or []
    if not cosine:
        return None
    distances = results.analysis.get("cosine_by_distance") or []
    figure, axes = canvas(7.4 if distances else 4.4, 3.5, width_ratios=(1.25, 1) if distances else (1,))
    heat = axes[0] if distances else axes
    _draw_heat_map(figure, heat, cosine)
    if distances:
        _draw_decay(axes[1], distances)
    caption = "Cross-layer cosine similarity of the refusal vectors" + (
        ", and its mean by distance of the layers." if distances else "."
    )
    alt = "Mean cosine by layer distance: " + ", ".join(f"{k}: {_two(value)}" for k, value in enumerate(distances))
    return picture("cosine", caption, figure, prefix, alt)


def sweep_figure(results: Results, prefix: str) -> Picture | None:
    """Compliance and coherence per source layer with intervals, baseline and planted ground truth."""
    rows = [row for row in results.sweep if row.compliance]
    if not rows:
        return None
    figure, axes = canvas(7.4, 3.4)
    layers = [row.condition.source_layers[0] for row in rows]
    baseline_band(axes, results.baseline)
    points(axes, [x - 0.18 for x in layers], [row.compliance for row in rows], "compliance", "o")
    points(axes, [x + 0.18 for x in layers], [row.coherence for row in rows], "coherence", "s")
    planted = [results.planted.compliance(row.condition, HARMFUL) for row in rows]
    if any(value is not None for value in planted):
        axes.plot(layers, [_or_nan(value) for value in planted], label="planted compliance", **_diamonds())
    mark_excluded(axes, results.n_layers)
    label(axes, "source layer of the refusal vector", "mean score (0–1)")
    unit_axis(axes)
    axes.set_xlim(-0.6, results.n_layers - 0.4)
    layer_ticks(axes, results.n_layers)
    _legend_above(axes)
    acted = sorted({row.condition.layers for row in rows})
    where = "at every layer" if acted == ["all"] else f"at layers {', '.join(acted)}"
    caption = (
        f"Each layer’s refusal vector ablated {where}, α = {results.alpha:g}, harmful prompts; bars are 95 % "
        "intervals. Grey: the last fifth of the layers, not considered."
    )
    alt = "Compliance per source layer: " + ", ".join(
        f"{layer}: {number(row.compliance.estimate)} {bounds(row.compliance)}"
        for layer, row in zip(layers, rows, strict=True)
    )
    return picture("sweep", caption, figure, prefix, alt)


def alpha_figure(results: Results, prefix: str) -> Picture | None:
    """Compliance and coherence against strength, a line per RV or subspace."""
    series, left_out = _alpha_series(results)
    if not series:
        return None
    figure, (left, right) = canvas(7.4, 3.1, width_ratios=(1, 1))
    alphas = sorted({row.condition.alpha for rows in series for row in rows})
    shift = min((b - a for a, b in zip(alphas, alphas[1:], strict=False)), default=1.0) * 0.05
    for index, rows in enumerate(series):
        x = [row.condition.alpha + (index - (len(series) - 1) / 2) * shift for row in rows]
        name = _series_name(rows[0])
        points(left, x, [row.compliance for row in rows], SERIES[index], MARKERS[index], label=name, line=True)
        points(right, x, [row.coherence for row in rows], SERIES[index], MARKERS[index], label=name, line=True)
    for axes, what in ((left, "mean compliance (0–1)"), (right, "mean coherence (0–1)")):
        label(axes, "ablation strength α", what)
        unit_axis(axes)
        axes.set_xticks(alphas, [f"{alpha:g}" for alpha in alphas])
    handles, labels = left.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper left", ncols=3, frameon=False, fontsize=8.5, labelcolor=colour("ink")
    )
    more = f" {left_out} more are in the table." if left_out else ""
    caption = f"Trade-off of strength: compliance and coherence on harmful prompts; bars are 95 % intervals.{more}"
    alt = "; ".join(
        f"{_series_name(rows[0])}: "
        + ", ".join(
            f"α {r.condition.alpha:g} compliance {number(r.compliance.estimate)} "
            f"coherence {number(r.coherence.estimate)}"
            for r in rows
        )
        for rows in series
    )
    return picture("alpha", caption, figure, prefix, alt)


def _alpha_series(results: Results) -> tuple[list[list[Summary]], int]:
    """Rows per line: the best RV and the subspaces, at most six; and how many lines were left out."""
    groups: dict[str, list[Summary]] = {}
    for row in varied_in_alpha(results):
        if row.compliance:
            groups.setdefault(_series_name(row), []).append(row)
    best = _series_name(results.best_rv) if results.best_rv else ""
    ranked = sorted(groups, key=lambda name: (name != best, groups[name][0].condition.kind != "subspace"))
    return [groups[name] for name in ranked[: len(SERIES)]], max(0, len(ranked) - len(SERIES))


def _series_name(row: Summary) -> str:
    site = row.condition.site
    return condition_name(row) + (f" ({site})" if site not in ("", "stream") else "")


def canvas(width: float, height: float, width_ratios: Sequence[float] = (1,)) -> tuple["Figure", Any]:
    """A figure of this size in inches with restrained axes side by side; no global matplotlib state is touched."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0.0)
    axes = figure.subplots(1, len(width_ratios), width_ratios=width_ratios)
    for each in figure.axes:
        each.patch.set_alpha(0.0)
        each.spines[["top", "right"]].set_visible(False)
        each.spines[["left", "bottom"]].set_color(colour("muted"))
        each.tick_params(colors=colour("muted"), labelcolor=colour("ink"), labelsize=9, length=3)
        each.set_axisbelow(True)
    return figure, axes


def points(
    axes: "Axes",
    x: Sequence[float],
    intervals: Sequence[Interval],
    name: str,
    marker: str,
    label: str = "",
    line: bool = False,
) -> None:
    y = [interval.estimate for interval in intervals]
    errors = [[i.estimate - i.low for i in intervals], [i.high - i.estimate for i in intervals]]
    axes.errorbar(
        x,
        y,
        yerr=errors,
        fmt=f"{marker}-" if line else marker,
        color=colour(name),
        markersize=4.5,
        elinewidth=1.3,
        linewidth=1.2,
        label=label or name,
        clip_on=False,
        zorder=3,
    )


def _diamonds() -> dict[str, Any]:
    return {
        "linestyle": "none",
        "marker": "D",
        "markersize": 6,
        "markerfacecolor": "none",
        "markeredgecolor": colour("ink"),
        "markeredgewidth": 1.0,
        "clip_on": False,
        "zorder": 4,
    }


def baseline_band(axes: "Axes", baseline: Summary | None) -> None:
    if baseline is None or baseline.compliance is None:
        return
    axes.axhspan(baseline.compliance.low, baseline.compliance.high, color=colour("grid"), linewidth=0, zorder=0)
    axes.axhline(
        baseline.compliance.estimate,
        color=colour("muted"),
        linewidth=1,
        dashes=(4, 3),
        label="baseline compliance",
        zorder=1,
    )


def mark_excluded(axes: "Axes", n_layers: int) -> None:
    """Shade the layers that are not considered for the best one."""
    first = next((layer for layer in range(n_layers) if layer >= EXCLUDED_FROM * n_layers), None)
    if first is not None:
        axes.axvspan(first - 0.5, n_layers - 0.5, color=colour("band"), linewidth=0, zorder=-1, label=EXCLUDED)


def label(axes: "Axes", x: str, y: str) -> None:
    axes.set_xlabel(x, color=colour("ink"), fontsize=9.5)
    axes.set_ylabel(y, color=colour("ink"), fontsize=9.5)
    axes.grid(axis="y", color=colour("grid"), linewidth=0.7)


def unit_axis(axes: "Axes") -> None:
    axes.set_ylim(-0.03, 1.03)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])


def layer_ticks(axes: "Axes", n_layers: int, n_ticks: int = 17) -> None:
    step = next(step for step in (1, 2, 4, 8, 16, 32, 64, 128) if n_layers <= step * n_ticks or step == 128)
    axes.set_xticks(range(0, n_layers, step))


def _legend(axes: "Axes") -> None:
    axes.legend(frameon=False, fontsize=8.5, labelcolor=colour("ink"), loc="best")


def _legend_above(axes: "Axes") -> None:
    handles, labels = axes.get_legend_handles_labels()
    ranked = sorted(zip(labels, handles, strict=True), key=lambda pair: LEGEND_ORDER.index(pair[0]))
    axes.figure.legend(
        [handle for _, handle in ranked],
        [label for label, _ in ranked],
        loc="outside upper left",
        ncols=5,
        frameon=False,
        fontsize=8.5,
        labelcolor=colour("ink"),
        handletextpad=0.5,
        columnspacing=1.4,
    )


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
    axes.plot(
        range(len(distances)), distances, "o-", color=colour("coherence"), markersize=4, linewidth=1.2, clip_on=False
    )
    label(axes, "distance in layers", "mean cosine")
    axes.set_ylim(min(-0.03, *distances) - 0.02, 1.03)
    axes.axhline(0, color=colour("muted"), linewidth=0.8)
    layer_ticks(axes, len(distances), 12)


def _heat_map(axes: "Axes", cosine: Sequence[Sequence[float]]) -> Any:
    """Cells as vectors while they are few; beyond that one embedded image, which keeps the page small."""
    edges = [index - 0.5 for index in range(len(cosine) + 1)]
    few = len(cosine) <= MAX_VECTOR_LAYERS
    style = {"cmap": _diverging(), "vmin": -1, "vmax": 1}
    image = (
        axes.pcolormesh(edges, edges, cosine, edgecolors="face", linewidth=0.2, **style)
        if few
        else axes.imshow(cosine, origin="lower", **style)
    )
    axes.invert_yaxis()
    return image


def _diverging() -> Any:
    """Blue for -1, white for 0, vermilion for 1: distinguishable with every common colour vision deficiency."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("cosine", ["#08519c", "#6baed6", "#f7f7f5", "#f4a06b", "#b63a00"])


def _annotate(axes: "Axes", cosine: Sequence[Sequence[float]]) -> None:
    for i, row in enumerate(cosine):
        for j, value in enumerate(row):
            text = f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")
            axes.text(
                j, i, text, ha="center", va="center", fontsize=6.5, color="#ffffff" if abs(value) > 0.62 else "#222222"
            )


def picture(picture_id: str, caption: str, figure: "Figure", prefix: str, alt: str) -> Picture:
    return Picture(picture_id, caption, _svg(figure, f"{prefix}-{picture_id}"), alt, round(figure.get_figwidth() * 96))


def _svg(figure: "Figure", name: str) -> str:
    """The figure as one <svg> element: text as text in the page's fonts, ids of its own, sized in CSS pixels."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = re.sub(r"(id=\"|url\(#|href=\"#)", rf"\g<1>{name}-", svg)
    size = f'width="{figure.get_figwidth() * 96:.0f}" height="{figure.get_figheight() * 96:.0f}"'
    return re.sub(
        r'width="[^"]*" height="[^"]*"', f'{size} stroke-linejoin="round" font-family="sans-serif"', svg, count=1
    )


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _two(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"
