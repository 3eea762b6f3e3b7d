"""The figures of an audit: compliance against rank, against strength, and refusals induced by addition."""

from collections.abc import Sequence

from eval.report.documents import Picture, display
from eval.report.figures import (
    MARKERS,
    SERIES,
    baseline_band,
    canvas,
    colour,
    label,
    layer_ticks,
    mark_excluded,
    picture,
    points,
    unit_axis,
)
from eval.statistics.summaries import Summary
from eval.studies.audit.design import N_RANDOM
from eval.studies.audit.findings import AuditMeasurement, Findings


def rank_figure(findings: Findings, prefix: str) -> Picture:
    """Compliance against rank: a line per strength, random subspaces, the baseline, and the targets."""
    measured, size = findings.measured, findings.size
    figure, axes = canvas(7.4, 3.6)
    baseline_band(axes, measured.baseline)
    for index, alpha in enumerate(size.alphas):
        rows = _path(measured, alpha)
        shift = (index - (len(size.alphas) - 1) / 2) * 0.08
        x, y = [row.condition.rank + shift for row in rows], [row.means["compliance"] for row in rows]
        points(axes, x, y, _series(index), MARKERS[index % len(MARKERS)], label=f"plain, α = {alpha:g}", line=True)
    for index, (name, conditions) in enumerate((("affine", measured.affine), ("projected", measured.projected))):
        rows = [row for row in map(measured.rows.__getitem__, conditions) if row.means]
        x, y = [row.condition.rank - 0.24 - 0.06 * index for row in rows], [row.means["compliance"] for row in rows]
        number_of = len(size.alphas) + index
        points(axes, x, y, _series(number_of), MARKERS[number_of % len(MARKERS)], label=name)
    randoms = [row for row in measured.randoms if row.means]
    spread = [row.condition.rank + 0.22 + 0.05 * (index % N_RANDOM) for index, row in enumerate(randoms)]
    points(axes, spread, [row.means["compliance"] for row in randoms], "muted", "x", label="random subspaces")
    for each in findings.reached:
        axes.axhline(each.target, color=colour("grid"), linewidth=0.8, dashes=(2, 3), zorder=0)
    ranks = sorted({row.condition.rank for row in _path(measured, measured.alpha)})
    axes.set_xticks(ranks, [str(rank) for rank in ranks])
    axes.set_xlim(ranks[0] - 0.5, ranks[-1] + 0.6)
    label(axes, "rank of the subspace removed", "mean compliance (0–1)")
    unit_axis(axes)
    axes.figure.legend(loc="outside upper left", ncols=5, frameon=False, fontsize=8.5, labelcolor=colour("ink"))
    caption = (
        f"Compliance against rank on the {measured.baseline.n} prompts that nothing was chosen on; the layers of each "
        "rank were chosen greedily on the other half. Bars are 95 % intervals; crosses random subspaces of equal rank."
    )
    alt = "Compliance per rank: " + _in_words([(r.condition.rank, r) for r in _path(measured, measured.alpha)])
    return picture("ranks", caption, figure, prefix, alt)


def reverse_figure(findings: Findings, prefix: str) -> Picture | None:
    """Share of safe prompts refused once a layer's vector is added at that layer."""
    rows = [row for row in findings.reverse if row.condition.kind != "baseline" and row.means]
    if not rows:
        return None
    figure, axes = canvas(7.4, 2.9)
    layers = [int(row.condition.layers) for row in rows]
    points(axes, layers, [row.means["refused"] for row in rows], "compliance", "o", label="refused")
    mark_excluded(axes, findings.size.n_layers)
    label(axes, "layer whose refusal vector is added there", "safe prompts refused")
    unit_axis(axes)
    layer_ticks(axes, findings.size.n_layers)
    caption = "Induced refusals: share of safe prompts refused when a layer’s refusal vector is added at that layer."
    alt = "Safe prompts refused per layer: " + ", ".join(
        f"{layer}: {display(row.means['refused'])}" for layer, row in zip(layers, rows, strict=True)
    )
    return picture("reverse", caption, figure, prefix, alt)


def _path(measured: AuditMeasurement, alpha: float) -> list[Summary]:
    """The greedy path at one strength, by rank; sets of which nothing is scored are left out."""
    rows = [measured.rows[name] for (_, strength), name in measured.path.items() if strength == alpha]
    return [row for row in rows if row.means]


def _series(index: int) -> str:
    return SERIES[index % len(SERIES)]


def _in_words(rows: Sequence[tuple[int, Summary]]) -> str:
    return ", ".join(f"{key}: {display(row.compliance)}" for key, row in rows)
