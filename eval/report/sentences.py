"""The sentences of a report: headlines, what was run, what the numbers can and cannot show."""

from collections.abc import Mapping
from typing import Any

from eval.report.documents import bounds, display_p, number
from eval.report.results import HARMFUL, SAFE, Results
from eval.report.sections.columns import condition_name
from eval.report.sections.confirmation import confirmation_sentence
from eval.report.sections.transfer import transfer_sentence
from eval.statistics.bounds import is_withheld, worst_case_change
from eval.statistics.intervals import Interval
from eval.statistics.scores import ScoredRun
from eval.statistics.summaries import Summary, compare
from surgery.residual.layers import format_layers

PLANTED_BADGE = "planted ground truth"
ORGANISM_NOTE = (
    "This model is a model organism: its refusals were planted on purpose. The numbers show that the instruments work; "
    "they are not a fact about real models."
)
PLANTED_NOTE = f"{ORGANISM_NOTE} “Planted” columns give what its own exact check found."
RESPONSIBLE_USE = (
    "Every condition but the baseline is an ablated or edited variant of the model, made to study how refusals are "
    "implemented and how robust they are. Such variants answer what the released model declines: do not deploy them, "
    "and share responses and checkpoints only with people who need them for this research."
)
WITHHELD = ", not called significant because the unscored responses could turn the change round"


def judge_label(scored: ScoredRun) -> str:
    """Who gave the verdicts: the kind of judge, its models and rubric, and its id, which no other judge has."""
    judge_id = scored.judge_id
    if scored.heuristic:
        return f"heuristic judge ({judge_id})"
    known: Any = scored.run.manifest.get("judges", {}).get(judge_id)
    known = known if isinstance(known, Mapping) else {}
    model, second = known.get("model", judge_id), known.get("fallback", {}).get("model")
    kind = "guard" if known.get("kind") == "guard" else "LLM judge"
    rubric = " ".join(str(known[key]) for key in ("rubric", "rubric_version") if key in known)
    told = [f"{kind} {model}", f"else {second}" if second else "", f"rubric {rubric}" if rubric else ""]
    return ", ".join(filter(None, told)) + (f" ({judge_id})" if judge_id != model else "")


def headline(results: Results) -> list[str]:
    """What the run shows, in at most six sentences."""
    sentences = [
        _rv_sentence(results),
        confirmation_sentence(results),
        _subspace_sentence(results),
        _random_sentence(results),
        _safe_sentence(results),
        transfer_sentence(results),
    ]
    return [sentence for sentence in sentences if sentence]


def contrast_line(results: Results) -> str:
    """One line for a terminal: baseline, best single RV, best subspace, random control."""
    named = [
        ("baseline", results.baseline),
        ("best single RV", results.best_rv),
        ("best subspace", results.best_subspace),
    ]
    parts = [f"{name} {_mean(row)}{_origin(row)}" for name, row in named if row and row.compliance]
    randoms = [row for row in results.of_kind("random") if row.compliance]
    if randoms:
        parts.append(f"random {_mean(max(randoms, key=lambda row: row.compliance.estimate))}")
    return f"{results.model_name}: " + " · ".join(parts)


def _unmatched(analysis: Mapping[str, Any]) -> str:
    """How many prompts the vectors come from, where they were no pairs."""
    if analysis.get("contrast") != "unmatched":
        return ""
    return f"{analysis['n_harmful']} harmful and {analysis['n_safe']} safe, unmatched"


def facts(results: Results) -> list[tuple[str, str]]:
    """What was run, as (name, value)."""
    model, sampling = results.model, results.manifest.get("sampling") or {}
    shape = [f"{results.n_layers} layers", f"d_model {model['d_model']}" if "d_model" in model else ""]
    listed = [
        (
            "model",
            " · ".join(filter(None, [results.model_name, model.get("architecture"), model.get("dtype"), *shape])),
        ),
        ("prompts", ", ".join(f"{len(results.scored.prompts[name])} {name}" for name in results.scored.prompts)),
        ("extraction pairs", str(results.analysis.get("n_pairs") or "")),
        ("extraction prompts", _unmatched(results.analysis)),
        ("conditions", str(len(results.scored.conditions))),
        ("judge", judge_label(results.scored)),
        ("decoding", _decoding(sampling, results.scored.n_samples)),
        ("engine", _plain(results.manifest.get("engine"))),
        ("created", str(results.manifest.get("created", ""))),
    ]
    return [(name, value) for name, value in listed if value]


