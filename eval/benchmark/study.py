"""Running a benchmark: every task on every variant that has not been run just so, and what came of it."""

import inspect
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from eval.benchmark.documents import Document, change_of, read_documents, read_samples, score_of, write_documents
from eval.benchmark.tasks import BenchmarkError, Task
from eval.benchmark.variants import BASELINE, Variant, loaded
from eval.intervals import Interval
from surgery.artifacts import explaining_disk_errors, json_sha256, package_versions
from surgery.models import ModelInfo

RECORD = "benchmark.json"

Done = dict[str, dict[str, Any]]
"""VARIANT.TASK -> {key, versions, num_fewshot} of what has been run."""


@dataclass(frozen=True)
class Settings:
    """How documents are asked: the same for every variant.

    Attributes:
        limit: documents of each (sub)task; None for all.
        num_fewshot: None leaves it to the task.
        chat_template: put documents into the model's chat template.
    """

    limit: int | None = None
    num_fewshot: int | None = None
    chat_template: bool = True
    dtype: str = "auto"
    batch_size: int = 16


@dataclass(frozen=True)
class Outcome:
    """One task on one variant; `change` against the baseline is None for the baseline."""

    task: str
    variant: str
    measure: str
    score: Interval
    change: Interval | None


class Benchmark:
    """A folder with the documents of every task on every variant."""

    def __init__(self, folder: Path, info: ModelInfo, variants: Sequence[Variant], settings: Settings):
        self.folder, self.info, self.variants, self.settings = folder, info, variants, settings

    def run(
        self,
        tasks: Sequence[Task],
        tell: Callable[[str], None],
        command: Sequence[str] = (),
        force: bool = False,
    ) -> list[Outcome]:
        """Run what is missing and compare.

        Args:
            tell: called with a line before each variant.
            force: score again what has been scored; it is replaced task by task.
        Raises: BenchmarkError, DiskError.
        """
        done = self._done()
        check_tasks(tasks)
        if force:
            done = {}
        with explaining_disk_errors(self.folder, after="what was scored is kept"):
            (self.folder / "documents").mkdir(parents=True, exist_ok=True)
            for variant in self.variants:
                missing = [task for task in tasks if not self._is_done(done, variant, task)]
                if missing:
                    tell(f"{variant.name}: {', '.join(task.name for task in missing)}")
                    self._score(variant, missing, done, command)
            outcomes = [outcome for task in tasks for outcome in self._compare(task)]
            self._save(done, command, outcomes)
        return outcomes

    def _score(self, variant: Variant, tasks: Sequence[Task], done: Done, command: Sequence[str]) -> None:
        with loaded(variant, self.info, self.settings.dtype, self.settings.batch_size) as model:
            for task in tasks:
                documents, about = evaluate(model, task, self.settings)
                write_documents(self._path(variant, task), documents)
                done[self._name(variant, task)] = {"key": self._key(variant, task), **about}
                self._save(done, command)

    def _compare(self, task: Task) -> Iterator[Outcome]:
        documents = {variant.name: read_documents(self._path(variant, task)) for variant in self.variants}
        for variant in self.variants:
            found = documents[variant.name]
            change = None if variant.name == BASELINE else change_of(documents[BASELINE], found)
            yield Outcome(task.name, variant.name, found[0].measure, score_of(found), change)

    def _is_done(self, done: Done, variant: Variant, task: Task) -> bool:
        return done.get(self._name(variant, task), {}).get("key") == self._key(variant, task)

    def _name(self, variant: Variant, task: Task) -> str:
        return f"{variant.name}.{task.name}"

    def _path(self, variant: Variant, task: Task) -> Path:
        return self.folder / "documents" / f"{self._name(variant, task).replace('/', '-')}.jsonl"

    def _key(self, variant: Variant, task: Task) -> str:
        asked = json_sha256(_plain(task.asked))
        data = [json_sha256(path.read_text(encoding="utf-8")) for path in _data_files(task)]
        versions = package_versions()
        settings = {name: value for name, value in asdict(self.settings).items() if name != "batch_size"}
        harness = [metadata.version("lm_eval"), versions["transformers"], versions["torch"]]
        return json_sha256([self.info.fingerprint, variant.kind, variant.identity, asked, data, settings, harness])

    def _done(self) -> Done:
        """What has been run, as far as its documents are there."""
        path = self.folder / RECORD
        if not path.exists():
            kept = [path.name for path in self.folder.iterdir()] if self.folder.exists() else []
            if kept not in ([], ["documents"]):
                raise BenchmarkError(f"{self.folder}: exists and holds no benchmark; choose another folder")
            return {}
        try:
            done = dict(json.loads(path.read_text(encoding="utf-8"))["done"])
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as err:
            raise BenchmarkError(f"{path}: not the record of a benchmark ({err}); remove it") from err
        there = {file.stem for file in (self.folder / "documents").glob("*.jsonl")}
        return {name: entry for name, entry in done.items() if name.replace("/", "-") in there}

    def _save(self, done: Done, command: Sequence[str], outcomes: Sequence[Outcome] = ()) -> None:
        record = {
            "kind": "benchmark",
            "model": self.info.to_json(),
            "variants": [{"name": v.name, "kind": v.kind, "identity": v.identity} for v in self.variants],
            "settings": asdict(self.settings),
            "versions": package_versions(),
            "command": ["refusal", *command],
            "done": dict(done),
            "outcomes": [asdict(outcome) for outcome in outcomes],
        }
        part = self.folder / f"{RECORD}.part"
        part.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(self.folder / RECORD)


