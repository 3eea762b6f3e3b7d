"""Running a benchmark: every task on every variant that has not been run just so, and what came of it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from eval.cost.benchmark.damage import harmless_sha256, make_harmless
from eval.cost.benchmark.documents import Document, change_of, read_documents, score_of, write_documents
from eval.cost.benchmark.harness import check_tasks, evaluate, quiet, task_sha256
from eval.cost.benchmark.record import DOCUMENTS, Record
from eval.cost.benchmark.settings import Settings
from eval.cost.benchmark.tasks import Task
from eval.cost.damage.measures import Damage
from eval.cost.damage.measuring import Baseline, Harmless, measure, measure_baseline
from eval.generation.study_date import study_date
from eval.plan.conditions import BASELINE, WEIGHTS, Condition
from eval.statistics.intervals import Interval
from surgery.files.artifacts import explaining_disk_errors, file_sha256, json_sha256, package_versions
from surgery.model.models import ModelInfo


class Backend(Protocol):
    """What answers.

    Attributes:
        name: as in --backend.
        has_distributions: it gives out the probability of every token of the vocabulary.
    """

    name: str
    has_distributions: bool

    @property
    def versions(self) -> Sequence[str]:
        """What scores depend on beside the harness and the `Settings`."""

    def loaded(self, variant: Condition, date: str | None = None) -> AbstractContextManager[Any]:
        """The variant as a model of the harness that also has `next_token_logprobs`, `text_logprobs` and `n_cut`.

        Args:
            date: that its chat template is told.
        """

    def close(self) -> None:
        """Give back what is kept between variants."""


@dataclass(frozen=True)
class TaskOutcome:
    """One task on one variant; `change` against the baseline is None for the baseline."""

    task: str
    variant: str
    measure: str
    score: Interval
    change: Interval | None


@dataclass(frozen=True)
class BenchmarkResults:
    """All of a benchmark: outcomes task by task, and variant -> damage."""

    outcomes: Sequence[TaskOutcome]
    damage: dict[str, Damage]


class Benchmark:
    """A folder with the documents of every task on every variant.

    Args:
        variants: conditions, each known by its `source` (`eval.cost.benchmark.compared.identified`).
        with_damage: divergence and perplexity are measured too.
        made: what the variants are made of -> the date in the prompts behind it.
    """

    def __init__(
        self,
        folder: Path,
        info: ModelInfo,
        variants: Sequence[Condition],
        settings: Settings,
        backend: Backend,
        with_damage: bool = True,
        made: Mapping[str, str] | None = None,
    ):
        self.folder, self.info, self.variants, self.settings = folder, info, variants, settings
        self.backend, self.with_damage, self.made = backend, with_damage, made or {}

    def run(
        self,
        tasks: Sequence[Task],
        tell: Callable[[str], None],
        command: Sequence[str] = (),
        force: bool = False,
    ) -> BenchmarkResults:
        """Run what is missing and compare.

        Args:
            tell: called with a line before each task of each variant.
            force: score again what has been scored of these tasks and variants; each is replaced when it is scored.
        Raises: BenchmarkError, DamageError, DiskError.
        """
        record = Record.load(self.folder)
        names = [_name(variant, task) for variant in self.variants for task in tasks]
        self.settings = replace(self.settings, date=self._date(record, names, force))
        if not force:
            record.check_same(names, [each.id for each in self.variants], self.marks)
        record.about = record.about or self.about(command)
        check_tasks(tasks)
        put = self.settings.chat_template, self.settings.date
        harmless = make_harmless(self.info, *put, self.backend.has_distributions)
        work = _Work(self, tasks, record, harmless, tell, command, force)
        with explaining_disk_errors(self.folder, after="what was scored is kept"):
            (self.folder / DOCUMENTS).mkdir(parents=True, exist_ok=True)
            try:
                work.run()
            finally:
                self.backend.close()
            return work.results()

    def about(self, command: Sequence[str], outcomes: Sequence[TaskOutcome] = ()) -> dict[str, Any]:
        """What the record says beside what has been run."""
        return {
            "model": self.info.to_json(),
            "backend": {"name": self.backend.name, "versions": list(self.backend.versions)},
            "variants": [{"name": v.id, "kind": v.edit, "identity": v.source} for v in self.variants],
            "settings": asdict(self.settings),
            "versions": package_versions(),
            "command": ["refusal", *command],
            "outcomes": [asdict(outcome) for outcome in outcomes],
        }

    def key(self, variant: Condition, asked: str, settings: Settings) -> str:
        """Of all that a score depends on; `asked` is a digest of what is asked."""
        harness = [metadata.version("lm_eval"), *self.backend.versions]
        asked_so = {name: value for name, value in asdict(settings).items() if name != "date" or value is not None}
        return json_sha256([self.info.fingerprint, variant.edit, variant.source, asked, asked_so, harness])

    @property
    def marks(self) -> dict[str, str]:
        """What each score is kept with, for those of other prompts or another dtype never to be mixed with it."""
        return {"dtype": self.settings.dtype} | ({"date": self.settings.date} if self.settings.date else {})

    def _date(self, record: Record, names: Sequence[str], force: bool) -> str | None:
        """The date that documents are put with. Raises: MismatchError when a variant is made with another one."""
        if not self.settings.chat_template:
            return None
        recorded = None if force else record.date_of(names)
        return study_date(self.info, self.settings.date, self.made, recorded)


@dataclass
class _Work:
    """One call of `Benchmark.run`."""

    study: Benchmark
    tasks: Sequence[Task]
    record: Record
    harmless: Harmless
    tell: Callable[[str], None]
    command: Sequence[str]
    force: bool
    baseline: Baseline | None = None

    def run(self) -> None:
        """Score and measure what is missing; variants that share weights come one after another."""
        variants = sorted(self.study.variants, key=lambda variant: variant.kind in WEIGHTS)
        unmeasured = [variant for variant in self._to_measure() if self.force or not self._is_measured(variant)]
        for variant in variants:
            missing = [task for task in self.tasks if self.force or not self._is_done(variant, task)]
            is_read = bool(unmeasured) and variant.id == BASELINE.id  # the others are compared with it
            if missing or is_read or variant in unmeasured:
                self._ask(variant, missing, is_read or variant in unmeasured)

    def _ask(self, variant: Condition, missing: Sequence[Task], is_measured: bool) -> None:
        """Score and measure one variant, whose model nothing here holds afterwards."""
        with quiet(), self.study.backend.loaded(variant, self.study.settings.date) as model:
            for task in missing:
                self._score(variant, task, model)
            if is_measured:
                self._measure(variant, model)

    def results(self) -> BenchmarkResults:
        """What came of all, saved."""
        outcomes = [outcome for task in self.tasks for outcome in self._compare(task)]
        self.record.about = self.study.about(self.command, outcomes)
        self.record.save()
        return BenchmarkResults(outcomes, {each.id: self.record.damage_of(each.id) for each in self._to_measure()})

    def _to_measure(self) -> Sequence[Condition]:
        return self.study.variants if self.study.with_damage else ()

    def _score(self, variant: Condition, task: Task, model: Any) -> None:
        name = _name(variant, task)
        self.tell(f"{variant.id}: {task.name}")
        n_cut = model.n_cut
        documents, about = evaluate(model, task, self.study.settings)
        n_cut = model.n_cut - n_cut
        if n_cut:
            self.tell(f"{variant.id}: {task.name}: {n_cut} requests were too long and lost their beginning")
        path = self.record.path_of(name)
        write_documents(path, documents)
        key, digest = self._key(variant, task), file_sha256(path)
        entry = {"key": key, "documents_sha256": digest, "n_cut": n_cut, **self.study.marks}
        self.record.done[name] = entry | about
        self.record.save()

    def _measure(self, variant: Condition, model: Any) -> None:
        self.tell(f"{variant.id}: divergence and perplexity")
        if variant.id == BASELINE.id:
            self.baseline = measure_baseline(model, self.harmless)
            found = self.baseline.damage
        else:
            assert self.baseline is not None, "the baseline comes first"
            found = measure(variant.id, model, self.harmless, self.baseline)
        self.record.damage[variant.id] = {"key": self._damage_key(variant), **self.study.marks, **found.to_json()}
        self.record.save()

    def _compare(self, task: Task) -> Iterator[TaskOutcome]:
        documents = {each.id: self._documents(each, task) for each in self.study.variants}
        for variant in self.study.variants:
            found = documents[variant.id]
            change = None if variant.id == BASELINE.id else change_of(documents[BASELINE.id], found)
            yield TaskOutcome(task.name, variant.id, found[0].measure, score_of(found), change)

    def _documents(self, variant: Condition, task: Task) -> list[Document]:
        return read_documents(self.record.path_of(_name(variant, task)))

    def _is_done(self, variant: Condition, task: Task) -> bool:
        return self.record.done.get(_name(variant, task), {}).get("key") == self._key(variant, task)

    def _key(self, variant: Condition, task: Task) -> str:
        return self.study.key(variant, task_sha256(task), self.study.settings)

    def _is_measured(self, variant: Condition) -> bool:
        return self.record.damage.get(variant.id, {}).get("key") == self._damage_key(variant)

    def _damage_key(self, variant: Condition) -> str:
        """Tasks do not matter to it, nor how many documents of them are asked."""
        settings = replace(self.study.settings, limit=None, num_fewshot=None)
        return self.study.key(variant, harmless_sha256(self.harmless), settings)


def _name(variant: Condition, task: Task) -> str:
    return f"{variant.id}.{task.name}"
