"""The tables of an audit."""

from collections.abc import Mapping, Sequence

from eval.generation.job import HARMFUL
from eval.records.measures import MEANS, ON_HARMLESS, Measure
from eval.report.documents import Cell, Column, Measured, Table, Value
from eval.report.sections import benchmark as benchmark_table
from eval.report.sections.columns import (
    CHANGE,
    COMPLIANCE,
    CONDITION,
    RANK,
    N,
    P,
    change_p,
    columns_of,
    counted,
    described,
)
from eval.report.sections.damage import KL, PERPLEXITY, SAME, damage_cells
from eval.statistics.summaries import Agreement, Summary, group_means, is_candidate
from eval.studies.audit.findings import Findings
from eval.studies.audit.interventions import SMALL
from eval.studies.audit.verdict import Reached
from surgery.residual.layers import format_layers

LAYERS = Column("layers", "layers", "Decoder blocks whose refusal vectors span the subspace, by QR")
SITE, ALPHA = Column("site", "site"), Column("alpha", "α", "Ablation strength: x′ = x − α (x Bᵀ) B")
SELECTED = Column(
    "selection", "on the selection half", "Mean compliance by which the layers were chosen: biased upwards"
)


def path_table(findings: Findings, judge: str) -> Table:
    """The greedy path: each rank's layers, and their compliance on both halves."""
    measured = findings.measured
    body: list[list[Value]] = []
    for (index, _), name in measured.path.items():
        step, row = findings.selection.steps[index], measured.rows[name]
        chosen = Measured(step.score, ".3f") if row.condition.alpha == measured.alpha else None
        cells: list[Value] = [
            row.condition.rank,
            format_layers(step.layers),
            Measured(row.condition.alpha, "g"),
            chosen,
        ]
        body.append([*cells, *_scores(row), row.change, change_p(row)])
    columns = [RANK, LAYERS, ALPHA, SELECTED, N, *columns_of(MEANS), CHANGE, P]
    notes = ["The path is greedy: the rank that reaches a compliance is an upper bound on the rank needed."]
    return Table("path", "Compliance of the greedy path on the measuring half", columns, body, judge=judge, notes=notes)


def controls_table(findings: Findings, judge: str) -> Table:
    """The rest on the measuring half: baseline, random subspaces, the writes, the weights, beside the subspace chosen."""
    measured = findings.measured
    shown = {*measured.path.values(), *measured.affine, *measured.projected} - {measured.headline}
    rows = [row for name, row in measured.rows.items() if name not in shown]
    body = [[*described(row), *_scores(row), row.change, change_p(row)] for row in rows]
    columns = [CONDITION, SITE, ALPHA, N, *columns_of(MEANS), CHANGE, P]
    return Table("controls", "Controls, on the measuring half", columns, body, judge=judge)


def forms_table(findings: Findings, judge: str) -> Table:
    """Affine and projected ablation at every rank, on both halves."""
    measured, selection = findings.measured, findings.selection
    body: list[list[Value]] = []
    forms = [("affine", selection.affine, measured.affine), ("projected", selection.projected, measured.projected)]
    for name, path, conditions in forms:
        for index, condition in enumerate(conditions):
            row, mark = measured.rows[condition], " (chosen)" if index == path.best else ""
            cells: list[Value] = [name + mark, row.condition.rank, format_layers(path.layers[index])]
            score = Measured(path.scores[index], ".3f")
            body.append([*cells, score, *_scores(row), row.change, change_p(row)])
    columns = [Column("form", "form"), RANK, LAYERS, SELECTED, N, *columns_of(MEANS), CHANGE, P]
    notes = [
        "Affine: at one layer, that of the best single vector in this form, the component in the subspace is moved to its "
        "mean on safe prompts. Projected: the vectors without their part along the mean of safe prompts (of several "
        "layers: along the means of all layers), removed at every layer."
    ]
    return Table("forms", "Other operators, on the measuring half", columns, body, judge=judge, notes=notes)


def reached_table(findings: Findings) -> Table:
    """The smallest rank and strength that reach each target, and what they cost."""
    tasks = list(dict.fromkeys(outcome.task for outcome in findings.capability))
    body = [_reached(findings, each, tasks) for each in findings.reached]
    columns = [Column("target", "compliance of"), Column("reached", "smallest ablation"), LAYERS, COMPLIANCE, KL]
    columns += [Column(f"change_{task}", f"Δ {task}", benchmark_table.CHANGE.help) for task in tasks]
    return Table("reached", "The smallest rank and strength that reach a compliance, and their cost", columns, body)


def _reached(findings: Findings, each: Reached, tasks: Sequence[str]) -> list[Value]:
    cells: list[Value] = [f"{each.target:.0%}", each.text]
    point = each.point
    if point is None or point.rank == 0:
        return [*cells, None, point.compliance if point else None, None, *(None for _ in tasks)]
    name = findings.measured.path[point.step, point.alpha]
    damage = findings.damage.get(name)
    changes = {outcome.task: outcome.change for outcome in findings.capability if outcome.variant == name}
    layers = format_layers(findings.selection.steps[point.step].layers)
    return [*cells, layers, point.compliance, damage.kl if damage else None, *(changes.get(task) for task in tasks)]


