"""The tables of a chapter, built from one run's results."""

from collections.abc import Sequence

from eval.report.documents import Cell, Column, Measured, Table, Value
from eval.report.results import HARMFUL, Results
from eval.report.sections.columns import (
    ALPHA,
    CHANGE,
    COHERENCE,
    COMPLIANCE,
    CONDITION,
    FULL,
    ORDER,
    P_ADJUSTED,
    P_HOLM,
    PLANTED,
    RANK,
    REFUSED,
    SITE,
    N,
    P,
    bounds_notes,
    change_p,
    condition_name,
    counted,
    described,
    in_order,
    p_cell,
    with_bounds,
)
from eval.statistics.summaries import Summary, agreement, group_means
from surgery.residual.layers import format_layers


def sweep_table(results: Results, judge: str) -> Table:
    """Compliance and coherence per source layer, with adjusted p, Cohen's d and what was planted."""
    d = results.analysis.get("cohens_d") or []
    columns = [Column("layer", "source layer"), N, COMPLIANCE, COHERENCE, CHANGE, P_ADJUSTED, P_HOLM]
    columns.append(Column("cohens_d", "Cohen’s d", "Separation of harmful and safe prompts along this RV, in-sample"))
    rows = []
    for row in results.sweep:
        (layer,) = row.condition.source_layers
        tested = [row.change, change_p(row), p_cell(row.p_holm)]
        rows.append(
            [layer, counted(row), row.compliance, row.coherence, *tested, *_measured(d[layer : layer + 1], 1, ".2f")]
        )
    muted = frozenset(index for index, row in enumerate(results.sweep) if not results.is_candidate(row))
    notes = ["Grey rows: the last fifth of the layers, shown but not considered for the best layer."] if muted else []
    notes += bounds_notes(rows)
    columns, rows = with_bounds(results.sweep, columns, rows)
    where = results.sweep[0].condition.layers
    at = "every layer" if where == "all" else f"layers {where}"
    caption = f"Single refusal vectors: each layer’s RV ablated at {at}, α = {results.alpha:g}, harmful prompts"
    return with_planted(
        results, results.sweep, HARMFUL, Table("single-rvs", caption, columns, rows, muted, judge, notes)
    )


def subspace_table(results: Results, judge: str) -> Table | None:
    """Baseline, the best single RV, the subspaces, the user's own ablations and what is edited without a counterpart."""
    paired = {checkpoint.id for _, checkpoint in results.checkpoint_pairs}
    others = in_order(results.of_kind("subspace", "named", "checkpoint"))
    rows = [row for row in (results.baseline, results.best_rv) if row]
    rows += [row for row in others if row.condition.id not in paired]
    subspaces = "Subspaces against the best single RV" if results.of_kind("subspace") else "Against the baseline"
    return _comparison(results, "subspaces", f"{subspaces}, harmful prompts", rows, judge) if rows else None


def other_rvs_table(results: Results, judge: str) -> Table | None:
    """Single RVs outside the reference sweep that no table of strengths has: at other layers, or from some prompts."""
    elsewhere = {row.condition.id for row in (*results.sweep, *varied_in_alpha(results))}
    rows = [row for row in in_order(results.of_kind("rv")) if row.condition.id not in elsewhere]
    caption = "Other single refusal vectors: ablated at other layers, or extracted from some of the prompts"
    return _comparison(results, "other-rvs", f"{caption}; harmful prompts", rows, judge) if rows else None


def alpha_table(results: Results, judge: str) -> Table | None:
    """Compliance and coherence at each strength, for RVs and subspaces tried at several."""
    rows = varied_in_alpha(results)
    if not rows:
        return None
    columns = [CONDITION, SITE, ALPHA, N, COMPLIANCE, COHERENCE]
    body = [[*described(r), counted(r), r.compliance, r.coherence] for r in rows]
    table = Table(
        "alpha", "Strength of ablation: compliance against coherence, harmful prompts", columns, body, judge=judge
    )
    return with_planted(results, rows, HARMFUL, table)


def random_table(results: Results, judge: str) -> Table | None:
    """Random subspaces, the control for removing any direction at all."""
    rows = [row for row in (results.baseline, *in_order(results.of_kind("random"))) if row]
    caption = "Control: random directions and subspaces, harmful prompts"
    return _comparison(results, "random", caption, rows, judge) if results.of_kind("random") else None