@lru_cache
def _manager() -> Any:
    """The harness's index of tasks, which takes seconds to make."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def evaluate(model: Any, task: Task, settings: Settings) -> tuple[list[Document], dict[str, Any]]:
    """Score the documents of one task by the harness.

    Returns: (documents, {versions, num_fewshot} of the (sub)tasks as they were run).
    """
    from lm_eval import evaluator

    evaluator.get_git_commit_hash = lambda: None  # of the folder one stands in: says nothing here, and fails aloud
    with _quiet():
        found = evaluator.simple_evaluate(
            model=model,
            tasks=[task.asked if isinstance(task.asked, str) else dict(task.asked)],
            num_fewshot=settings.num_fewshot,
            limit=settings.limit,
            apply_chat_template=settings.chat_template,
            log_samples=True,
            bootstrap_iters=0,
            task_manager=_manager(),
        )
    return read_samples(found["samples"]), {"versions": found["versions"], "num_fewshot": found["n-shot"]}


def check_tasks(tasks: Sequence[Task]) -> None:
    """Load the tasks' data before any model is.

    Raises: BenchmarkError for a task that the harness does not know or whose data cannot be had.
    """
    for task in tasks:
        try:
            with _quiet():
                _manager().load([task.asked if isinstance(task.asked, str) else dict(task.asked)])
        except Exception as err:  # the harness and datasets raise whatever their parts raise
            reason = " ".join(str(err).split())[:160]
            raise BenchmarkError(
                f"task {task.name}: cannot be loaded ({type(err).__name__}: {reason}); use --tasks local, the name of a "
                "task whose data are here, or a YAML file"
            ) from err


def _plain(asked: Any) -> Any:
    """A task's configuration as JSON types, the same in every process: a function is known by its source."""
    if isinstance(asked, Mapping):
        return {str(key): _plain(value) for key, value in asked.items()}
    if isinstance(asked, list | tuple):
        return [_plain(value) for value in asked]
    return inspect.getsource(asked) if callable(asked) else asked


def _data_files(task: Task) -> list[Path]:
    """The local files that a task reads, so that changed ones are noticed."""
    if isinstance(task.asked, str):
        return []
    files = (task.asked.get("dataset_kwargs") or {}).get("data_files") or []
    groups = list(files.values()) if isinstance(files, Mapping) else [files]
    names = [name for group in groups for name in ([group] if isinstance(group, str) else group)]
    return [path for path in map(Path, names) if path.is_file()]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the harness's and datasets' progress bars and logs, which would bury the table."""
    import logging

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    try:
        yield
    finally:
        logging.disable(before)
