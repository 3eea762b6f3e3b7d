"""Tasks are checked before any model is loaded, and the harness keeps quiet."""

import json
import logging
from functools import partial

import pytest

from eval.cost.benchmark.harness import check_tasks, quiet, task_sha256
from eval.cost.benchmark.tasks import BenchmarkError, Task, parse_tasks

QUESTIONS = [{"question": "Is fire hot?", "choices": ["yes", "no"], "answer": 0}]


@pytest.fixture
def task_file(tmp_path):
    """task_file(metric, function) writes a task in YAML whose question is put by a function beside it."""

    def write(metric="acc", function="words.put", prefix="Q: "):
        (tmp_path / "words.py").write_text(f"PREFIX = {prefix!r}\ndef put(doc):\n    return PREFIX + doc['question']\n")
        (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
        path = tmp_path / f"{metric}.yaml"
        path.write_text(f"""
task: temperatures
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tmp_path / "data.jsonl"}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: !function {function}
doc_to_choice: choices
doc_to_target: answer
metric_list: [{{metric: {metric}, aggregation: mean, higher_is_better: true}}]
""")
        return path

    return write


def test_a_file_with_a_function_of_its_own_is_a_task(task_file):
    (task,) = parse_tasks(str(task_file()))
    check_tasks([task])
    assert task.name == "temperatures" and task.asked["doc_to_text"](QUESTIONS[0]) == "Q: Is fire hot?"


def test_a_task_whose_measure_cannot_be_compared_is_found_before_anything_runs(task_file):
    with pytest.raises(BenchmarkError, match="temperatures: is scored by brier_score; expected one of acc_norm"):
        check_tasks(parse_tasks(str(task_file("brier_score"))))


def test_a_function_that_is_not_there_is_said(task_file):
    with pytest.raises(BenchmarkError, match=r"acc.yaml: not a task of lm-evaluation-harness .*absent"):
        parse_tasks(str(task_file(function="words.absent")))


def test_data_that_cannot_be_had_are_said(task_file):
    (task,) = parse_tasks(str(task_file()))
    task.asked["dataset_kwargs"]["data_files"]["test"] = "missing.jsonl"
    with pytest.raises(BenchmarkError, match=r"task temperatures: cannot be loaded \(FileNotFoundError"):
        check_tasks([task])


def test_another_function_or_other_data_make_another_task(task_file):
    (before,) = parse_tasks(str(task_file()))
    same = task_sha256(before)
    (again,) = parse_tasks(str(task_file()))
    assert task_sha256(again) == same
    (other,) = parse_tasks(str(task_file(prefix="Question: ")))
    assert task_sha256(other) != same
    with open(task_file().parent / "data.jsonl", "a") as data:
        data.write(json.dumps(QUESTIONS[0]) + "\n")
    assert task_sha256(before) != same


def test_a_function_with_some_arguments_given_is_known_by_them(task_file):
    (task,) = parse_tasks(str(task_file()))
    given = [partial(task.asked["doc_to_text"], *arguments) for arguments in ((), ("a",), ("b",))]
    digests = [task_sha256(Task("t", {"doc_to_text": each})) for each in given]
    assert len(set(digests)) == 3 and task_sha256(Task("t", {"doc_to_text": given[1]})) == digests[1]


def test_bars_and_logs_are_silent_within_and_as_before_after(capsys):
    from tqdm import tqdm

    logger = logging.getLogger("lm_eval")
    level = logging.root.manager.disable
    with quiet():
        assert list(tqdm(range(3))) == [0, 1, 2] and not logger.isEnabledFor(logging.WARNING)
        assert logger.isEnabledFor(logging.ERROR)
    assert capsys.readouterr().err == "" and logging.root.manager.disable == level
    list(tqdm(range(3)))
    assert "3/3" in capsys.readouterr().err
