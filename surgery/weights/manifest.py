"""The record that an edited checkpoint carries of itself, for programs (manifest) and for people (model card)."""

import json
from pathlib import Path
from typing import Any

from surgery.console.errors import ArtifactError

FILE = "surgery.json"
CARD = "README.md"
BASIS_FILE = "vllm_refusal/basis.safetensors"  # in a sub-folder: loaders take every *.safetensors beside config.json
KIND = "orthogonalized_checkpoint"
ADAPTER_KIND = "lora_adapter"
ADAPTER_CONFIG = "adapter_config.json"  # PEFT's own file, by which every loader knows an adapter
FORMAT_VERSION = 1
WARNING = (
    "This checkpoint was edited to remove refusals, for research. It answers harmful requests that the original model "
    "declines; do not deploy it to users or mistake it for the original."
)
ADAPTER_WARNING = (
    "A model with this adapter was edited to remove refusals, for research. It answers harmful requests that the "
    "original model declines; do not deploy it to users or mistake it for the original."
)

_MADE_BY = {
    KIND: f"not an edited checkpoint (no {FILE}); make one with refusal orthogonalize",
    ADAPTER_KIND: f"not an adapter of ours (no {FILE}); make one with refusal adapter",
}


def read_manifest(folder: Path | str, kind: str = KIND) -> dict[str, Any]:
    """Read the manifest of an edited checkpoint, or of what else `kind` names.

    Raises: ArtifactError when the folder has none, or one of another kind or a newer format.
    """
    path = Path(folder) / FILE
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as err:
        raise ArtifactError(f"{folder}: {_MADE_BY[kind]}") from err
    except (json.JSONDecodeError, UnicodeDecodeError) as err:
        raise ArtifactError(f"{path}: cannot be read as JSON ({err})") from err
    if not isinstance(manifest, dict) or manifest.get("kind") != kind:
        raise ArtifactError(f"{path}: expected a manifest of kind {kind}")
    if manifest.get("format_version", 0) > FORMAT_VERSION:
        raise ArtifactError(
            f"{path}: format version {manifest['format_version']} is newer than this program's {FORMAT_VERSION}; upgrade"
        )
    return manifest


def is_edited(folder: Path) -> bool:
    """Whether a folder holds an edited checkpoint."""
    return (folder / FILE).is_file() and not is_adapter(folder)


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter of ours."""
    return (folder / FILE).is_file() and (folder / ADAPTER_CONFIG).is_file()


def write_manifest(folder: Path, manifest: dict[str, Any], kind: str = KIND) -> None:
    """Write the manifest into a folder under construction."""
    warning = ADAPTER_WARNING if kind == ADAPTER_KIND else WARNING
    record = {"kind": kind, "format_version": FORMAT_VERSION, "edited": True, "warning": warning, **manifest}
    (folder / FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def write_model_card(folder: Path, manifest: dict[str, Any]) -> None:
    """Put a notice of the edit before the text of README.md, after its YAML front matter, or make one."""
    path = folder / CARD
    card = path.read_text(encoding="utf-8", errors="surrogateescape") if path.is_file() else ""
    front, body = split_front_matter(card)
    path.write_text(f"{front}{_escaped(_notice(manifest))}\n{body}", encoding="utf-8", errors="surrogateescape")


def write_adapter_card(folder: Path, manifest: dict[str, Any]) -> None:
    """Write README.md: the base model and PEFT as the hub reads them, and a notice of the edit for people."""
    front = f"---\nbase_model: {json.dumps(manifest['base_model']['model'])}\nlibrary_name: peft\ntags:\n- lora\n---\n"
    (folder / CARD).write_text(front + _escaped(_adapter_notice(manifest)), encoding="utf-8")


def _escaped(text: str) -> str:
    """What UTF-8 cannot hold, bytes of a path for one, as escapes."""
    return text.encode(errors="backslashreplace").decode()


def split_front_matter(card: str) -> tuple[str, str]:
    """A card's YAML front matter (between two `---` lines at its start, or empty) and the rest."""
    lines = card.splitlines(keepends=True)
    if not lines or lines[0].rstrip() != "---":
        return "", card
    for number, line in enumerate(lines[1:], start=2):
        if line.rstrip() == "---":
            return "".join(lines[:number]), "".join(lines[number:])
    return "", card


def _notice(manifest: dict[str, Any]) -> str:
    embeddings = " and the token embeddings" if manifest["embeddings"] else ""
    norms = "; every output vector of theirs has its old norm" if manifest["keep_norms"] else ""
    return f"""# Edited checkpoint: refusals removed for research

{WARNING}

The outputs of attention and MLP{embeddings} were orthogonalized against a rank-{manifest["basis"]["rank"]} refusal subspace{norms}.

{_table(manifest)}
| tensors edited | {len(manifest["tensors"])} |
{_notes(manifest)}
Every edited tensor and the hash of every file is listed in `{FILE}`; `refusal verify` checks the stored bytes against it.
"""


def _adapter_notice(manifest: dict[str, Any]) -> str:
    return f"""# LoRA adapter: refusals removed for research

{ADAPTER_WARNING}

It takes a rank-{manifest["basis"]["rank"]} refusal subspace out of the outputs of attention and MLP.

{_table(manifest)}
| modules edited | {len(manifest["modules"])} |
{_notes(manifest)}"""


def _notes(manifest: dict[str, Any]) -> str:
    return "".join(f"\n{note}.\n" for note in manifest["notes"])


def _table(manifest: dict[str, Any]) -> str:
    """The rows that both cards share."""
    base = manifest["base_model"]
    rows = {
        "base model": base["model"] + (f" @ {base['revision']}" if base["revision"] else ""),
        "base fingerprint": base["fingerprint"],
        "alpha": f"{manifest['alpha']:g}",
        "layers edited": manifest["layers"],
        "layers the subspace comes from": ", ".join(map(str, manifest["basis"]["source_layers"])) or "not recorded",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])
