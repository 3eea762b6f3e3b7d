"""Subspace ablation beside the best single vector, and whatever else is compared with the baseline alone."""

from eval.plan.conditions import WEIGHTS
from eval.report.documents import Section, bounds, display, equals_p, number
from eval.report.results import HARMFUL, Results
from eval.report.sections.columns import comparison, in_order
from eval.statistics.bounds import is_withheld, worst_case_change
from eval.statistics.intervals import Interval
from eval.statistics.summaries import Summary, compare
from surgery.residual.layers import format_layers


def sections(results: Results, chapter_id: str) -> list[Section]:
    """Baseline, the best single RV, the subspaces, the user's own ablations and what is edited without a counterpart."""
    paired = {checkpoint.id for _, checkpoint in results.checkpoint_pairs}
    others = in_order(results.of_kind("subspace", "named", *WEIGHTS))
    rows = [row for row in (results.baseline, results.best_rv) if row]
    rows += [row for row in others if row.condition.id not in paired]
    title, caption = "Against the baseline", "Against the baseline"
    if results.of_kind("subspace"):
        title, caption = "Subspace ablation", "Subspaces against the best single RV"
    return Section.of("subspaces", title, [comparison(results, "subspaces", f"{caption}, harmful prompts", rows)])


def sentence(results: Results) -> str:
    """The best subspace, and its difference from the best single vector, for the headline."""
    subspace, single = results.best_subspace, results.best_rv
    if subspace is None:
        return ""
    others = f", the highest of {len(results.subspaces)} tried" if len(results.subspaces) > 1 else ""
    reaches = f"(rank {subspace.condition.rank}{others}) reaches {display(subspace.compliance)}"
    text = f"The {span_name(subspace)} {reaches}"
    if single is None:
        return text + "."
    scores = results.scored.scores
    a, b = scores(single.condition, HARMFUL), scores(subspace.condition, HARMFUL)
    change, p = compare(a, b)
    difference = f"{number(change.estimate)} {bounds(change)}, p {equals_p(p)}"
    turned = is_withheld(p, worst_case_change(b, a))
    meaning = "the unscored responses could turn it round" if turned else _meaning(change, p)
    return f"{text}; prompt by prompt its difference from the single vector is {difference}: {meaning}."


def _meaning(change: Interval, p: float) -> str:
    if change.low > 0 and p <= 0.05:
        return "refusal here does not rest on that one direction alone"
    if change.high < 0 and p <= 0.05:
        return "one direction does more than the subspace"
    return "the subspace adds nothing that this sample can show"


def span_name(row: Summary) -> str:
    """What a condition removes, in a sentence."""
    layers = format_layers(row.condition.source_layers)
    return f"subspace of layers {layers}" if row.condition.kind == "subspace" else f"vector of layer {layers}"
