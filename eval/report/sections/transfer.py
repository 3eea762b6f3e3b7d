"""Transfer between tiers as tables and in words: what is from one tier, measured on the prompts of each."""

from collections.abc import Mapping, Sequence

from eval.report.documents import Cell, Column, Section, Table, Value, display, equals_p, number
from eval.report.results import HARMFUL, Results
from eval.report.sections.groups import TESTED, contrast_cells, noise_notes
from eval.statistics.scores import Scores
from eval.statistics.summaries import Summary
from eval.statistics.tiers import TierContrast
from eval.statistics.transfer import Transferred, best_single, own_tier_advantages, tier_compliance, unchosen
from surgery.residual.layers import format_layers

ALL = "all prompts"
SINGLE = "best single RV"


def sections(results: Results, chapter_id: str) -> list[Section]:
    """The matrix, the advantage of a tier's own vectors, and every layer by where its RV is from."""
    tables = transfer_tables(results)
    return Section.of("transfer", "Transfer between tiers", [*tables, _layer_table(results) if tables else None])


def transfer_tables(results: Results) -> list[Table]:
    """The matrix and the advantages; nothing for a run without conditions from tiers, or prompts of two."""
    found, tiers = transferred(results), results.tiers
    if not found:
        return []
    advantages = [_advantage_table(results, found, tiers[0], upper) for upper in tiers[1:]]
    return [_matrix(results, found), *filter(None, advantages)]


def transferred(results: Results) -> dict[str, dict[str, Transferred]]:
    """Kind of intervention -> tag -> intervention; empty for a run without conditions from tiers, or prompts of two."""
    tags = _tags(results)
    if len(tags) < 2 or len(results.tiers) < 2:
        return {}
    best = {tag: best_single(tag, _scores(results, results.candidates_of(tag))) for tag in tags}
    found = {SINGLE: {tag: each for tag, each in best.items() if each}}
    for tag in tags:
        for row in results.subspaces_of(tag):
            if row.n_scored:
                name = f"QR of layers {format_layers(row.condition.source_layers)}"
                found.setdefault(name, {})[tag] = unchosen(tag, results.scored.scores(row.condition, HARMFUL))
    return {name: by_tag for name, by_tag in found.items() if by_tag}


def sentence(results: Results) -> str:
    """Whether a tier's own vectors do better on it, and whether so many prompts could have shown it."""
    found, tiers = transferred(results), results.tiers
    pairs = ((name, _pair(by_tag, tiers[0], tiers[-1])) for name, by_tag in found.items())
    name, pair = next(((name, pair) for name, pair in pairs if pair), ("", None))
    if pair is None:
        return ""
    lower, upper = tiers[0], tiers[-1]
    (contrast,) = own_tier_advantages([pair], lower, upper)
    if contrast is None:
        return ""
    single = f"The best single vectors from tiers {lower} and {upper} differ by"
    what = single if name == SINGLE else f"Of the {name}, those from tiers {lower} and {upper} differ by"
    seen = f"{display(contrast.difference)} in favour of their own tier, p {equals_p(contrast.p)}"
    return f"{what} {seen}: {_meaning(contrast)}."


def _meaning(contrast: TierContrast) -> str:
    n, least = min(contrast.lower.n, contrast.upper.n), number(contrast.least_shown, ".2f")
    if contrast.below_detectable:
        return f"less than the {least} that {n} prompts a tier can show, so it may be noise"
    if contrast.p <= 0.05 and contrast.difference.low > 0:
        return f"{n} prompts a tier can show {least}, so each tier's vectors are partly its own"
    if contrast.p <= 0.05 and contrast.difference.high < 0:
        return f"{n} prompts a tier can show {least}; vectors do better on the other tier"
    return f"{n} prompts a tier can show {least}, yet this one may be chance"


def _tags(results: Results) -> list[str]:
    """Where the vectors of the run's conditions are from: all prompts first."""
    return list(dict.fromkeys(["", *sorted({row.condition.tag for row in results.of_kind("rv", "subspace")})]))


def _scores(results: Results, rows: Sequence[Summary]) -> list[Scores]:
    return [results.scored.scores(row.condition, HARMFUL) for row in rows]


def _pair(by_tag: Mapping[str, Transferred], lower: int, upper: int) -> tuple[Transferred, Transferred] | None:
    """What is from either tier; None when one of them is missing."""
    names = f"tier {lower}", f"tier {upper}"
    return (by_tag[names[0]], by_tag[names[1]]) if by_tag.keys() >= set(names) else None


