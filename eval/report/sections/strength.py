"""Strength of ablation: compliance against coherence, for RVs and subspaces tried at several."""

from eval.records.measures import MEANS
from eval.report.documents import Picture, Section, number
from eval.report.figures import MARKERS, SERIES, canvas, label, legend_of, picture, points, unit_axis
from eval.report.results import Results
from eval.report.sections.columns import DESCRIBED, N, condition_name, measured, table_of, varied_in_alpha
from eval.statistics.summaries import Summary


def sections(results: Results, chapter_id: str) -> list[Section]:
    """The trade-off of strength; nothing for a run of one strength."""
    caption = "Strength of ablation: compliance against coherence, harmful prompts"
    columns = [*DESCRIBED, N, *measured(results)]
    table = table_of(results, "alpha", caption, columns, varied_in_alpha(results))
    return Section.of("strength", "Strength", [table], [alpha_figure(results, chapter_id)])


def alpha_figure(results: Results, prefix: str) -> Picture | None:
    """The means against strength, a line per RV or subspace."""
    series, left_out = _alpha_series(results)
    if not series:
        return None
    figure, panels = canvas(7.4, 3.1, width_ratios=(1,) * len(MEANS))
    alphas = sorted({row.condition.alpha for rows in series for row in rows})
    shift = min((b - a for a, b in zip(alphas, alphas[1:], strict=False)), default=1.0) * 0.05
    for axes, measure in zip(panels, MEANS, strict=True):
        for index, rows in enumerate(series):
            x = [row.condition.alpha + (index - (len(series) - 1) / 2) * shift for row in rows]
            intervals = [row.means[measure.name] for row in rows]
            points(axes, x, intervals, SERIES[index], MARKERS[index], _series_name(rows[0]), line=True)
        label(axes, "ablation strength α", f"mean {measure.label} (0–1)")
        unit_axis(axes)
        axes.set_xticks(alphas, [f"{alpha:g}" for alpha in alphas])
    handles, labels = panels[0].get_legend_handles_labels()
    legend_of(figure, handles, labels, ncols=3)
    more = f" {left_out} more are in the table." if left_out else ""
    caption = f"Trade-off of strength: compliance and coherence on harmful prompts; bars are 95 % intervals.{more}"
    alt = "; ".join(f"{_series_name(rows[0])}: {', '.join(map(_in_words, rows))}" for rows in series)
    return picture("alpha", caption, figure, prefix, alt)


def _in_words(row: Summary) -> str:
    means = (f"{measure.label} {number(row.means[measure.name].estimate)}" for measure in MEANS)
    return f"α {row.condition.alpha:g} {' '.join(means)}"


def _alpha_series(results: Results) -> tuple[list[list[Summary]], int]:
    """Rows per line: the best RV and the subspaces, at most six; and how many lines were left out."""
    groups: dict[str, list[Summary]] = {}
    for row in varied_in_alpha(results):
        if row.means:
            groups.setdefault(_series_name(row), []).append(row)
    best = _series_name(results.best_rv) if results.best_rv else ""
    ranked = sorted(groups, key=lambda name: (name != best, groups[name][0].condition.kind != "subspace"))
    return [groups[name] for name in ranked[: len(SERIES)]], max(0, len(ranked) - len(SERIES))


def _series_name(row: Summary) -> str:
    site = row.condition.site
    return condition_name(row) + (f" ({site})" if site not in ("", "stream") else "")
