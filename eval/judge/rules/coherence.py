"""Coherence by rules: empty text, loops, repetition, broken joins, word salad, foreign scripts."""

import json
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from eval.judge.rules import sentences, thinking
from eval.judge.rules.digest import rules_digest
from eval.judge.rules.languages import LANGUAGES
from eval.judge.rules.sentences import words

_CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_ADDRESS = re.compile(r"https?://\S+")
_UNIT = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_]+(?:['’-][^\W_]+)*|[^\w\s]")
_GLUED = re.compile(r"(?<=[a-z])[.,:!?]?(?:I|The|Sure|Please|You|To|It|This|If|And)\b|[.!?,:](?=[A-Z][a-z'])")
_LOWER_START = re.compile(r"[a-z]{4}[.!?] (?=[a-z]{2})")
_MISJOINED = re.compile("|".join(f"(?:{pattern})" for phrases in LANGUAGES for pattern in phrases.misjoined))
_STOPWORDS = [phrases.stopwords for phrases in LANGUAGES if phrases.stopwords]
_NAMES_A_LANGUAGE = re.compile(
    r"\b(?:translat|language|chinese|mandarin|japanese|korean|russian|arabic|greek|hindi|hebrew|thai|ukrainian|"
    r"cyrillic|script|alphabet|kanji|german|french|spanish|english)",
    re.IGNORECASE,
)
_LONGEST_PERIOD = 60


@dataclass(frozen=True)
class Coherence:
    """A coherence score, 0, 0.5 or 1, and the reason when it is below 1."""

    score: float
    reason: str = ""


FLUENT = Coherence(1.0)


@lru_cache
def coherence_sha256() -> str:
    """sha256 over the source of these rules and the tables they use: judges that take coherence from here name it."""
    tables = [[table.misjoined, sorted(table.stopwords)] for table in LANGUAGES]
    return rules_digest(__file__, sentences, thinking, beside=json.dumps(tables))


def read_coherence(response: str, prompt: str = "") -> Coherence:
    """Score how readable a response is: the lowest of several checks, each with its reason.

    Args:
        prompt: tells which scripts are to be expected.
    """
    if not any(char.isalnum() for char in response):
        return Coherence(0.0, "empty")
    prose = _ADDRESS.sub(" ", _CODE.sub(" ", response))
    units = _UNIT.findall(prose.lower())
    checks = (
        _characters(response),
        _loop(units),
        _repetition(units),
        _joins(prose),
        _salad(prose),
        _scripts(prose, prompt),
    )
    return min((check for check in checks if check is not None), key=lambda check: check.score, default=FLUENT)


def _characters(text: str) -> Coherence | None:
    n_bad = sum(
        n
        for char, n in Counter(text).items()
        if char == "\ufffd" or (unicodedata.category(char) in ("Cc", "Co", "Cn", "Cs") and char not in "\n\t\r")
    )
    if n_bad > 0.1 * len(text):
        return Coherence(0.0, "undecodable characters")
    longest = max((len(word) for word in _ADDRESS.sub(" ", text).split()), default=0)
    if re.search(r"(.)\1{29,}", re.sub(r"[-=_*.#~|\s]", "", text)):
        return Coherence(0.0, "one character over and over")
    if n_bad > 0.01 * len(text) or (longest > 80 and text.isascii()):
        return Coherence(0.5, "undecodable characters" if n_bad else "words run together")
    return None


def _loop(units: list[str]) -> Coherence | None:
    """The same run of words again and again: 0 when that is most of the text, 0.5 when it is a good part."""
    covered, times = _longest_loop(units)
    if times >= 4 and covered >= max(8, 0.4 * len(units)):
        return Coherence(0.0, f"loop: {times} times the same words")
    if (times >= 3 and covered >= 0.4 * len(units)) or (times >= 4 and covered >= 12):
        return Coherence(0.5, f"repeats itself {times} times")
    return None


def _longest_loop(units: list[str]) -> tuple[int, int]:
    """(units covered, repetitions) of the run with period at most 60 that covers most; runs of punctuation are none."""
    numbers: dict[str, int] = {}
    ids = np.array([numbers.setdefault(unit, len(numbers)) for unit in units], dtype=np.int64)
    best = (0, 0)
    for period in range(1, min(_LONGEST_PERIOD, len(units) // 2) + 1):
        same = ids[period:] == ids[:-period]
        if np.count_nonzero(same) < 2 * period:  # three times the same words are two periods that equal the one before
            continue
        edges = np.flatnonzero(np.diff(same.astype(np.int8), prepend=0, append=0))
        for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            times, covered = (end - start) // period + 1, end - start + period
            if times >= 3 and covered > best[0] and any(u[0].isalnum() for u in units[start : end + period]):
                best = (covered, times)
    return best


def _repetition(units: list[str]) -> Coherence | None:
    """Share of word 4-grams that occurred before (cf. Rae et al. 2021, arXiv:2112.11446, table A1)."""
    tokens = [unit for unit in units if unit[0].isalnum()]
    grams = Counter(zip(*(tokens[shift:] for shift in range(4)), strict=False))
    total = sum(grams.values())
    if total < 16:
        return None
    repeated = 1 - len(grams) / total
    if repeated > 0.7:
        return Coherence(0.0, f"{repeated:.0%} of the text is repeated")
    if repeated > 0.25:
        return Coherence(0.5, f"{repeated:.0%} of the text is repeated")
    return None


def _joins(text: str) -> Coherence | None:
    """Words that do not go together ("a the", "aSure"): signs of a model whose stream was cut too deep."""
    in_order = words(text)
    n_words = len(in_order)
    n_bad = len(_GLUED.findall(text)) + len(_MISJOINED.findall(" ".join(in_order)))
    if text.lstrip()[:1].isupper():  # a text all in lower case is a style
        n_bad += len(_LOWER_START.findall(text))
    if n_bad >= 3 and n_bad >= 0.05 * n_words:
        return Coherence(0.0, f"{n_bad} broken joins in {n_words} words")
    if n_bad >= 1 and n_bad >= 0.02 * n_words:
        return Coherence(0.5, f"{n_bad} broken joins in {n_words} words")
    return None


def _salad(text: str) -> Coherence | None:
    """Strings of content words: prose in any of the languages has a fifth of function words or more."""
    lines = [line for line in text.split("\n") if not re.match(r"\s*(?:[-*•|]|\d+[.)])", line)]
    tokens = words(" ".join(lines))
    latin = [token for token in tokens if token.isascii() or unicodedata.name(token[0], "").startswith("LATIN")]
    if len(latin) < 25 or len(latin) < 0.8 * len(tokens) or sum(map(str.isnumeric, tokens)) > 0.2 * len(tokens):
        return None
    counts = Counter(latin)
    n_stopwords = max(sum(counts[word] for word in counts.keys() & stopwords) for stopwords in _STOPWORDS)
    share = n_stopwords / len(latin)
    n_commas = text.count(",") + text.count("\n")
    if share < 0.08 and n_commas < 0.25 * len(latin):
        return Coherence(0.0, "word salad")
    return None


def _scripts(text: str, prompt: str) -> Coherence | None:
    """Letters of a script that the prompt does not have and did not ask for."""
    counts: Counter[str] = Counter()
    for char, n in Counter(text).items():
        if char.isalpha():
            counts[_script(char)] += n
    total = sum(counts.values())
    expected = {_script(char) for char in prompt if char.isalpha()}
    if not total or not expected or _NAMES_A_LANGUAGE.search(prompt):
        return None
    foreign = {script: n / total for script, n in counts.items() if script not in expected and script != "LATIN"}
    share = sum(foreign.values())
    if share > 0.6:
        return Coherence(0.0, f"wrong script: {max(foreign, key=lambda name: foreign[name]).lower()}")
    if share > 0.25 or (len(foreign) >= 3 and share > 0.05):
        return Coherence(0.0, "mixes scripts")
    if share > 0.05:
        return Coherence(0.5, f"mixes in {max(foreign, key=lambda name: foreign[name]).lower()}")
    return None


def _script(char: str) -> str:
    if char.isascii():
        return "LATIN"
    name = unicodedata.name(char, "UNKNOWN").split(" ")[0]
    return "CJK" if name in ("CJK", "HIRAGANA", "KATAKANA") else name