def _matrix(results: Results, found: Mapping[str, Mapping[str, Transferred]]) -> Table:
    tiers = results.tiers
    columns = [
        Column("ablated", "ablated"),
        Column("source", "vectors from", "The prompts that the refusal vectors were extracted from"),
        Column("layers", "layers", "Source layers; of the best single RV the one chosen on the other half"),
        *(Column(f"tier_{tier}", f"on tier {tier}", "Mean compliance, 95 % interval") for tier in tiers),
    ]
    body: list[list[Value]] = [
        [name, tag or ALL, format_layers(each.scores.condition.source_layers), *_cells(each, tiers)]
        for name, by_tag in found.items()
        for tag, each in by_tag.items()
    ]
    if results.baseline:
        unedited = unchosen("", results.scored.scores(results.baseline.condition, HARMFUL))
        body.insert(0, ["nothing", None, None, *_cells(unedited, tiers)])
    notes = [
        f"α = {results.alpha:g}. The best single RV is chosen on one half of the prompts, all tiers together, and measured "
        "on the other half; subspaces are measured on all prompts. n: scored prompts; †: unscored ones, left out."
    ]
    caption = (
        "Transfer between tiers: vectors from one tier (rows) ablated, compliance on the prompts of each (columns)"
    )
    return Table("transfer", caption, columns, body, judge=results.judge, notes=notes)


def _cells(transferred: Transferred, tiers: Sequence[int]) -> list[Value]:
    cells: list[Value] = []
    for tier in tiers:
        mean, n_unscored = tier_compliance(transferred, tier)
        cells.append(Cell(mean, f"n {mean.n if mean else 0}" + (f" †{n_unscored}" if n_unscored else "")))
    return cells


def _advantage_table(
    results: Results, found: Mapping[str, Mapping[str, Transferred]], lower: int, upper: int
) -> Table | None:
    pairs = {name: pair for name, by_tag in found.items() if (pair := _pair(by_tag, lower, upper))}
    contrasts = own_tier_advantages(list(pairs.values()), lower, upper) if pairs else []
    if not any(contrasts):
        return None
    help_text = (
        f"Compliance under vectors from tier {upper} minus that under vectors from tier {lower}, paired on prompts"
    )
    columns = [
        Column("ablated", "ablated"),
        *(Column(f"gain_tier_{tier}", f"{upper} − {lower} on tier {tier}", help_text) for tier in (lower, upper)),
        Column("difference", "own-tier advantage", "Difference of the two, MOVER 95 % interval"),
        *TESTED,
    ]
    body = [[name, *contrast_cells(contrast)] for name, contrast in zip(pairs, contrasts, strict=True)]
    caption = f"Do vectors do better on the tier they are from? Tier {upper} against tier {lower}"
    notes = [
        "Difference in differences: above zero each tier's vectors do better on its own prompts; how hard a tier is cancels.",
        *noise_notes(contrasts),
    ]
    return Table(f"own-tier-{upper}-{lower}", caption, columns, body, judge=results.judge, notes=notes)


def _layer_table(results: Results) -> Table | None:
    """Compliance of each layer's RV by the prompts that it is from, all tiers of evaluated prompts together."""
    by_tag = {tag: results.sweeps_by_tag.get(tag, []) for tag in _tags(results)}
    layers = sorted({row.condition.source_layers[0] for rows in by_tag.values() for row in rows})
    if not layers:
        return None
    named = {tag: {row.condition.source_layers[0]: row.compliance for row in rows} for tag, rows in by_tag.items()}
    columns = [Column("layer", "source layer")]
    columns += [Column(f"from_{tag or 'all'}".replace(" ", "_"), f"from {tag or ALL}") for tag in named]
    body: list[list[Value]] = [[layer, *(found.get(layer) for found in named.values())] for layer in layers]
    muted = frozenset(
        index for index, layer in enumerate(layers) if not any(map(results.is_candidate, _rows_of(by_tag, layer)))
    )
    caption = "Each layer’s RV by the prompts it was extracted from: compliance on all harmful prompts"
    return Table("rvs-by-source", caption, columns, body, muted, results.judge)


def _rows_of(by_tag: Mapping[str, Sequence[Summary]], layer: int) -> list[Summary]:
    return [row for rows in by_tag.values() for row in rows if row.condition.source_layers == (layer,)]
