"""A run on disk: `run.json`, `generations.jsonl`, `verdicts.jsonl`; append-only, resumable, one writer at a time."""

import fcntl
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast

from eval.plan.conditions import Condition
from eval.records.manifest import FILE, FORMAT_VERSION, JudgeRecord, Manifest
from eval.records.redaction import Redaction
from eval.records.rows import Generation, Verdict
from surgery.console.errors import ArtifactError, OutputExistsError
from surgery.files.artifacts import explaining_disk_errors, replacing
from surgery.files.folders import make_folder
from surgery.files.rowfile import RowFile


class Run:
    """A run folder. `manifest` is what its `run.json` says; change it within `amending` only."""

    def __init__(self, path: Path | str, manifest: Manifest | None = None):
        self.path = Path(path)
        self.manifest = manifest or Manifest()
        self._generations = RowFile(self.path / "generations.jsonl", Generation)
        self._verdicts = RowFile(self.path / "verdicts.jsonl", Verdict)
        self._guard = threading.RLock()
        self._n_writing = 0

    @classmethod
    def create(cls, path: Path | str, manifest: Mapping[str, Any], force: bool = False) -> "Run":
        """Make a new run folder; an existing one is replaced only with `force`.

        Missing parent folders are made.

        Raises: OutputExistsError, DiskError, ArtifactError (`path` is no run to replace, or is being written).
        """
        path = Path(path)
        if path.exists():
            if not force:
                raise OutputExistsError(path)
            with check_run(path).writing():
                shutil.rmtree(path)
        begun = {"kind": "run", "format_version": FORMAT_VERSION, "judges": {}, "stages": {}, **manifest}
        run = cls(path, Manifest.of(begun))
        make_folder(path)
        with run.discarded_if_empty():
            run.save_manifest()
        return run

    @classmethod
    def open(cls, path: Path | str) -> "Run":
        """Open an existing run folder. Raises: ArtifactError when it is not one, or of a newer format."""
        return cls(path, Manifest.load(Path(path)))

    @property
    def conditions(self) -> list[Condition]:
        """The run's conditions, in the order of tables."""
        return [Condition.from_json(record) for record in self.manifest.conditions]

    @property
    def redaction(self) -> Redaction | None:
        """How text is kept out of this run, or None where it is kept."""
        return Redaction(**self.manifest.redaction) if self.manifest.redaction else None

    def save_manifest(self) -> None:
        """Write `run.json` anew, whole or not at all."""
        with self._guard, replacing(self.path / FILE, force=True) as part:
            part.write_text(self.manifest.text(), encoding="utf-8")

    @contextmanager
    def amending(self) -> Iterator[Manifest]:
        """The manifest, to be changed here and nowhere else: other threads wait, and it is written at the end."""
        with self._guard:
            yield self.manifest
            self.save_manifest()

    def refresh_manifest(self) -> None:
        """Take over what others wrote into `run.json` since it was read; call it while `writing`."""
        with self._guard:
            self.manifest = Manifest.of(self.manifest.to_json() | Manifest.load(self.path).to_json())

    def record_judge(self, judge_id: str, description: Mapping[str, Any]) -> None:
        """Write a judge's description into `run.json`, unless it is there already; any thread may."""
        with self._guard:
            if self.manifest.judges.get(judge_id) != description:
                with self.amending() as manifest:
                    manifest.judges[judge_id] = cast(JudgeRecord, dict(description))

    def generations(self) -> list[Generation]:
        """All responses, in the order they were written; of an item written twice the first counts."""
        first: dict[str, Generation] = {}
        for row in self._generations.rows():
            first.setdefault(row.item_id, row)
        return list(first.values())

    def generated_ids(self) -> set[str]:
        """`item_id` of all responses, without reading their texts: what a resumed generation asks for."""
        return set(self._generations.item_ids())

    def verdicts(self, judge_id: str | None = None) -> list[Verdict]:
        """Verdicts of one judge or of all, one per (item, judge, repeat); of one written again the last counts."""
        last = {(row.item_id, row.judge_id, row.repeat): row for row in self._verdicts.rows()}
        return [row for row in last.values() if judge_id in (None, row.judge_id)]

    def append_generations(self, rows: Iterable[Generation]) -> int:
        """Append responses, without their text in a redacted run; returns how many. See RowFile.append."""
        if (redaction := self.redaction) is not None:
            rows = map(redaction.generation, rows)
        return self._generations.append(rows, sync=not self._n_writing)

    def append_verdicts(self, rows: Iterable[Verdict]) -> int:
        """Append verdicts, without their evidence in a redacted run; returns how many. See RowFile.append."""
        if (redaction := self.redaction) is not None:
            rows = map(redaction.verdict, rows)
        return self._verdicts.append(rows, sync=not self._n_writing)

    def redact(self, redaction: Redaction) -> None:
        """Take the text out of every row there is and will be, in place; safe to repeat after any interruption.

        Args:
            redaction: of a run that has one already, that one.
        """
        with self.writing():
            self.refresh_manifest()
            with self.amending() as manifest:
                manifest.redaction = redaction.to_json()
            self._generations.replace(map(redaction.generation, self._generations.rows()))
            self._verdicts.replace(map(redaction.verdict, self._verdicts.rows()))

    @contextmanager
    def discarded_if_empty(self) -> Iterator["Run"]:
        """Remove the run when what is done here fails before its first response; call it on a new run or while `writing`."""
        try:
            yield self
        except BaseException:
            if self.path.exists() and not self._generations.path.exists():
                shutil.rmtree(self.path)
            raise

    @contextmanager
    def writing(self) -> Iterator["Run"]:
        """Hold the run's single-writer lock; what was appended is forced to the disk when it is given back.

        Code that was handed this very object may hold it again, in any thread, while it is held.

        Raises: ArtifactError when another process, or another Run of this one, holds it.
        """
        with self._guard:
            if not self._n_writing:
                self._lock = self._locked()
            self._n_writing += 1
        try:
            yield self
        finally:
            with self._guard:
                self._n_writing -= 1
                if not self._n_writing:
                    self._release()

    def _locked(self) -> TextIO:
        with explaining_disk_errors(self.path):
            handle = open(self.path / ".lock", "w")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            handle.close()
            raise ArtifactError(f"{self.path}: another process is writing this run; wait for it or stop it") from err
        return handle

    def _release(self) -> None:
        with self._lock:
            self._generations.sync()
            self._verdicts.sync()


def check_run(path: Path) -> Run:
    """A folder that --force may replace. Raises: ArtifactError when it is no run."""
    if not (path / FILE).is_file():
        raise ArtifactError(f"{path}: exists and is not a run folder; --force replaces only runs")
    return Run(path)
