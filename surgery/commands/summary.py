"""What is in a file or folder of ours: as JSON for programs, as a table for people."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from surgery.console.table import Column, table
from surgery.files.artifacts import file_sha256
from surgery.residual.layers import LayerSpec, format_layers, late_layers
from surgery.residual.subspace import KIND as SUBSPACE
from surgery.residual.subspace import Subspace, load_vectors_or_subspace
from surgery.residual.vectors import KIND as VECTORS
from surgery.statistics.angle_table import angle_lines
from surgery.statistics.separability import analysis
from surgery.statistics.tier_angles import tier_angles
from surgery.weights import manifest as manifests

PerLayer = tuple[Column, Sequence[Any]]
"""A column and its cell for each layer."""
_VERSIONS = ("vllm-refusal", "torch", "transformers")
_MOST_ROWS, _BAR = 30, 20
_ORDINALS = {2: "2nd", 3: "3rd"}


def summarize(path: Path | str, spans: Sequence[LayerSpec] = ()) -> dict[str, Any]:
    """Read refusal vectors, a subspace, or the manifest of an edited checkpoint or an adapter, and describe it in plain JSON types.

    Args:
        spans: layers of subspaces whose angles between tiers are told beside those of single layers.
    Returns: {path, kind, …}; kind is "refusal_vectors" (with all of `analysis`, and `tier_angles`), "subspace",
        "orthogonalized_checkpoint" or "lora_adapter".
    Raises: ArtifactError, ShapeError.
    """
    path = Path(path)
    if path.is_dir():
        kind = manifests.ADAPTER_KIND if manifests.is_adapter(path) else manifests.KIND
        return {"path": str(path), **manifests.read_manifest(path, kind)}
    held = load_vectors_or_subspace(path)
    if isinstance(held, Subspace):
        found = {
            "kind": SUBSPACE,
            "rank": held.rank,
            "d_model": held.d_model,
            "source_layers": list(held.source_layers),
            "offset": None if held.offset is None else held.offset.tolist(),
        }
    else:
        angles = tier_angles(held, [*range(held.n_layers), *spans])
        found = {"kind": VECTORS, **analysis(held), "tier_angles": angles}
    return {"path": str(path), "sha256": file_sha256(path), "header": dict(held.header), **found}


def render(summary: Mapping[str, Any], whole: bool = True) -> str:
    """A summary as text to be read; of refusal vectors all of it, or what fits a screen."""
    lines = {
        VECTORS: _vectors_lines if whole else _overview_lines,
        SUBSPACE: _subspace_lines,
        manifests.KIND: _edit_lines,
        manifests.ADAPTER_KIND: _edit_lines,
    }
    return "\n".join(lines[summary["kind"]](summary))


def _vectors_lines(summary: Mapping[str, Any]) -> list[str]:
    columns = _separation_columns(summary)
    columns += [
        (("cos prev", ">9"), ["-", *_texts(summary["cosine"][i + 1][i] for i in range(summary["n_layers"] - 1))]),
        (("cos next", ">9"), [*_texts(summary["cosine"][i][i + 1] for i in range(summary["n_layers"] - 1)), "-"]),
    ]
    return [
        *_size_lines(summary),
        *_origin_lines(summary["header"]),
        *_provenance(summary["header"]),
        _rank_line(summary),
        *_cosine_lines(summary["cosine_statistics"], summary["n_layers"]),
        "",
        *_layer_table(columns, range(summary["n_layers"])),
        *_tag_lines(summary),
        *angle_lines(summary["tier_angles"]),
        *_reading_lines(summary),
        "",
        *(f"note: {caveat}" for caveat in summary["caveats"]),
    ]


def _overview_lines(summary: Mapping[str, Any]) -> list[str]:
    """What fits a screen: a row a layer, or as many as fit; three facts; where the rest is."""
    n_layers, best = summary["n_layers"], _farthest(summary)
    step = -(-n_layers // _MOST_ROWS)
    layers = sorted({*range(0, n_layers, step), *([] if best is None else [best])})
    thinned = (
        [f"      every {_ORDINALS.get(step, f'{step}th')} layer, and the one with the largest d"] if step > 1 else []
    )
    bars = (("", "<"), [f" {bar}" for bar in _bars(summary["cohens_d"])])
    return [
        *_size_lines(summary),
        f"model             {(summary['header'].get('model') or {}).get('model', 'not recorded')}",
        "",
        *_layer_table([*_separation_columns(summary), bars], layers),
        *thinned,
        "",
        *_fact_lines(summary, best),
        *angle_lines([row for row in summary["tier_angles"] if not row["layers"].isdigit()]),
        "",
        *(f"note: {caveat}" for caveat in summary["caveats"]),
        f"more: refusal show {shlex.quote(summary['path'])} --all, or with --figures FOLDER",
    ]


def _fact_lines(summary: Mapping[str, Any], best: int | None) -> list[str]:
    """Where prompts lie farthest apart, over how many directions the layers spread, how far the vectors can be relied on."""
    lines = []
    if best is not None:
        held_out = ((summary["held_out"] or {}).get("cohens_d") or {best: None})[best]
        more = "" if held_out is None else f", {held_out:.2f} on held-out prompts"
        lines.append(f"farthest apart    d {summary['cohens_d'][best]:.2f}{more} at layer {best}")
    lines.append(_rank_line(summary))
    halves = [(cosine, layer) for layer, cosine in enumerate(summary["split_half_cosine"]) if cosine is not None]
    if halves:
        least, layer = min(halves)
        at_best = f"cosine {summary['split_half_cosine'][best]:.3f} at layer {best}, " if best is not None else ""
        lines.append(
            f"reliability       the two vectors of half of the prompts: {at_best}least {least:.3f} (layer {layer})"
        )
    return lines


def _farthest(summary: Mapping[str, Any]) -> int | None:
    """The layer with the largest d; None where no layer has one."""
    known = [(d, layer) for layer, d in enumerate(summary["cohens_d"]) if d is not None]
    return max(known)[1] if known else None


def _bars(values: Sequence[float | None]) -> list[str]:
    """A bar for each value, the largest `_BAR` long."""
    largest = max((value for value in values if value is not None), default=0.0)
    return ["" if not value or value < 0 else "#" * max(1, round(_BAR * value / largest)) for value in values]


def _size_lines(summary: Mapping[str, Any]) -> list[str]:
    held_out = summary["held_out"]
    return [
        f"refusal vectors   {summary['n_layers']} layers x {summary['d_model']}",
        f"contrast          {_contrast_text(summary)}",
        *([f"held out          {_contrast_text(held_out)}"] if held_out else []),
    ]


def _rank_line(summary: Mapping[str, Any]) -> str:
    return (
        f"effective rank    {summary['effective_rank']:.2f} of {summary['n_layers']} (1: one direction in all layers)"
    )


def _separation_columns(summary: Mapping[str, Any]) -> list[PerLayer]:
    columns: list[PerLayer] = [(("norm", ">10"), [f"{norm:.4g}" for norm in summary["norms"]])]
    for heading, found in ((("d", ">8"), summary), (("held-out d", ">11"), summary["held_out"])):
        if found:
            columns += [(heading, _texts(found["cohens_d"]))]
            columns += [(("95 % interval", ">16"), _intervals(found["cohens_d_interval"]))]
    columns += [(("AUROC", ">7"), _texts(summary["auroc"], 3))]
    return [*columns, (("halves", ">7"), _texts(summary["split_half_cosine"], 3))]


def _cosine_lines(found: Mapping[str, Any] | None, n_layers: int) -> list[str]:
    """Mean cosines between layers with their intervals; nothing where the file has none."""
    late = late_layers(n_layers)
    places = {
        "neighbours": "of neighbouring layers",
        "far": "half the depth apart or more",
        "decay": "the former minus the latter",
        "late": f"among layers {format_layers(late)}",
    }
    told = [(each, place) for name, place in places.items() if (each := (found or {}).get(name))]
    return [
        f"{'' if index else 'cosine':<17} {each['estimate']:.3f} [{each['low']:.3f}, {each['high']:.3f}] {place}"
        for index, (each, place) in enumerate(told)
    ] + (["                  corrected for the noise of finite samples, 95 % intervals over prompts"] if told else [])


def _contrast_text(found: Mapping[str, Any]) -> str:
    """Which kind of prompts, and how many."""
    if found["contrast"] == "matched":
        return f"matched, {found['n_pairs']} pairs"
    return f"unmatched, {found['n_harmful']} harmful and {found['n_safe']} safe prompts"


def _origin_lines(header: Mapping[str, Any]) -> list[str]:
    """Where the prompts of a file of refusal vectors come from, and the command that made it."""
    groups = (("", header.get("prompts")), ("held-out ", (header.get("held_out") or {}).get("prompts")))
    lines = []
    for kind, origins in groups:
        for name, origin in (origins or {}).items():
            at = f", revision {origin['revision'][:12]}" if origin.get("revision") else ""
            read = f"{origin['source']} ({origin['layout']}{at}), {origin['n']}, sha256 {origin['sha256'][:16]}"
            lines.append(f"{kind + name:<17} {read}")
    engine = [header[key] for key in ("engine", "devices") if header.get(key)]
    texts = [part if isinstance(part, str) else ", ".join(part) for part in engine]
    lines += [f"run by            {' on '.join(texts)}"] if texts else []
    if header.get("whole_prompts_because"):
        lines += [f"shared prefix     none: {header['whole_prompts_because']}"]
    elif header.get("shared_prefix_tokens"):
        lines += [f"shared prefix     {header['shared_prefix_tokens']} tokens, run once"]
    named = [f"{name} {header['versions'][name]}" for name in _VERSIONS if name in header.get("versions", {})]
    lines += [f"versions          {', '.join(named)}"] if named else []
    return [*lines, *([f"command           {shlex.join(header['command'])}"] if header.get("command") else [])]


def _layer_table(columns: Sequence[PerLayer], layers: Iterable[int]) -> list[str]:
    rows = ([layer, *(cells[layer] for _, cells in columns)] for layer in layers)
    return table([("layer", ">5"), *(column for column, _ in columns)], rows, gap=" ")


def _tag_lines(summary: Mapping[str, Any]) -> list[str]:
    """Cosine between tiers and between categories, averaged over layers, and the least."""
    if not summary["tag_cosine"]:
        return []
    lines = ["", "cosine between the vectors of (mean over layers, least)"]
    for name, cosines in summary["tag_cosine"].items():
        known = [value for value in cosines if value is not None]
        lines.append(f"  {name:<44} {sum(known) / len(known):6.3f} {min(known):6.3f}" if known else f"  {name:<44} -")
    return lines


def _reading_lines(summary: Mapping[str, Any]) -> list[str]:
    """The largest d of every other site and position."""
    lines = ["", "read elsewhere     largest d, layer"] if summary["readings"] else []
    for name, reading in summary["readings"].items():
        known = [(d, layer) for layer, d in enumerate(reading["cohens_d"]) if d is not None]
        lines.append(f"  {name:<16} {max(known)[0]:>9.2f}  {max(known)[1]:>5}" if known else f"  {name:<16} -")
    return lines


def _texts(values: Iterable[float | None], n_places: int = 2) -> list[str]:
    return ["-" if value is None else f"{value:.{n_places}f}" for value in values]


def _intervals(intervals: Iterable[Sequence[float] | None]) -> list[str]:
    return ["-" if ends is None else f"{ends[0]:.2f} .. {ends[1]:.2f}" for ends in intervals]


def _subspace_lines(summary: Mapping[str, Any]) -> list[str]:
    header, source = summary["header"], summary["source_layers"]
    lines = [f"subspace          rank {summary['rank']} in {summary['d_model']} dimensions"]
    lines.append(f"source layers     {format_layers(source) if source else 'none'}")
    if header.get("dropped_layers"):
        lines.append(f"dropped layers    {format_layers(header['dropped_layers'])} (in the span of the others)")
    if header.get("singular_values"):
        squares = [value**2 for value in header["singular_values"]]
        shares = (sum(squares[: count + 1]) / sum(squares) for count in range(len(squares)))
        lines.append(f"explained         {' '.join(f'{share:.3f}' for share in shares)} (by 1, 2, … directions)")
    if header.get("projection"):
        lines.append(f"projection        {header['projection']} away from the harmless mean")
    if summary["offset"] is not None:
        lines.append(
            f"affine            moves to the safe mean of layer {header.get('reference_layer', 'not recorded')}"
        )
    if header.get("contrast"):
        lines.append(f"contrast          {_contrast_text(header)}")
    return [*lines, *_provenance(header)]


def _edit_lines(summary: Mapping[str, Any]) -> list[str]:
    """Of an edited checkpoint, or of an adapter."""
    basis, is_adapter = summary["basis"], summary["kind"] == manifests.ADAPTER_KIND
    lines = [
        f"{'LoRA adapter' if is_adapter else 'edited checkpoint'} (refusals removed for research)",
        *_provenance({"model": summary["base_model"]}),
        f"subspace          rank {basis['rank']}, source layers {format_layers(basis['source_layers']) or 'not recorded'}",
        f"alpha             {summary['alpha']:g}",
        f"layers            {summary['layers']}{', and the embeddings' if summary.get('embeddings') else ''}",
    ]
    if is_adapter:
        lines.append(f"modules edited    {len(summary['modules'])}")
    else:
        lines.append(f"tensors edited    {len(summary['tensors'])} ({summary['n_untouched']} untouched)")
        lines.append(f"norms             {'kept' if summary.get('keep_norms') else 'not kept'}")
    return [*lines, *(f"note: {note}" for note in summary.get("notes", ()))]


def _provenance(header: Mapping[str, Any]) -> list[str]:
    model = header.get("model") or {}
    lines = [f"model             {model.get('model', 'not recorded')}"]
    if model:
        lines.append(f"fingerprint       {model['fingerprint'][:16]}")
    keys = ("method", "site", "position", "date", "dtype", "seed")
    lines += [f"{key:<17} {header[key]}" for key in keys if header.get(key) is not None]
    return lines
