"""What has been run of a benchmark: benchmark.json, with the documents of every task on every variant beside it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.cost.benchmark.tasks import BenchmarkError
from eval.cost.damage.measures import Damage
from surgery.files.artifacts import file_sha256, replacing

FILE, DOCUMENTS = "benchmark.json", "documents"


@dataclass
class Record:
    """The state of a benchmark's folder.

    Attributes:
        done: VARIANT.TASK -> {key, documents_sha256, n_cut, versions, num_fewshot} of what has been run.
        damage: VARIANT -> {key} and the fields of its `Damage`.
        about: what else is said of the last call that came to its end, or of the first.
    """

    folder: Path
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    damage: dict[str, dict[str, Any]] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> "Record":
        """What has been run, as far as the documents that were written then are there; nothing in a new folder.

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
            done, damage = dict(content.pop("done")), dict(content.pop("damage", {}))
        except (KeyError, TypeError, ValueError, AttributeError) as err:
            raise BenchmarkError(f"{path}: not the record of a benchmark ({err}); remove it") from err
        found = cls(folder, damage=damage, about=content)
        found.done = {name: entry for name, entry in done.items() if found._has_documents(name, entry)}
        return found

    def date_of(self, names: Sequence[str]) -> str | None:
        """The date that one of these was scored with, else that of the last call; None where none is known."""
        dates = [self.done[name].get("date") for name in names if name in self.done]
        return next(filter(None, dates), (self.about.get("settings") or {}).get("date"))

    def check_same(self, names: Sequence[str], variants: Sequence[str], marks: Mapping[str, str]) -> None:
        """Raises: BenchmarkError when one of these was scored or measured with another date or dtype than is asked for."""
        found = [(name, self.done.get(name, {})) for name in names]
        found += [(f"the damage of {name}", self.damage.get(name, {})) for name in variants]
        for name, entry in found:
            for what, wanted in marks.items():
                if entry.get(what, wanted) != wanted:
                    raise BenchmarkError(
                        f"{self.folder}: {name} was scored with the {what} {entry[what]}, this call has {wanted}; give "
                        f"--{what} {entry[what]}, another output, or --force to score it anew"
                    )

    def path_of(self, name: str) -> Path:
        """Where the documents of VARIANT.TASK are."""
        return self.folder / DOCUMENTS / f"{name.replace('/', '-')}.jsonl"

    def damage_of(self, variant: str) -> Damage:
        """What was measured of a variant."""
        return Damage.from_json(self.damage[variant])

    def save(self) -> None:
        """Write it, whole or not at all."""
        content = {"kind": "benchmark", **self.about, "done": self.done, "damage": self.damage}
        with replacing(self.folder / FILE, force=True) as part:
            part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def _has_documents(self, name: str, entry: Mapping[str, Any]) -> bool:
        """Whether the documents of that entry are there; records of old do not say which they were."""
        path = self.path_of(name)
        return path.is_file() and entry.get("documents_sha256") in (None, file_sha256(path))
