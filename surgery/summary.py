"""What is in a file or folder of ours: as JSON for programs, as a table for people."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgery import manifest as manifests
from surgery.artifacts import file_sha256, load_artifact
from surgery.layers import format_layers
from surgery.separability import analysis
from surgery.subspace import KIND as SUBSPACE
from surgery.subspace import Subspace
from surgery.vectors import KIND as VECTORS
from surgery.vectors import RefusalVectors


def summarize(path: Path | str) -> dict[str, Any]:
    """Read refusal vectors, a subspace, or the manifest of an edited checkpoint or an adapter, and describe it in plain JSON types.

    Returns: {path, kind, …}; kind is "refusal_vectors" (with all of `analysis`), "subspace",
        "orthogonalized_checkpoint" or "lora_adapter".
    Raises: ArtifactError, ShapeError.
    """
    path = Path(path)
    if path.is_dir():
        kind = manifests.ADAPTER_KIND if manifests.is_adapter(path) else manifests.KIND
        return {"path": str(path), **manifests.read_manifest(path, kind)}
    header, tensors = load_artifact(path, (VECTORS, SUBSPACE))
    if "basis" in tensors and "vectors" not in tensors:
        subspace = Subspace.from_tensors(tensors, header, str(path))
        found = {
            "kind": SUBSPACE,
            "rank": subspace.rank,
            "d_model": subspace.d_model,
            "source_layers": list(subspace.source_layers),
        }
    else:
        found = {"kind": VECTORS, **analysis(RefusalVectors.from_tensors(tensors, header, str(path)))}
    return {"path": str(path), "sha256": file_sha256(path), "header": dict(header), **found}


def render(summary: Mapping[str, Any]) -> str:
    """A summary as text to be read."""
    lines = {
        VECTORS: _vectors_lines,
        SUBSPACE: _subspace_lines,
        manifests.KIND: _checkpoint_lines,
        manifests.ADAPTER_KIND: _adapter_lines,
    }
    return "\n".join(lines[summary["kind"]](summary))


def _vectors_lines(summary: Mapping[str, Any]) -> list[str]:
    cosine, n_layers = summary["cosine"], summary["n_layers"]
    lines = [
        f"refusal vectors   {n_layers} layers x {summary['d_model']}, {summary['n_pairs']} pairs",
        *_provenance(summary["header"]),
        "",
        f"{'layer':>5} {'norm':>10} {'d':>8} {'cos prev':>9} {'cos next':>9}",
    ]
    for layer in range(n_layers):
        previous = cosine[layer][layer - 1] if layer > 0 else None
        following = cosine[layer][layer + 1] if layer + 1 < n_layers else None
        lines.append(
            f"{layer:>5} {summary['norms'][layer]:>10.4g} {_number(summary['cohens_d'][layer], 8)} "
            f"{_number(previous, 9)} {_number(following, 9)}"
        )
    return [*lines, "", *(f"note: {caveat}" for caveat in summary["caveats"])]


def _subspace_lines(summary: Mapping[str, Any]) -> list[str]:
    header, source = summary["header"], summary["source_layers"]
    lines = [f"subspace          rank {summary['rank']} in {summary['d_model']} dimensions"]
    lines.append(f"source layers     {format_layers(source) if source else 'none'}")
    if header.get("dropped_layers"):
        lines.append(f"dropped layers    {format_layers(header['dropped_layers'])} (in the span of the others)")
    return [*lines, *_provenance(header)]


def _checkpoint_lines(summary: Mapping[str, Any]) -> list[str]:
    return [
        "edited checkpoint (refusals removed for research)",
        *_edit_lines(summary),
        f"layers            {summary['layers']}{', and the embeddings' if summary['embeddings'] else ''}",
        f"tensors edited    {len(summary['tensors'])} ({summary['n_untouched']} untouched)",
    ]


def _adapter_lines(summary: Mapping[str, Any]) -> list[str]:
    return [
        "LoRA adapter (refusals removed for research)",
        *_edit_lines(summary),
        f"layers            {summary['layers']}",
        f"modules edited    {len(summary['modules'])}",
    ]


def _edit_lines(summary: Mapping[str, Any]) -> list[str]:
    basis = summary["basis"]
    return [
        *_provenance({"model": summary["base_model"]}),
        f"subspace          rank {basis['rank']}, source layers {format_layers(basis['source_layers']) or 'not recorded'}",
        f"alpha             {summary['alpha']:g}",
    ]


def _provenance(header: Mapping[str, Any]) -> list[str]:
    model = header.get("model") or {}
    lines = [f"model             {model.get('model', 'not recorded')}"]
    if model:
        lines.append(f"fingerprint       {model['fingerprint'][:16]}")
    lines += [f"{key:<17} {header[key]}" for key in ("method", "position", "dtype", "seed") if key in header]
    return lines


def _number(value: float | None, width: int) -> str:
    return "-".rjust(width) if value is None else f"{value:>{width}.2f}"
