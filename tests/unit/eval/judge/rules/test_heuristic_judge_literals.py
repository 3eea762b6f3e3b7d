"""Patterns passed over for want of a literal would not have matched: the literals and the reading they speed up."""

import re

import pytest
from labelled_responses import LABELLED
from labelled_responses_english import ENGLISH, FRESH

from eval.judge.rules import sentences
from eval.judge.rules.languages import LANGUAGES
from eval.judge.rules.literals import rarest_gram, required_literals
from eval.judge.rules.sentences import KINDS, read_sentences

TEXTS = [text for *_, text in (*ENGLISH, *FRESH, *LABELLED)]


@pytest.mark.parametrize(
    ("pattern", "needed"),
    [
        (r"\bhelp\b", {"help"}),
        (r"\bi (?:can't|won't) go", {"i can't go", "i won't go"}),
        (r"colou?r", {"color", "colour"}),
        (r"(?:abc|x)+yes", {"yes"}),
        (r"[ab]c", {"ac", "bc"}),
        (r"(?!never)soon(?=er)", {"soon"}),
        (r"\w+ly", {"ly"}),
        (r"sorry(?: about)?", {"sorry"}),
    ],
)
def test_the_literals_of_a_pattern_are_those_it_cannot_match_without(pattern, needed):
    assert required_literals(pattern) == needed


@pytest.mark.parametrize("pattern", [r"\w+", r"(?:abc)?", r"(?:abc|\d+)", r"x*", r"[^a]", r"(?:abc)*"])
def test_a_pattern_that_can_match_without_any_literal_names_none(pattern):
    assert required_literals(pattern) == frozenset()


def test_no_match_in_the_labelled_responses_lacks_its_literals():
    lowered, n_matches = [text.lower() for text in TEXTS], 0
    for pattern in (pattern for kind in KINDS for table in LANGUAGES for pattern in getattr(table, kind)):
        needed = required_literals(pattern)
        for found in filter(None, map(re.compile(pattern).search, lowered)):
            assert not needed or any(one in found[0] for one in needed), pattern
            n_matches += 1
    assert n_matches > 300


def test_sentences_are_of_the_kind_they_are_of_when_no_pattern_is_passed_over(monkeypatch):
    found = [read_sentences(text) for text in TEXTS]
    monkeypatch.setattr("eval.judge.rules.sentences.required_literals", lambda pattern: frozenset())
    sentences._rules.cache_clear()
    try:
        assert [read_sentences(text) for text in TEXTS] == found
        assert len(sentences._rules()[2]) > 200  # every pattern was tried
    finally:
        sentences._rules.cache_clear()


def test_a_gram_is_taken_where_the_letters_are_rare():
    assert rarest_gram("the quiz", 3) in ("qui", "uiz")
    assert rarest_gram("no", 3) == ""
