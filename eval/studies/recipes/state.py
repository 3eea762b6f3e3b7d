"""Which stages are done, kept beside the artifacts, so that the same command goes on and a changed one redoes what it must."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.studies.recipes.recipe import RecipeError
from eval.studies.recipes.stages import Stage
from surgery.files.artifacts import explaining_disk_errors, file_sha256, json_sha256

STATE = "reproduce.json"


def keys_of(stages: Sequence[Stage], model: str) -> dict[str, str]:
    """Stage -> a digest of its command, of the user's files that it reads, and of the stages that it builds on.

    Args:
        model: what names the model's weights, its fingerprint.
    """
    keys: dict[str, str] = {}
    for stage in stages:
        files = [file_sha256(path) for path in stage.files]
        keys[stage.name] = json_sha256([model, list(stage.words), files, [keys[name] for name in stage.needs]])
    return keys


class State:
    """What is recorded in DIR/reproduce.json."""

    def __init__(self, folder: Path):
        self.path = folder / STATE
        self._content: dict[str, Any] = self._read()

    @property
    def stages(self) -> Mapping[str, Mapping[str, Any]]:
        """Stage -> {key, finished, seconds}."""
        return self._content["stages"]

    def is_done(self, stage: Stage, key: str) -> bool:
        """Whether the stage has been carried out just so, and what it wrote is there."""
        entry = self.stages.get(stage.name, {})
        return entry.get("key") == key and entry.get("finished") is True and stage.output.exists()

    def is_begun(self, stage: Stage, key: str) -> bool:
        """Whether this very stage was begun, so that its command may go on with what is there."""
        return self.stages.get(stage.name, {}).get("key") == key

    def begin(self, stage: Stage, key: str) -> None:
        """Record that the stage runs now."""
        self._put(stage, {"key": key, "command": list(stage.words), "finished": False})

    def finish(self, stage: Stage, key: str, seconds: float) -> None:
        """Record that it is done."""
        self._put(stage, {"key": key, "command": list(stage.words), "finished": True, "seconds": round(seconds, 2)})

    def _put(self, stage: Stage, entry: Mapping[str, Any]) -> None:
        self._content["stages"][stage.name] = entry
        part = self.path.with_suffix(".part")
        with explaining_disk_errors(self.path):
            part.write_text(json.dumps(self._content, indent=1) + "\n", encoding="utf-8")
            part.replace(self.path)

    def _read(self) -> dict[str, Any]:
        if not self.path.exists():
            return {"kind": "reproduction", "stages": {}}
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            if content["kind"] != "reproduction":
                raise KeyError(content["kind"])
            return {"kind": "reproduction", "stages": dict(content["stages"])}
        except (json.JSONDecodeError, KeyError, TypeError, OSError) as err:
            raise RecipeError(f"{self.path}: not the state of a reproduction ({err}); remove it to begin anew") from err
