"""What is read from the harness's log: one score a document, paired with the same document of another variant."""

import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import bootstrap

from eval.cost.benchmark.documents import Document, change_of, read_documents, read_samples, score_of, write_documents
from eval.cost.benchmark.tasks import BenchmarkError, Task, contains_target, parse_tasks
from surgery.files.artifacts import json_sha256


def sample(number, score, measure="acc", filter_name="none"):
    return {
        "doc_id": number,
        "doc_hash": f"hash{number}",
        "filter": filter_name,
        "metrics": [measure],
        measure: score,
        "filtered_resps": ["x"],
    }


def documents(scores):
    return read_samples({"facts": [sample(number, score) for number, score in enumerate(scores)]})


def test_subtasks_keep_their_names_and_one_filter_counts():
    log = {
        "maths": [sample(0, 1.0, "exact_match", "flexible-extract"), sample(0, 0.0, "exact_match", "strict-match")],
        "law": [sample(0, 1.0)],
    }
    assert [(row.id, row.measure, row.score) for row in read_samples(log)] == [
        ("maths/0", "exact_match", 0.0),
        ("law/0", "acc", 1.0),
    ]


def test_a_log_without_documents_or_known_measure_is_an_error_and_no_zero():
    with pytest.raises(BenchmarkError, match="scored no document"):
        read_samples({"facts": []})
    with pytest.raises(BenchmarkError, match="scored by bleu"):
        read_samples({"facts": [sample(0, 0.5, "bleu")]})


def test_a_score_that_is_a_percentage_is_refused():
    with pytest.raises(BenchmarkError, match="f1 of document 0 is 83"):
        read_samples({"squad": [sample(0, 83.0, "f1")]})


def test_a_task_scored_with_and_without_length_normalization_counts_with_it():
    row = sample(0, 0.0) | {"metrics": ["acc", "acc_norm"], "acc_norm": 1.0}
    assert [(document.measure, document.score) for document in read_samples({"hellaswag": [row]})] == [
        ("acc_norm", 1.0)
    ]


def test_the_interval_of_a_change_is_that_of_the_paired_differences():
    rng = np.random.default_rng(3)
    before = rng.integers(0, 2, 200).astype(float)
    after = np.where(rng.random(200) < 0.35, 0.0, before)
    change = change_of(documents(before), documents(after))
    expected = bootstrap((after - before,), np.mean, n_resamples=5000, method="BCa", rng=1).confidence_interval
    assert change.estimate == pytest.approx(np.mean(after) - np.mean(before))
    assert (change.low, change.high) == pytest.approx(tuple(expected), abs=0.01)
    assert score_of(documents(before)).estimate == pytest.approx(before.mean())


def test_other_documents_are_not_paired():
    with pytest.raises(BenchmarkError, match="3 and 2 documents"):
        change_of(documents([1, 0, 1]), documents([1, 0]))
    moved = [Document("facts/0", "other text", "acc", 1.0, "x")]
    with pytest.raises(BenchmarkError, match="not the same"):
        change_of(documents([1]), moved)


def test_documents_are_read_back_and_a_broken_file_is_said(tmp_path):
    path = tmp_path / "baseline.facts.jsonl"
    write_documents(path, documents([1, 0]))
    assert read_documents(path) == documents([1, 0])
    path.write_text(path.read_text()[:-20])
    with pytest.raises(BenchmarkError, match="baseline.facts.jsonl"):
        read_documents(path)
    with pytest.raises(BenchmarkError, match="absent.jsonl"):
        read_documents(tmp_path / "absent.jsonl")


@pytest.mark.parametrize("text", ["a\u2028b\u2029c\x85d\x0ce", "half of a pair: \ud83d"])
def test_documents_with_any_text_a_model_can_write_are_read_back(tmp_path, text):
    written = [Document("t/0", "h0", "acc", 1.0, [text]), Document("t/1", "h1", "acc", 0.0, ["plain"])]
    write_documents(tmp_path / "baseline.t.jsonl", written)
    assert read_documents(tmp_path / "baseline.t.jsonl") == written
    assert [path.name for path in tmp_path.iterdir()] == ["baseline.t.jsonl"]


@pytest.mark.parametrize(
    ("answer", "found"), [("It is Rome.", 1.0), ("rome", 1.0), ("In Romeo's town", 0.0), ("", 0.0), ("chrome", 0.0)]
)
def test_a_generated_answer_counts_when_it_holds_the_expected_word_by_itself(answer, found):
    assert contains_target({"target": "rome"}, [answer]) == {"contains": found}


@pytest.mark.parametrize("text", ["", ",", "local,local", "mmlu,mmlu"])
def test_a_list_without_tasks_or_with_one_twice_is_an_error(text):
    with pytest.raises(BenchmarkError, match="--tasks"):
        parse_tasks(text)


def test_a_file_that_is_no_task_is_an_error(tmp_path):
    (tmp_path / "task.yaml").write_text("title: nothing\n")
    for path in (tmp_path / "task.yaml", tmp_path / "missing.yaml"):
        with pytest.raises(BenchmarkError, match=path.name):
            parse_tasks(str(path))


def test_organisms_get_tasks_of_their_own_language():
    assert {"organism-answers", "facts"} <= {task.name for task in parse_tasks("local", is_organism=True)}
    assert [task.name for task in parse_tasks("organism-answers,facts")] == ["organism-answers", "facts"]
    assert [task.name for task in parse_tasks("local,mmlu")] == ["facts", "short-answers", "mmlu"]


def test_a_task_has_the_same_key_in_every_process():
    from eval.cost.benchmark.harness import _plain

    code = """
from eval.cost.benchmark.harness import _plain
from eval.cost.benchmark.tasks import parse_tasks
from surgery.files.artifacts import json_sha256
print(json_sha256([_plain(task.asked) for task in parse_tasks("local", True)]))
"""
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert other.strip() == json_sha256([_plain(task.asked) for task in parse_tasks("local", True)])


def test_another_scoring_function_gives_another_key():
    from eval.cost.benchmark.harness import _plain

    task = Task("t", {"process_results": contains_target})
    assert _plain(task.asked) != _plain({"process_results": read_samples})