def group_table(results: Results, tag: str, judge: str) -> Table | None:
    """Compliance on harmful prompts by tier or category; RVs at the reference strength only."""
    kept = reference_rows(results)
    means = [group_means(results.scored.scores(row.condition, HARMFUL), tag) for row in kept]
    groups = list(means[0]) if means else []
    if len(groups) < 2:
        return None
    labels = [f"tier {group}" if tag == "tier" else group for group in groups]
    columns = [
        CONDITION,
        SITE,
        ALPHA,
        *(Column(f"{tag}_{group}", label) for group, label in zip(groups, labels, strict=True)),
    ]
    body = [
        described(row) + [_with_unscored(mean[group]) for group in groups]
        for row, mean in zip(kept, means, strict=True)
    ]
    sizes = [sum(str(getattr(p, tag)) == group for p in results.scored.prompts[HARMFUL]) for group in groups]
    notes = ["Prompts: " + ", ".join(f"{label} {size}" for label, size in zip(labels, sizes, strict=True)) + "."]
    if any(n_unscored for mean in means for _, n_unscored in mean.values()):
        notes.append("†: prompts left out because they are unscored.")
    return Table(f"by-{tag}", f"Compliance on harmful prompts by {tag}", columns, body, judge=judge, notes=notes)


def checkpoint_table(results: Results, judge: str) -> Table | None:
    """Runtime ablation against the checkpoint with the same span orthogonalized, prompt by prompt."""
    if not results.checkpoint_pairs:
        return None
    by_id = {row.condition.id: row for row in results.harmful}
    columns = [
        Column("checkpoint", "removed from the weights"),
        ALPHA,
        Column("runtime_site", "runtime site"),
        Column("runtime_compliance", "runtime"),
        Column("checkpoint_compliance", "checkpoint"),
        Column("change", "difference", "Checkpoint minus runtime, paired on prompts"),
        P,
        Column(
            "same_verdict", "same verdict", "Share of prompts with equal compliance and coherence, Wilson 95 % interval"
        ),
        Column("same_text", "same text", "Share of responses that are equal letter for letter"),
    ]
    rows = []
    for runtime, checkpoint in results.checkpoint_pairs:
        found = agreement(results.scored, HARMFUL, runtime, checkpoint)
        name = f"layers {format_layers(checkpoint.source_layers)}"
        name += "" if checkpoint.layers == "all" else f", at layers {checkpoint.layers}"
        name += " (adapter)" if checkpoint.id.startswith("adapter:") else ""
        means = [by_id[runtime.id].compliance, by_id[checkpoint.id].compliance]
        rows.append(
            [
                name,
                Measured(runtime.alpha, "g"),
                runtime.site,
                *means,
                found.change,
                p_cell(found.p),
                found.same_verdict,
                found.same_text,
            ]
        )
    notes = ["Ablating the writes at run time does the same as the edited weights; ablating the stream removes more."]
    caption = "Runtime ablation against the orthogonalized checkpoint, harmful prompts"
    return Table("checkpoint", caption, columns, rows, judge=judge, notes=notes)


def layer_table(results: Results) -> Table | None:
    """Separation and norm of each layer's RV, its cosine to the next one, and the planted separation."""
    d, cosine = results.analysis.get("cohens_d") or [], results.analysis.get("cosine") or []
    if not d:
        return None
    next_cosine = [row[layer + 1] for layer, row in enumerate(cosine[:-1])]
    parts = [
        (Column("cohens_d", "Cohen’s d"), _measured(d, len(d), ".2f")),
        (Column("norm", "norm"), _measured(results.analysis.get("norms") or [], len(d), "#.4g")),
        (Column("cosine_to_next", "cosine to next layer"), _measured(next_cosine, len(d), ".3f")),
    ]
    if results.planted.cohens_d:
        help_text = "Measured when the organism was made, on its own pairs"
        parts.insert(
            1, (Column("planted_cohens_d", "planted d", help_text), _measured(results.planted.cohens_d, len(d), ".2f"))
        )
    columns = [Column("layer", "layer"), *(column for column, _ in parts)]
    rows = [[layer, *values] for layer, values in enumerate(zip(*(values for _, values in parts), strict=True))]
    return Table("layers", "Refusal vectors by layer", columns, rows)


def stage_table(results: Results) -> Table | None:
    """Seconds per stage."""
    stages = results.manifest.get("stages") or {}
    rows = [[name, Measured(seconds, ".1f")] for name, seconds in stages.items() if isinstance(seconds, (int, float))]
    return (
        Table("stages", "Time per stage", [Column("stage", "stage"), Column("seconds", "seconds")], rows)
        if rows
        else None
    )


def unscored_table(results: Results, judge: str) -> Table | None:
    """Why responses are unscored, per condition and prompt set."""
    rows: list[list[Value]] = [
        [*described(row), row.prompt_set, reason, count]
        for rows_of_set in results.by_set.values()
        for row in rows_of_set
        for reason, count in sorted(row.reasons.items())
    ]
    columns = [
        CONDITION,
        SITE,
        ALPHA,
        Column("prompt_set", "prompts"),
        Column("reason", "reason"),
        Column("count", "responses"),
    ]
    return Table("unscored", "Unscored responses", columns, rows, judge=judge) if rows else None