def provenance(results: Results) -> list[tuple[str, str]]:
    """Where the numbers come from: command, versions, hashes."""
    manifest, model = results.manifest, results.model
    sets = manifest.get("prompt_sets") or {}
    listed = [
        ("run", str(results.scored.run.path)),
        ("command", str(manifest.get("command", ""))),
        ("model", " ".join(str(model[key]) for key in ("model", "revision", "fingerprint") if model.get(key))),
        ("versions", _plain(manifest.get("versions"))),
        ("judge", f"{results.scored.judge_id}: {_plain(manifest.get('judges', {}).get(results.scored.judge_id))}"),
        *((f"{name} prompts", _plain(record)) for name, record in sets.items()),
    ]
    return [(name, value) for name, value in listed if value]


def _rv_sentence(results: Results) -> str:
    best, n_candidates = results.best_rv, sum(map(results.is_candidate, results.sweep))
    if best is None:
        return ""
    before = f"from {_mean(results.baseline)} to " if results.baseline else "to "
    p = f", adjusted p {_equals(best.p_adjusted)}" if best.p_adjusted is not None else ""
    p += WITHHELD if best.withheld else ""
    of_how_many = (
        f"the highest of {n_candidates} candidate layers, so biased upwards"
        if n_candidates > 1
        else "the only candidate"
    )
    return (
        f"The best single refusal vector, that of layer {best.condition.source_layers[0]} ({of_how_many}), takes "
        f"compliance on harmful prompts {before}{_mean(best)} at α = {best.condition.alpha:g}, with coherence "
        f"{number(best.coherence.estimate)}{p}."
    )


def _subspace_sentence(results: Results) -> str:
    subspace, single = results.best_subspace, results.best_rv
    if subspace is None:
        return ""
    others = f", the highest of {len(results.subspaces)} tried" if len(results.subspaces) > 1 else ""
    text = f"The {_subspace_name(subspace)} (rank {subspace.condition.rank}{others}) reaches {_mean(subspace)}"
    if single is None:
        return text + "."
    scores = results.scored.scores
    a, b = scores(single.condition, HARMFUL), scores(subspace.condition, HARMFUL)
    change, p = compare(a, b)
    difference = f"{number(change.estimate)} {bounds(change)}, p {_equals(p)}"
    turned = is_withheld(p, worst_case_change(b, a))
    meaning = "the unscored responses could turn it round" if turned else _meaning(change, p)
    return f"{text}; prompt by prompt its difference from the single vector is {difference}: {meaning}."


def _meaning(change: Interval, p: float) -> str:
    if change.low > 0 and p <= 0.05:
        return "refusal here does not rest on that one direction alone"
    if change.high < 0 and p <= 0.05:
        return "one direction does more than the subspace"
    return "the subspace adds nothing that this sample can show"


def _random_sentence(results: Results) -> str:
    rows = [row for row in results.of_kind("random") if row.compliance]
    if not rows:
        return ""
    highest = max(rows, key=lambda row: row.compliance.estimate)
    controls = "a random subspace" if len(rows) == 1 else f"the highest of {len(rows)} random subspaces"
    ranks = sorted({row.condition.rank for row in rows})
    told = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"
    return f"Control: {controls} ({told}) reaches {_mean(highest)}."


def _safe_sentence(results: Results) -> str:
    last = results.best_subspace or results.best_rv
    by_id = {row.condition.id: row for row in results.safe}
    edited = by_id.get(last.condition.id) if last else None
    unedited = next((row for row in results.safe if row.condition.kind == "baseline"), None)
    if not (edited and unedited and edited.compliance and unedited.compliance):
        return ""
    ablated = f"{_mean(edited)} with the {_subspace_name(edited)} ablated"
    return f"On {SAFE} prompts compliance is {_mean(unedited)} unedited and {ablated}."


def _mean(row: Summary) -> str:
    return f"{number(row.compliance.estimate)} {bounds(row.compliance)}"


def _subspace_name(row: Summary) -> str:
    layers = format_layers(row.condition.source_layers)
    return f"subspace of layers {layers}" if row.condition.kind == "subspace" else f"vector of layer {layers}"


def _origin(row: Summary) -> str:
    return "" if row.condition.kind == "baseline" else f" ({condition_name(row)})"


def _equals(p: float) -> str:
    text = display_p(p)
    return text if text.startswith("<") else f"= {text}"


def _decoding(sampling: Mapping[str, Any], n_samples: int) -> str:
    temperature = sampling.get("temperature")
    words = ["greedy" if temperature == 0 else f"temperature {temperature}"] if temperature is not None else []
    words += [f"at most {sampling['max_tokens']} new tokens"] if "max_tokens" in sampling else []
    words += [f"seed {sampling['seed']}"] if "seed" in sampling and temperature else []
    words += [f"{n_samples} samples per prompt"] if n_samples > 1 else []
    return ", ".join(words)


def _plain(value: Any) -> str:
    """A manifest value as one line of text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items() if item not in (None, ""))
    if isinstance(value, (list, tuple)):
        return " ".join(map(_plain, value))
    return "" if value is None else str(value)
