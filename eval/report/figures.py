"""How figures are drawn: by matplotlib as SVG whose text stays text and whose colours follow the page."""

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from eval.report.documents import Picture
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
EXCLUDED = "not considered"
DIAMONDS: dict[str, Any] = {
    "linestyle": "none",
    "marker": "D",
    "markersize": 6,
    "markerfacecolor": "none",
    "markeredgecolor": PALETTE["ink"][0],
    "markeredgewidth": 1.0,
    "clip_on": False,
    "zorder": 4,
}
LEGEND_ORDER = ("compliance", "planted compliance", "coherence", "baseline compliance", EXCLUDED)


def colour(name: str) -> str:
    """A palette colour as drawn on white; `themed` turns it into a CSS variable."""
    return PALETTE[name][0]


def themed(svg: str) -> str:
    """A figure's SVG for a page: palette colours become CSS variables, so that it follows light and dark."""
    for name, (light, _) in PALETTE.items():
        svg = svg.replace(light, f"var(--{name})")
    return re.sub(r' xmlns(:xlink)?="[^"]*"| font-family="sans-serif"', "", svg)


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
    """Estimates with their intervals as error bars, in a palette colour, joined by a line or not."""
    y = [interval.estimate for interval in intervals]
    errors = [[i.estimate - i.low for i in intervals], [i.high - i.estimate for i in intervals]]
    style: dict[str, Any] = {"markersize": 4.5, "elinewidth": 1.3, "linewidth": 1.2, "clip_on": False, "zorder": 3}
    form = f"{marker}-" if line else marker
    axes.errorbar(x, y, yerr=errors, fmt=form, color=colour(name), label=label or name, **style)


def baseline_band(axes: "Axes", baseline: Summary | None) -> None:
    """The unedited model's compliance as a line in its interval."""
    if baseline is None or not baseline.means:
        return
    mean, name = baseline.means["compliance"], "baseline compliance"
    axes.axhspan(mean.low, mean.high, color=colour("grid"), linewidth=0, zorder=0)
    axes.axhline(mean.estimate, color=colour("muted"), linewidth=1, dashes=(4, 3), label=name, zorder=1)


def mark_excluded(axes: "Axes", n_layers: int) -> None:
    """Shade the layers that are not considered for the best one."""
    first = next((layer for layer in range(n_layers) if layer >= EXCLUDED_FROM * n_layers), None)
    if first is not None:
        axes.axvspan(first - 0.5, n_layers - 0.5, color=colour("band"), linewidth=0, zorder=-1, label=EXCLUDED)


def label(axes: "Axes", x: str, y: str) -> None:
    """Name both axes, and draw horizontal grid lines."""
    axes.set_xlabel(x, color=colour("ink"), fontsize=9.5)
    axes.set_ylabel(y, color=colour("ink"), fontsize=9.5)
    axes.grid(axis="y", color=colour("grid"), linewidth=0.7)


def unit_axis(axes: "Axes") -> None:
    """A vertical axis of scores, 0 to 1."""
    axes.set_ylim(-0.03, 1.03)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])


def layer_ticks(axes: "Axes", n_layers: int, n_ticks: int = 17) -> None:
    """A horizontal axis of layers, with at most so many ticks."""
    step = next(step for step in (1, 2, 4, 8, 16, 32, 64, 128) if n_layers <= step * n_ticks or step == 128)
    axes.set_xticks(range(0, n_layers, step))


def legend(axes: "Axes") -> None:
    """Inside the axes, where there is room."""
    axes.legend(frameon=False, fontsize=8.5, labelcolor=colour("ink"), loc="best")


def legend_of(
    figure: "Figure", handles: Sequence[Any], labels: Sequence[str], ncols: int = 5, **spacing: float
) -> None:
    """Above the axes."""
    style: dict[str, Any] = {"frameon": False, "fontsize": 8.5, "labelcolor": colour("ink"), **spacing}
    figure.legend(handles, labels, loc="outside upper left", ncols=ncols, **style)


def legend_above(axes: "Axes") -> None:
    """Above the axes, in the order of LEGEND_ORDER and others after it."""
    place = {name: index for index, name in enumerate(LEGEND_ORDER)}
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    labels = sorted(handles, key=lambda name: place.get(name, len(place)))
    drawn = [handles[name] for name in labels]
    legend_of(cast("Figure", axes.figure), drawn, labels, handletextpad=0.5, columnspacing=1.4)


def picture(picture_id: str, caption: str, figure: "Figure", prefix: str, alt: str) -> Picture:
    """The finished figure of one chapter, whose id is the prefix."""
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
