"""A study: stages that are commands, each recorded beside the artifacts when it is done, so that the same study goes on and
a changed one redoes what it must."""

import json
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from eval.cli import main as refusal
from surgery.console.errors import ArtifactError
from surgery.files.artifacts import file_sha256, json_sha256, replacing

STATE = "reproduce.json"


@dataclass(frozen=True)
class Stage:
    """One step.

    Attributes:
        name: unique; `group` is what --skip and --until name.
        words: the command, without `refusal`.
        output: what it leaves.
        needs: stages whose output it reads.
        files: files of the user's that it reads.
        resumes: the command itself goes on where it was.
        renews: whether the command can be told to begin anew (--force).
    """

    name: str
    group: str
    words: Sequence[str]
    output: Path
    needs: Sequence[str] = ()
    files: Sequence[Path] = ()
    resumes: bool = False
    renews: bool = True


class Study:
    """The stages of a study in one folder, and what is recorded of them in DIR/reproduce.json.

    Args:
        stages: each after those that it needs.
        model: what names the model's weights, its fingerprint.
    Raises: ArtifactError when the record cannot be read.
    """

    def __init__(self, folder: Path, stages: Sequence[Stage], model: str):
        self.path, self.stages = folder / STATE, stages
        self._keys = keys_of(stages, model)
        self._content = self._read()

    @property
    def seconds(self) -> dict[str, float]:
        """Group of stages -> wall seconds of those that are finished."""
        found: dict[str, float] = {}
        for stage in self.stages:
            found[stage.group] = found.get(stage.group, 0.0) + self._entry(stage).get("seconds", 0.0)
        return found

    def is_done(self, stage: Stage) -> bool:
        """Whether the stage has been carried out just so, and what it wrote is there."""
        return self._is_begun(stage) and self._entry(stage).get("finished") is True and stage.output.exists()

    def carry_out(self, stage: Stage, force: bool = False, work: Callable[[], object] | None = None) -> None:
        """Run a stage, unless it is done, and record it.

        Args:
            force: run it anew.
            work: does it in place of its command.
        """
        if not force and self.is_done(stage):
            click.echo(f"{stage.name}: done before", err=True)
            return
        goes_on = stage.resumes and not force and self._is_begun(stage)
        again = ["--force"] if stage.renews and stage.output.exists() and not goes_on else []
        self._put(stage, {"finished": False})
        started = time.monotonic()
        work() if work else run_command(*stage.words, *again)
        self._put(stage, {"finished": True, "seconds": round(time.monotonic() - started, 2)})

    def _is_begun(self, stage: Stage) -> bool:
        return self._entry(stage).get("key") == self._keys[stage.name]

    def _entry(self, stage: Stage) -> Mapping[str, Any]:
        return self._content["stages"].get(stage.name, {})

    def _put(self, stage: Stage, entry: Mapping[str, Any]) -> None:
        about = {"key": self._keys[stage.name], "command": list(stage.words)}
        self._content["stages"][stage.name] = {**about, **entry}
        with replacing(self.path, force=True) as part:
            part.write_text(json.dumps(self._content, indent=1) + "\n", encoding="utf-8")

    def _read(self) -> dict[str, Any]:
        if not self.path.exists():
            return {"kind": "reproduction", "stages": {}}
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            if content["kind"] != "reproduction":
                raise KeyError(content["kind"])
            return {"kind": "reproduction", "stages": dict(content["stages"])}
        except (json.JSONDecodeError, KeyError, TypeError, OSError) as err:
            raise ArtifactError(
                f"{self.path}: not the state of a reproduction ({err}); remove it to begin anew"
            ) from err


def keys_of(stages: Sequence[Stage], model: str) -> dict[str, str]:
    """Stage -> a digest of its command, of the user's files that it reads, and of the stages that it builds on."""
    keys: dict[str, str] = {}
    for stage in stages:
        files = [file_sha256(path) for path in stage.files]
        keys[stage.name] = json_sha256([model, list(stage.words), files, [keys[name] for name in stage.needs]])
    return keys


def run_command(*arguments: object) -> None:
    """Run one `refusal` command in this process, shown on stderr; a user fault propagates as RefusalError."""
    words = [str(argument) for argument in arguments]
    click.secho(f"\n$ refusal {shlex.join(words)}", bold=True, err=True)
    refusal.main(args=words, prog_name="refusal", standalone_mode=False)
