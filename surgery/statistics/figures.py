"""Figures of refusal vectors: cosines between layers, effect sizes with their intervals, prompts on principal axes."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from surgery.console.errors import ArtifactError
from surgery.files.artifacts import explaining_disk_errors
from surgery.residual.vectors import RefusalVectors
from surgery.statistics.separability import analysis

FORMATS = ("svg", "png")
# Colour-blind safe (Okabe & Ito 2008).
HARMFUL_COLOUR, SAFE_COLOUR = "#D55E00", "#0072B2"


def draw(rvs: RefusalVectors, folder: Path | str) -> list[Path]:
    """Draw every figure that the file's data allows, each as SVG and PNG.

    cosine: heat map of the cosines between layers. effect-size: Cohen's d of every layer with its 95 % bootstrap interval,
    held-out prompts beside it. scatter: the prompts of every layer on its two leading principal axes.

    Args:
        folder: made if it is not there; files of the same names are replaced.
    Returns: what was written.
    Raises: ArtifactError (`folder` is a file, a vector is zero), DiskError.
    """
    folder, summary = Path(folder), analysis(rvs)
    figures = {"cosine": cosine_figure(summary)}
    if any(d is not None for d in summary["cohens_d"]):
        figures["effect-size"] = effect_size_figure(summary)
    if "scatter_harmful" in rvs.extras:
        figures["scatter"] = scatter_figure(rvs)
    if folder.exists() and not folder.is_dir():
        raise ArtifactError(f"{folder}: is a file; expected a folder for the figures")
    with explaining_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{name}.{form}" for name in figures for form in FORMATS]
        for path in paths:
            figures[path.stem].savefig(path, dpi=150)
    return paths


def cosine_figure(summary: dict[str, Any]) -> Figure:
    """Heat map of the cosine between the refusal vectors of any two layers, colours fixed at -1 to 1."""
    figure, axes = _figure(5.2, 4.4)
    image = axes.imshow(summary["cosine"], vmin=-1, vmax=1, cmap="RdBu_r", origin="lower")
    axes.set(
        xlabel="layer", ylabel="layer", title=f"Cosine between layers, effective rank {summary['effective_rank']:.1f}"
    )
    figure.colorbar(image, ax=axes, label="cosine")
    return figure


def effect_size_figure(summary: dict[str, Any]) -> Figure:
    """Bars of Cohen's d with 95 % bootstrap intervals; held-out prompts beside the fitted ones where there are any."""
    figure, axes = _figure(max(5.2, 0.34 * summary["n_layers"]), 3.6)
    groups = [("fitted prompts (in-sample)", summary, HARMFUL_COLOUR)]
    if summary["held_out"]:
        groups.append(("held-out prompts", summary["held_out"], SAFE_COLOUR))
    for index, (label, found, colour) in enumerate(groups):
        _bars(axes, found, (index - (len(groups) - 1) / 2) * 0.8 / len(groups), 0.8 / len(groups), label, colour)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xlabel="layer", ylabel="Cohen's d", title="Separation of harmful and safe prompts, 95 % intervals")
    axes.legend(frameon=False, fontsize="small", loc="upper left")
    return figure


def scatter_figure(rvs: RefusalVectors) -> Figure:
    """One panel a layer: every prompt's activation on the two leading principal axes of that layer."""
    n_columns = min(rvs.n_layers, 6)
    n_rows = -(-rvs.n_layers // n_columns)
    figure = Figure(figsize=(1.9 * n_columns, 1.9 * n_rows), layout="constrained")
    for layer in range(rvs.n_layers):
        axes = figure.add_subplot(n_rows, n_columns, layer + 1)
        for name, colour in (("harmful", HARMFUL_COLOUR), ("safe", SAFE_COLOUR)):
            points = rvs.extras[f"scatter_{name}"][:, layer].numpy()
            axes.scatter(points[:, 0], points[:, 1], s=6, color=colour, label=name, linewidths=0)
        axes.set_title(f"layer {layer}", fontsize="small")
        axes.tick_params(labelsize="xx-small")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def _bars(axes: Axes, found: dict[str, Any], shift: float, width: float, label: str, colour: str) -> None:
    known = [layer for layer, d in enumerate(found["cohens_d"]) if d is not None]
    heights = [found["cohens_d"][layer] for layer in known]
    ends = [found["cohens_d_interval"][layer] or (height, height) for layer, height in zip(known, heights, strict=True)]
    # the percentile interval of a biased bootstrap can lie beside the estimate; a bar's whisker cannot be negative
    below = [max(0.0, height - low) for height, (low, _) in zip(heights, ends, strict=True)]
    above = [max(0.0, high - height) for height, (_, high) in zip(heights, ends, strict=True)]
    places = [layer + shift for layer in known]
    axes.bar(places, heights, width, yerr=[below, above], color=colour, label=label, error_kw={"linewidth": 0.8})


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()
