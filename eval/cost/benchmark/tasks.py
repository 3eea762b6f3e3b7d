"""The tasks of a benchmark: a small set that comes with the package, the harness's own, or a file of the user's."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from surgery.console.errors import RefusalError
from surgery.model.models import ModelInfo
from surgery.organisms.release import GROUND_TRUTH

LOCAL = "local"
SUITE = ("mmlu", "gsm8k", "hellaswag", "arc_challenge", "truthfulqa_mc2", "winogrande")
MEASURES = ("acc_norm", "acc", "exact_match", "contains", "mc2", "f1")  # in order of preference
MOST_ANSWER_TOKENS = 48
_FILES = resources.files("eval.cost.benchmark") / "local_tasks"
_CHOICE, _SHORT = ("facts", "organism_answers"), ("short_answers", "organism_replies")
LOCAL_TASKS = {"facts": "facts", "short-answers": "short_answers"}
ORGANISM_TASKS = {"organism-answers": "organism_answers", "organism-replies": "organism_replies"}
_OWN = LOCAL_TASKS | ORGANISM_TASKS


class BenchmarkError(RefusalError):
    """A benchmark that cannot be run."""


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: as in tables and files.
        asked: what the harness is given: a name of its own, or a whole configuration.
    """

    name: str
    asked: str | Mapping[str, Any]


def parse_tasks(text: str, is_organism: bool = False) -> list[Task]:
    """Read a list of tasks: "local" or some of those, names of the harness's tasks, paths of YAML files, joined by commas.

    Args:
        is_organism: "local" then has tasks in the organisms' own language too.
    Raises: BenchmarkError when the list is empty or a file cannot be read.
    """
    found: list[Task] = []
    for word in filter(None, (part.strip() for part in text.split(","))):
        if word == LOCAL:
            stems = LOCAL_TASKS | (ORGANISM_TASKS if is_organism else {})
            found += [Task(name, _local(name, stem)) for name, stem in stems.items()]
        elif word in _OWN:
            found.append(Task(word, _local(word, _OWN[word])))
        elif word.endswith((".yaml", ".yml")):
            found.append(_from_file(Path(word)))
        else:
            found.append(Task(word, word))
    names = [task.name for task in found]
    if not found or len(set(names)) < len(names):
        raise BenchmarkError(f"--tasks {text!r}: expected different tasks, such as {LOCAL} or {','.join(SUITE[:2])}")
    return found


def tasks_for(info: ModelInfo, text: str) -> list[Task]:
    """`parse_tasks` for a model, which may be an organism or an edited copy of one."""
    return parse_tasks(text, is_organism=(Path(info.path) / GROUND_TRUTH).is_file())


def count_documents(task: Task) -> int | None:
    """How many documents a task of the package has; None for any other, whose data have to be loaded first."""
    stem = _OWN.get(task.name)
    return None if stem is None else (_FILES / f"{stem}.jsonl").read_bytes().count(b"\n")


def contains_target(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Whether the expected words stand in a generated answer, as words of their own."""
    wanted = re.escape(str(doc["target"]).lower())
    return {"contains": float(bool(re.search(rf"(?<!\w){wanted}(?!\w)", results[0].lower())))}


def _local(name: str, stem: str) -> dict[str, Any]:
    shared = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(_FILES / f"{stem}.jsonl")}},
        "test_split": "test",
        "doc_to_text": "{{question}}",
        "metadata": {"version": 1},
    }
    if stem in _CHOICE:
        choice = {"output_type": "multiple_choice", "doc_to_choice": "choices", "doc_to_target": "answer"}
        return shared | choice | {"metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]}
    return shared | {
        "output_type": "generate_until",
        "doc_to_target": "target",
        "generation_kwargs": {"until": ["\n"], "do_sample": False, "max_gen_toks": MOST_ANSWER_TOKENS},
        "process_results": contains_target,
        "metric_list": [{"metric": "contains", "aggregation": "mean", "higher_is_better": True}],
    }


def _from_file(path: Path) -> Task:
    from lm_eval.tasks._yaml_loader import load_yaml  # the harness's own reader, with its !function and include

    try:
        config = load_yaml(path)
    except Exception as err:  # it raises whatever YAML, the file system and the functions named raise
        raise BenchmarkError(f"{path}: not a task of lm-evaluation-harness ({' '.join(str(err).split())})") from err
    if "task" not in config:
        raise BenchmarkError(f"{path}: not a task of lm-evaluation-harness: it names no task")
    return Task(config["task"], config)
