"""What has been run of a benchmark: benchmark.json, with the documents of every task on every variant beside it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.benchmark.tasks import BenchmarkError
from eval.damage.measures import Damage

FILE, DOCUMENTS = "benchmark.json", "documents"


@dataclass
class Record:
    """The state of a benchmark's folder.

    Attributes:
        done: VARIANT.TASK -> {key, versions, num_fewshot} of what has been run.
        damage: VARIANT -> {key} and the fields of its `Damage`.
    """

    folder: Path
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    damage: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> "Record":
        """What has been run, as far as its documents are there; nothing in a new folder.

        Raises: BenchmarkError when the folder holds something else, or the record cannot be read.
        """
        path = folder / FILE
        if not path.exists():
            kept = [path.name for path in folder.iterdir()] if folder.exists() else []
            if kept not in ([], [DOCUMENTS]):
                raise BenchmarkError(f"{folder}: exists and holds no benchmark; choose another folder")
            return cls(folder)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            done, damage = dict(content["done"]), dict(content.get("damage", {}))
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as err:
            raise BenchmarkError(f"{path}: not the record of a benchmark ({err}); remove it") from err
        there = {file.stem for file in (folder / DOCUMENTS).glob("*.jsonl")}
        return cls(folder, {name: entry for name, entry in done.items() if _file_name(name) in there}, damage)

    def path_of(self, name: str) -> Path:
        """Where the documents of VARIANT.TASK are."""
        return self.folder / DOCUMENTS / f"{_file_name(name)}.jsonl"

    def damage_of(self, variant: str) -> Damage:
        """What was measured of a variant."""
        return Damage.from_json(self.damage[variant])

    def save(self, about: Mapping[str, Any]) -> None:
        """Write it, whole or not at all, with what else is to be said of the benchmark."""
        part = self.folder / f"{FILE}.part"
        content = {"kind": "benchmark", **about, "done": self.done, "damage": self.damage}
        part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(self.folder / FILE)


def _file_name(name: str) -> str:
    return name.replace("/", "-")
