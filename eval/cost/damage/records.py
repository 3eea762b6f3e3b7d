"""`damage.json` of a run: what was measured, on which inputs."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from eval.cost.damage.measures import Damage
from surgery.console.errors import ArtifactError
from surgery.files.artifacts import replacing

FILE, KIND, FORMAT_VERSION = "damage.json", "damage", 1
UNFINISHED = "damage.unfinished.json"
"""What was measured so far on other inputs than FILE, which it replaces when it is whole."""


@dataclass(frozen=True)
class Inputs:
    """What the conditions of a run were measured on; measurements on different inputs are never mixed.

    Attributes:
        n_prompts, prompts_sha256: harmless prompts, as rendered token ids.
        n_windows, window, text_sha256: windows of the text, tokens of each, and the hash of their token ids.
        text: where the text is from.
        dtype: of the engine.
        date: in the prompts; None where the chat template does not ask for it. It decides nothing beside their hash.
    """

    n_prompts: int
    prompts_sha256: str
    n_windows: int
    window: int
    text_sha256: str
    text: str
    dtype: str
    date: str | None = field(default=None, compare=False)


@dataclass(frozen=True)
class DamageRecord:
    """Damage by condition id, all on the same inputs."""

    inputs: Inputs
    conditions: Mapping[str, Damage]

    def save(self, run_path: Path, file: str = FILE) -> None:
        """Write `damage.json` into the run's folder, whole or not at all."""
        record = {
            "kind": KIND,
            "format_version": FORMAT_VERSION,
            "inputs": asdict(self.inputs),
            "conditions": {name: damage.to_json() for name, damage in self.conditions.items()},
        }
        with replacing(run_path / file, force=True) as part:
            part.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def load_damage(run_path: Path, file: str = FILE) -> DamageRecord | None:
    """What was measured of a run; None when nothing was. Raises: ArtifactError when the file is not readable."""
    path = run_path / file
    if not path.exists():
        return None
    try:
        record: dict[str, Any] = json.loads(path.read_bytes())
        if record["kind"] != KIND or record["format_version"] > FORMAT_VERSION:
            raise ValueError(f"kind {record['kind']!r}, format {record['format_version']}")
        conditions = {name: Damage.from_json(damage) for name, damage in record["conditions"].items()}
        return DamageRecord(Inputs(**record["inputs"]), conditions)
    except (ValueError, TypeError, KeyError) as err:
        raise ArtifactError(
            f"{path}: not a record of damage ({err}); measure again with refusal damage --force"
        ) from err
