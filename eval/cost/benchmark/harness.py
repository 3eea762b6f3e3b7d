"""lm-evaluation-harness as it is used here: its tasks checked before any model is loaded, run without its noise."""

import inspect
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.cost.benchmark.documents import Document, read_samples
from eval.cost.benchmark.tasks import MEASURES, BenchmarkError, Task
from surgery.console.errors import RefusalError
from surgery.files.artifacts import json_sha256

if TYPE_CHECKING:
    from eval.cost.benchmark.settings import Settings


def _manager(task: Task) -> Any:
    """What loads a task: by its name through the harness's index, or as it is configured."""
    return _manager_of(isinstance(task.asked, str))


@lru_cache
def _manager_of(has_index: bool) -> Any:
    """Making the index of all the harness's tasks takes seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=has_index)


def evaluate(model: Any, task: Task, settings: "Settings") -> tuple[list[Document], dict[str, Any]]:
    """Score the documents of one task by the harness.

    Returns: (documents, {versions, num_fewshot} of the (sub)tasks as they were run).
    """
    from lm_eval import evaluator

    evaluator.get_git_commit_hash = lambda: None  # of the folder one stands in: says nothing here, and fails aloud
    evaluator.add_env_info = lambda found: None  # asks the machine about itself: most of a second for each task
    with quiet():
        found = evaluator.simple_evaluate(
            model=model,
            tasks=[_asked(task)],
            num_fewshot=settings.num_fewshot,
            limit=settings.limit,
            apply_chat_template=settings.chat_template,
            log_samples=True,
            bootstrap_iters=0,
            task_manager=_manager(task),
        )
    return read_samples(found["samples"]), {"versions": found["versions"], "num_fewshot": found["n-shot"]}


def check_tasks(tasks: Sequence[Task]) -> None:
    """Load the tasks' data before any model is, and see that each is scored by something that can be compared.

    Raises: BenchmarkError for a task that the harness does not know, whose data cannot be had, or without such a score.
    """
    for task in tasks:
        try:
            with quiet():
                loaded = _manager(task).load([_asked(task)])
        except RefusalError:
            raise
        except Exception as err:  # the harness and datasets raise whatever their parts raise
            reason = " ".join(str(err).split())[:160]
            raise BenchmarkError(
                f"task {task.name}: cannot be loaded ({type(err).__name__}: {reason}); use --tasks local, the name of a "
                "task whose data are here, or a YAML file"
            ) from err
        for name, found in loaded["tasks"].items():
            _check_measures(name, list(found.aggregation()))


def _check_measures(name: str, measures: Sequence[str]) -> None:
    if not set(measures) & set(MEASURES):
        raise BenchmarkError(
            f"task {name}: is scored by {', '.join(measures) or 'nothing'}; expected one of {', '.join(MEASURES)} among "
            "its metrics"
        )


def task_sha256(task: Task) -> str:
    """What a task asks and how it scores, the same in every process: a function is known by its module's source."""
    data = [json_sha256(path.read_text(encoding="utf-8")) for path in _data_files(task)]
    return json_sha256([_plain(task.asked), data])


def _asked(task: Task) -> Any:
    return task.asked if isinstance(task.asked, str) else dict(task.asked)


def _plain(asked: Any) -> Any:
    """A task's configuration as JSON types."""
    if isinstance(asked, Mapping):
        return {str(key): _plain(value) for key, value in asked.items()}
    if isinstance(asked, list | tuple):
        return [_plain(value) for value in asked]
    if isinstance(asked, partial):
        return _plain([asked.func, asked.args, asked.keywords])
    return _written(asked) if callable(asked) else asked


def _written(asked: Callable[..., Any]) -> list[str]:
    """Name and source of a function, or of an object's class: of its whole module, whose other parts it may use."""
    named = asked if hasattr(asked, "__qualname__") else type(asked)
    return [named.__qualname__, inspect.getsource(sys.modules[named.__module__])]


def _data_files(task: Task) -> list[Path]:
    """The local files that a task reads, so that changed ones are noticed."""
    if isinstance(task.asked, str):
        return []
    files = (task.asked.get("dataset_kwargs") or {}).get("data_files") or []
    groups = list(files.values()) if isinstance(files, Mapping) else [files]
    names = [name for group in groups for name in ([group] if isinstance(group, str) else group)]
    return [path for path in map(Path, names) if path.is_file()]


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars and logs of the harness, datasets and transformers, which would bury our own lines."""
    from tqdm.std import tqdm

    level, shown = logging.root.manager.disable, tqdm.__init__

    @wraps(shown)
    def hidden(bar: Any, *args: Any, **kwargs: Any) -> None:
        shown(bar, *args, **{**kwargs, "disable": True})

    logging.disable(logging.WARNING)
    tqdm.__init__ = hidden
    try:
        yield
    finally:
        logging.disable(level)
        tqdm.__init__ = shown
