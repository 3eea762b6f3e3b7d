"""The part of a report that holds a recipe's claims and the write-up's figures beside ours."""

from collections.abc import Mapping, Sequence

from eval.records.measures import MEANS
from eval.report.documents import Cell, Column, Measured, Section, Table, Value
from eval.report.results import Results
from eval.statistics.summaries import Summary
from eval.studies.recipes.claims import Finding, find_all
from eval.studies.recipes.evidence import gather, separations, subspace_of
from eval.studies.recipes.recipe import Recipe

WHAT_IT_IS = (
    "Each claim is held against this run by a rule fixed beforehand, on 95 % intervals: supported or not when an interval "
    "lies wholly on one side of the rule's threshold, otherwise undecided. Cosines are corrected for the noise of "
    "finite samples, their intervals are a jackknife's over the extraction prompts. The thresholds are this program's."
)


def findings_of(results: Results, recipe: Recipe) -> list[Finding]:
    """How each claim of the recipe fared in this run."""
    return find_all(recipe.claims, gather(results, recipe))


def sections(results: Results, recipe: Recipe, left_out: Sequence[str] = ()) -> list[Section]:
    """The findings, and the published figures where the recipe has some; stages that were left out are named."""
    judge = results.judge
    said = [WHAT_IT_IS, *([f"Left out of this study: {', '.join(left_out)}."] if left_out else [])]
    found = [Section("claims", "Claims of the write-up", said, (), [_claims_table(results, recipe, judge)])]
    if recipe.published:
        beside = [_layer_table(results, recipe, judge), _subspace_table(results, recipe, judge)]
        found.append(Section("beside", "Beside the write-up's figures", (recipe.published.source + ".",), (), beside))
    return found


def _claims_table(results: Results, recipe: Recipe, judge: str) -> Table:
    columns = (
        Column("claim", "Claim", prose=True),
        Column("verdict", "Verdict"),
        Column("measured", "Measured", prose=True),
    )
    rows = [
        (Cell(row.claim, f"supported when: {row.rule}", below=True), row.verdict, row.measured)
        for row in findings_of(results, recipe)
    ]
    return Table("claims", "What this run says of each claim", columns, rows, judge=judge)


def _layer_table(results: Results, recipe: Recipe, judge: str) -> Table:
    published = recipe.published
    assert published is not None
    ours = {tag: _by_layer(results.sweeps_by_tag.get(tag, [])) for tag in ("", recipe.tag or "\0")}
    d = separations(results)
    theirs = (published.general, published.tier2)
    layers = sorted({*published.cohens_d, *published.general, *published.tier2})
    rows = []
    for layer in layers:
        row: list[Value] = [layer, _two_decimals(published.cohens_d.get(layer)), d.get(layer)]
        for figures, measured in zip(theirs, ours.values(), strict=True):
            row += _compared(figures.get(layer), measured.get(layer))
        rows.append(row)
    columns = [Column("layer", "Layer"), Column("d_published", "d, theirs"), Column("d", "d, ours")]
    for key, name in (("general", "general"), ("tier2", recipe.tag or "second set")):
        for measure in MEANS:
            columns.append(Column(f"{key}_{measure.name}_published", f"{name} {measure.label}, theirs"))
            columns.append(Column(f"{key}_{measure.name}", f"{name} {measure.label}, ours"))
    caption = "Cohen's d, and compliance and coherence under each layer's single RV; intervals are ours"
    return Table("beside-layers", caption, columns, rows, judge=judge)


def _subspace_table(results: Results, recipe: Recipe, judge: str) -> Table:
    published = recipe.published
    assert published is not None
    condition = subspace_of(results, recipe.subspace, 1.0)
    rows = {row.condition.id: row for row in results.harmful}
    ours = rows[condition.id].compliance if condition else None
    columns = (Column("layers", "Layers"), Column("published", "Compliance, theirs"), Column("compliance", "ours"))
    return Table(
        "beside-subspace",
        "Compliance under the headline subspace",
        columns,
        [(recipe.subspace, _two_decimals(published.subspace), ours)],
        judge=judge,
    )


def _by_layer(rows: "list[Summary]") -> Mapping[int, Summary]:
    return {row.condition.source_layers[0]: row for row in rows}


def _compared(figures: tuple[float, float] | None, measured: Summary | None) -> list[Value]:
    theirs = figures or (None,) * len(MEANS)
    ours = (measured.means.get(measure.name) if measured else None for measure in MEANS)
    return [value for pair in zip(theirs, ours, strict=True) for value in pair]


def _two_decimals(value: float | None) -> Value:
    return None if value is None else Measured(value, ".2f")