def contrast_table(all_results: Sequence[Results], judge: str) -> Table:
    """One row per run: baseline, the best single RV, the best subspace, random control."""
    columns = [
        Column("model", "model"),
        Column("baseline", "baseline"),
        Column("best_rv", "best single RV"),
        Column("best_subspace", "best subspace"),
        Column("random", "random control", "Highest of the random controls"),
        Column("safe", "safe prompts", "Compliance on safe prompts under the best subspace (or single RV)"),
    ]
    rows = [_contrast_row(results) for results in all_results]
    caption = "Compliance on harmful prompts: single refusal vector against subspace, per model"
    return Table(
        "contrast",
        caption,
        columns,
        rows,
        judge=judge,
        notes=["RVs of the last fifth of the layers are not considered."],
    )


def varied_in_alpha(results: Results) -> list[Summary]:
    """RVs and subspaces that were tried at several strengths, those with the same span side by side."""
    groups: dict[tuple[object, ...], list[Summary]] = {}
    for row in results.of_kind("rv", "subspace"):
        condition = row.condition
        groups.setdefault(
            (ORDER[condition.kind], condition.source_layers, condition.tag, condition.site, condition.layers), []
        ).append(row)
    varied = [groups[key] for key in sorted(groups) if len(groups[key]) > 1]
    return [row for group in varied for row in sorted(group, key=lambda row: row.condition.alpha)]


def reference_rows(results: Results) -> list[Summary]:
    """All conditions on the harmful prompts; of the RVs those of the reference sweep only."""
    sweep = {row.condition.id for row in results.sweep}
    return [row for row in in_order(results.harmful) if row.condition.kind != "rv" or row.condition.id in sweep]


def _comparison(results: Results, table_id: str, caption: str, rows: Sequence[Summary], judge: str) -> Table:
    columns = [CONDITION, SITE, ALPHA, RANK, N, COMPLIANCE, COHERENCE, FULL, REFUSED, CHANGE, P]
    body = [[*described(row), row.condition.rank or None, counted(row), *_measures(row)] for row in rows]
    selected = any(row.p_adjusted is not None for row in rows)
    notes = (
        ["p of a single RV is adjusted over the source layers of its sweep; the others are not."] if selected else []
    )
    notes += bounds_notes(body)
    columns, body = with_bounds(rows, columns, body)
    return with_planted(results, rows, HARMFUL, Table(table_id, caption, columns, body, judge=judge, notes=notes))


def _measures(row: Summary) -> list[Value]:
    return [row.compliance, row.coherence, row.full, row.refused, row.change, change_p(row)]


def with_planted(results: Results, rows: Sequence[Summary], prompt_set: str, table: Table) -> Table:
    """The table with the planted compliance after the measured one; unchanged for a model without ground truth."""
    if not results.planted:
        return table
    at = 1 + [column.key for column in table.columns].index(COMPLIANCE.key)
    planted = [results.planted.compliance(row.condition, prompt_set) for row in rows]
    columns = [*table.columns[:at], PLANTED, *table.columns[at:]]
    body = [[*cells[:at], value, *cells[at:]] for cells, value in zip(table.rows, planted, strict=True)]
    return Table(table.id, table.caption, columns, body, table.muted, table.judge, table.notes)


def _contrast_row(results: Results) -> list[Value]:
    rv, subspace = results.best_rv, results.best_subspace
    last = subspace or rv
    safe = next((row.compliance for row in results.safe if last and row.condition.id == last.condition.id), None)
    randoms = [row.compliance for row in results.of_kind("random") if row.compliance]
    return [
        Cell(results.model_name, "planted ground truth" if results.planted else "", below=True),
        results.baseline.compliance if results.baseline else None,
        Cell(rv.compliance, condition_name(rv), below=True) if rv else None,
        Cell(subspace.compliance, condition_name(subspace), below=True) if subspace else None,
        max(randoms, key=lambda interval: interval.estimate, default=None),
        safe,
    ]


def _with_unscored(mean: tuple[Value, int]) -> Value:
    interval, n_unscored = mean
    return Cell(interval, f"†{n_unscored}") if n_unscored else interval


def _measured(values: Sequence[float | None], n: int, spec: str) -> list[Value]:
    """The first n values with this format; nothing where there is none."""
    shown: list[Value] = [None if value is None else Measured(value, spec) for value in values[:n]]
    return [*shown, *[None] * (n - len(shown))]
