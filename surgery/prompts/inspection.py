"""What is to be known of a prompt set before it is used: tags, matched pairs, near-duplicates, overlap with another."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from surgery.console.table import table
from surgery.prompts.prompt_set import PromptSet
from surgery.prompts.similarity import clusters, edit_distance, near_duplicates, tokens_of

NEAR = 0.5
_WIDTH = 64  # characters of a prompt in a table


def inspect_set(
    prompts: PromptSet[Any], against: PromptSet[Any] | None = None, threshold: float = NEAR
) -> dict[str, Any]:
    """Describe a prompt set in plain JSON types.

    Args:
        against: the set it must not overlap with, e.g. the pairs that the refusal vectors come from.
        threshold: token Jaccard similarity from which two prompts are near-duplicates.
    Returns: {provenance, tags, pairs (of a set of pairs: token edit distances), near_duplicates (per side: effective n =
        number of clusters, and the clusters of more than one by id), overlap (with `against`)}.
    """
    found = {
        "provenance": prompts.provenance(),
        "threshold": threshold,
        "tags": _tags(prompts),
        "near_duplicates": {side: _clusters(prompts, texts, threshold) for side, texts in _sides(prompts).items()},
    }
    if prompts.are_pairs:
        found["pairs"] = [_distance(pair) for pair in prompts]
    if against is not None:
        found["against"] = against.provenance()
        found["overlap"] = overlap(prompts, against, threshold)
    return found


def overlap(prompts: PromptSet[Any], other: PromptSet[Any], threshold: float = NEAR) -> list[dict[str, Any]]:
    """Every pair of texts of the two sets, of any side, that are equal or near-duplicates, most alike first."""
    ours, theirs = _texts(prompts), _texts(other)
    found = []
    for i, j, similarity in near_duplicates([text for *_, text in ours], [text for *_, text in theirs], threshold):
        (name, side, text), (other_name, other_side, other_text) = ours[i], theirs[j]
        hit = {"id": name, "side": side, "text": text}
        hit |= {"other_id": other_name, "other_side": other_side, "other_text": other_text}
        exact = tokens_of(text) == tokens_of(other_text)
        found.append({**hit, "jaccard": round(similarity, 3), "exact": exact})
    return sorted(found, key=lambda hit: (not hit["exact"], -hit["jaccard"]))


def render(found: Mapping[str, Any]) -> str:
    """A description by `inspect_set` as text to be read."""
    origin = found["provenance"]
    kind = "pairs" if "pairs" in found else "prompts"
    lines = [f"{origin['source']}: {origin['n']} {kind} ({origin['layout']})", f"sha256 {origin['sha256']}", ""]
    tags = [(row["n"], row["tier"], row["category"] or None) for row in found["tags"]]
    lines += table([("n", ">5"), ("tier", "<4"), ("category", "<")], tags)
    if "pairs" in found:
        lines += ["", *_pair_lines(found["pairs"])]
    for side, clusters_found in found["near_duplicates"].items():
        lines += ["", *_cluster_lines(side, clusters_found, found["threshold"])]
    if "overlap" in found:
        lines += ["", *_overlap_lines(found)]
    return "\n".join(lines)


def _tags(prompts: PromptSet[Any]) -> list[dict[str, Any]]:
    counts = Counter((item.tier, item.category) for item in prompts)
    ordered = sorted(counts, key=lambda tag: (tag[0] is None, tag[0] or 0, tag[1]))
    return [{"tier": tier, "category": category, "n": counts[tier, category]} for tier, category in ordered]


def _sides(prompts: PromptSet[Any]) -> dict[str, list[str]]:
    names = ("harmful", "safe") if prompts.are_pairs else ("prompt",)
    return {name: [getattr(item, name) for item in prompts] for name in names}


def _texts(prompts: PromptSet[Any]) -> list[tuple[str, str, str]]:
    """(id, side, text) of every text in a set."""
    names = [item.id for item in prompts]
    return [
        (name, side, text) for side, texts in _sides(prompts).items() for name, text in zip(names, texts, strict=True)
    ]


def _clusters(prompts: PromptSet[Any], texts: list[str], threshold: float) -> dict[str, Any]:
    found = clusters(texts, threshold)
    shown = [[{"id": prompts[i].id, "text": texts[i]} for i in members] for members in found if len(members) > 1]
    return {"n": len(texts), "effective_n": len(found), "clusters": shown}


def _distance(pair: Any) -> dict[str, Any]:
    harmful, safe = tokens_of(pair.harmful), tokens_of(pair.safe)
    edits, longest = edit_distance(harmful, safe), max(len(harmful), len(safe), 1)
    texts = {"id": pair.id, "harmful": pair.harmful, "safe": pair.safe}
    return {**texts, "n_tokens": longest, "edit_distance": edits, "edited": round(edits / longest, 3)}


def _pair_lines(pairs: list[dict[str, Any]]) -> list[str]:
    share = sorted(row["edited"] for row in pairs)
    rows: list[tuple[object, ...]] = []
    for pair in pairs:
        rows += [(pair["id"], pair["edit_distance"], pair["n_tokens"], _cut(pair["harmful"]))]
        rows += [("", "", "", _cut(pair["safe"]))]
    return [
        f"token edits between harmful and safe: median {share[len(share) // 2]:.0%} of the longer text",
        *table([("id", "<"), ("edits", ">"), ("tokens", ">"), ("harmful / safe", "<")], rows),
    ]


def _cluster_lines(side: str, found: Mapping[str, Any], threshold: float) -> list[str]:
    lines = [
        f"near-duplicates among the {side} texts (token Jaccard >= {threshold:g}): effective n {found['effective_n']} "
        f"of {found['n']}"
    ]
    for members in found["clusters"]:
        lines += ["", *(f"  {member['id']}  {_cut(member['text'])}" for member in members)]
    return lines


def _overlap_lines(found: Mapping[str, Any]) -> list[str]:
    hits = found["overlap"]
    n_exact = sum(hit["exact"] for hit in hits)
    lines = [f"overlap with {found['against']['source']}: {n_exact} exact, {len(hits) - n_exact} near-duplicates"]
    for hit in hits:
        lines.append(f"  {hit['jaccard']:.2f}  {hit['id']} ({hit['side']})  {_cut(hit['text'])}")
        lines.append(f"        {hit['other_id']} ({hit['other_side']})  {_cut(hit['other_text'])}")
    return lines


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _WIDTH else line[: _WIDTH - 1] + "…"