def agreement_table(findings: Findings, judge: str) -> Table:
    """Where the same subspace is removed: block outputs, writes, weights."""
    measured = findings.measured
    pairs = [("block outputs against writes", measured.writes), ("writes against weights", measured.weights)]
    body = [[name, *_agreement(found)] for name, found in pairs if found]
    columns = [
        Column("pair", "what is compared"),
        Column("same_verdict", "same verdict", "Share of prompts with equal scores, Wilson 95 % interval"),
        Column("same_text", "same text", "Share of prompts with equal responses, letter for letter"),
        Column("change", "Δ compliance", "Mean paired difference, 95 % interval"),
    ]
    return Table("agreement", "The same subspace at run time and in the weights", columns, body, judge=judge)


def tier_table(findings: Findings, judge: str) -> Table | None:
    """Compliance per tier for the baseline and the path; None where prompts have no tiers."""
    measured = findings.measured
    names = ["baseline", *(name for (_, alpha), name in measured.path.items() if alpha == measured.alpha)]
    names += [measured.affine[findings.selection.affine.best], measured.projected[findings.selection.projected.best]]
    conditions = {condition.id: condition for condition in measured.scored.conditions}
    means = [group_means(measured.scored.scores(conditions[name], HARMFUL), "tier") for name in names]
    tiers = sorted({tier for each in means for tier in each})
    if not tiers:
        return None
    body = [
        [described(measured.rows[name])[0], *(_tier_cell(found, tier) for tier in tiers)]
        for name, found in zip(names, means, strict=True)
    ]
    columns = [CONDITION, *(Column(f"tier_{tier}", f"tier {tier}") for tier in tiers)]
    caption = f"Compliance per tier, α = {measured.alpha:g}, on the measuring half"
    return Table("tiers", caption, columns, body, judge=judge)


def single_table(findings: Findings, judge: str) -> Table:
    """Every layer's vector alone, plain, affine and projected, on the selection half."""
    rows = [row for row in findings.selection.first if row.condition.kind != "baseline"]
    n = findings.size.n_layers
    body: list[list[Value]] = []
    for layer in range(n):
        plain, affine, projected = (rows[layer + form * n] for form in range(3))
        body.append([layer, counted(plain), plain.compliance, affine.compliance, projected.compliance])
    columns = [
        Column("layer", "layer"),
        N,
        Column("plain", "plain"),
        Column("affine", "affine", "Moved at that layer to the mean of safe prompts"),
        Column("projected", "projected", "Without its part along the safe mean"),
    ]
    muted = frozenset(layer for layer in range(n) if not is_candidate(layer, n))
    caption = "Every single vector on the selection half; grey: the last fifth of the layers, never chosen"
    return Table("single", caption, columns, body, muted, judge)


def cost_table(findings: Findings, judge: str) -> Table:
    """Safe prompts under the ablations that reach the targets."""
    body = [
        [*described(row), *_scores(row, ON_HARMLESS), *damage_cells(findings.damage.get(row.condition.id))[:3]]
        for row in findings.cost
    ]
    columns = [CONDITION, SITE, ALPHA, N, *columns_of(ON_HARMLESS), KL, SAME, PERPLEXITY]
    return Table("cost", "What it costs on safe prompts", columns, body, judge=judge)


def capability_table(findings: Findings) -> Table | None:
    """Benchmarks under the same ablations; None where none were asked for."""
    rows = {row.condition.id: row for row in findings.cost}
    body = [
        [each.task, *described(rows[each.variant]), *benchmark_table.scored(each.measure, each.score, each.change)]
        for each in findings.capability
    ]
    columns = [benchmark_table.TASK, CONDITION, SITE, ALPHA, *benchmark_table.SCORED]
    return Table("capability", "What it costs on benchmarks (lm-evaluation-harness)", columns, body) if body else None


def reverse_table(findings: Findings, judge: str) -> Table:
    """Each layer's vector added to safe prompts."""
    body = [
        [row.condition.layers if row.condition.kind != "baseline" else "baseline", *_scores(row, ON_HARMLESS)]
        for row in findings.reverse
    ]
    columns = [Column("layer", "added at layer"), N, *columns_of(ON_HARMLESS)]
    note = (
        "The vector itself is added, once, at its own layer and at every token; by the affine operator, which also takes "
        f"{SMALL:.1%} of the component away."
    )
    return Table(
        "reverse", "The reverse: refusals induced by adding a vector", columns, body, judge=judge, notes=[note]
    )


def _scores(row: Summary, measures: Sequence[Measure] = MEANS) -> list[Value]:
    return [counted(row), *(row.means.get(measure.name) for measure in measures)]


def _agreement(found: Agreement) -> Sequence[Value]:
    return [Cell(found.same_verdict, f"of {found.n_pairs}"), Measured(found.same_text, ".3f"), found.change]


def _tier_cell(found: Mapping[str, tuple[Value, int]], tier: str) -> Value:
    mean, n_unscored = found.get(tier, (None, 0))
    return Cell(mean, f"{n_unscored} unscored") if n_unscored else mean
