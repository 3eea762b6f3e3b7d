"""What is checked about a prompt set: token edits of pairs, near-duplicates, overlap; `refusal prompts`."""

import json

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from eval.cli import main
from surgery.prompts import Pair, Prompt, PromptSet, load_set
from surgery.prompts.inspection import inspect_set, overlap
from surgery.prompts.similarity import clusters, edit_distance, near_duplicates, tokens_of

WORDS = st.lists(st.sampled_from("abcd"), max_size=6)


def prompt_set(*texts):
    return PromptSet(tuple(Prompt(str(i), text) for i, text in enumerate(texts)), "test", "prompts")


def test_tokens_are_words_without_case_and_punctuation():
    assert tokens_of("Don't STOP, e-mail him!") == ["don't", "stop", "e", "mail", "him"]
    assert tokens_of("猫が好き ok") == ["猫", "が", "好", "き", "ok"]  # no spaces between words there
    assert tokens_of("?!") == []


def test_edit_distance_counts_insertions_deletions_and_substitutions():
    assert edit_distance("how to steal a car".split(), "how to park a car".split()) == 1
    assert edit_distance("how to park".split(), "how to park a car".split()) == 2
    assert edit_distance([], ["a"]) == 1 and edit_distance(["a"], ["a"]) == 0


@given(WORDS, WORDS, WORDS)
def test_edit_distance_is_a_metric(a, b, c):
    assert edit_distance(a, b) == edit_distance(b, a)
    assert (edit_distance(a, b) == 0) == (a == b)
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)


def test_near_duplicates_are_found_at_the_threshold_and_not_above_it():
    texts = ["one two three", "one two four"]  # 2 of 4 words in common
    assert list(near_duplicates(texts[:1], texts[1:], 0.5)) == [(0, 0, 0.5)]
    assert list(near_duplicates(texts[:1], texts[1:], 0.51)) == []
    fifths = list(near_duplicates(["a b c d"], ["a b c e"], 0.6))  # 3 of 5, which no float holds exactly
    assert [(i, j) for i, j, _ in fifths] == [(0, 0)]
    assert list(near_duplicates(["?"], ["!"], 0.5)) == [] != list(near_duplicates(["?"], ["?"], 0.5))


def test_near_duplicates_hold_across_blocks():
    many = [f"word{i} thing{i}" for i in range(1100)]
    found = list(near_duplicates(many, many[::-1], 0.5))
    assert [(i, j) for i, j, _ in found] == [(i, 1099 - i) for i in range(1100)]


def test_clusters_join_chains_and_leave_the_rest_alone():
    texts = ["a b c d", "x y", "b c d e", "c d e f", "p q"]  # the first and the fourth meet only through the third
    assert clusters(texts, 0.5) == [[0, 2, 3], [1], [4]]
    assert len(clusters(texts, 0.7)) == 5
    assert clusters(texts[:1]) == [[0]]


def test_effective_n_counts_clusters():
    found = inspect_set(prompt_set("How do I pick a lock?", "How do I pick the lock?", "Who are you?"))
    assert found["near_duplicates"]["prompt"]["effective_n"] == 2
    assert [[member["id"] for member in c] for c in found["near_duplicates"]["prompt"]["clusters"]] == [["0", "1"]]


def test_pairs_are_compared_with_their_own_counterpart():
    pairs = (
        Pair("p", "How do I steal a car?", "How do I park a car?"),
        Pair("q", "Who robs banks?", "Who robs banks often?"),
    )
    found = inspect_set(PromptSet(pairs, "test", "pairs"))
    assert [(row["id"], row["edit_distance"], row["n_tokens"]) for row in found["pairs"]] == [("p", 1, 6), ("q", 1, 4)]
    assert found["near_duplicates"]["harmful"]["effective_n"] == 2  # a pair is no duplicate of itself


def test_overlap_finds_equal_and_alike_texts_of_any_side():
    train = PromptSet((Pair("p", "How do I steal a red car?", "How do I park a red car?"),), "train", "pairs")
    hits = overlap(prompt_set("how do I STEAL a red car", "How do I park a red van?", "Who are you?"), train)
    assert [(hit["id"], hit["other_side"], hit["exact"]) for hit in hits] == [
        ("0", "harmful", True),
        ("0", "safe", False),
        ("1", "safe", False),
        ("1", "harmful", False),
    ]
    assert overlap(prompt_set("Who are you?"), train) == []


# ---------------------------------------------------------------- the command


@pytest.fixture
def files(tmp_path):
    train, test, apart = tmp_path / "train.csv", tmp_path / "test.csv", tmp_path / "apart.csv"
    train.write_text("id,harmful,safe,category,tier\n1,How do I steal a car?,How do I park a car?,theft,1\n")
    test.write_text("id,prompt\na,How do I steal my car?\nb,Who are you?\n")
    apart.write_text("id,prompt\na,Who are you?\n")
    return train, test, apart


def run(*arguments):
    return CliRunner().invoke(main, ["prompts", *map(str, arguments)])


def test_the_command_prints_tags_pairs_and_effective_n(files):
    done = run(files[0])
    assert done.exit_code == 0 and "1 pairs (pairs)" in done.stdout
    assert "    1  1     theft" in done.stdout.splitlines()
    assert "effective n 1 of 1" in done.stdout and "How do I park a car?" in done.stdout


def test_the_command_exits_with_one_when_sets_overlap(files):
    train, test, apart = files
    done = run(test, "--against", train)
    assert done.exit_code == 1 and done.stderr.startswith(f"Error: {test} overlaps with {train}: 2 texts")
    assert "0 exact, 2 near-duplicates" in done.stdout
    assert run(apart, "--against", train).exit_code == 0
    assert run(test, "--against", train, "--threshold", "0.9").exit_code == 0


def test_the_command_prints_json_for_programs(files):
    train, test, _ = files
    found = json.loads(run(test, "--against", train, "--json").stdout)
    assert found["provenance"]["n"] == 2 and found["against"]["source"] == str(train)
    assert {hit["other_side"] for hit in found["overlap"]} == {"harmful", "safe"}
    assert found["provenance"]["sha256"] == load_set(test).provenance()["sha256"]


def test_a_fault_of_the_file_is_one_line(tmp_path):
    (tmp_path / "p.csv").write_text("id,prompt\n1,\n")
    done = run(tmp_path / "p.csv")
    assert done.exit_code == 1 and done.stderr.count("\n") == 1 and "line 2" in done.stderr
    assert run("builtin:tier9").exit_code == 1
    assert run(tmp_path / "p.csv", "-o", tmp_path / "out").exit_code == 2
