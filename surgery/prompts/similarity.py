"""How alike prompts are: token edit distance, token Jaccard similarity, and clusters of near-duplicates."""

import re
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

# Words; of scripts written without spaces (Japanese, Chinese) each character.
_TOKEN = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|(?:(?![\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff])[\w'’])+"
)
_BLOCK = 512  # rows compared at a time: the memory is this many times the number of prompts


def tokens_of(text: str) -> list[str]:
    """Its words in order, without case and punctuation."""
    return _TOKEN.findall(text.casefold())


def edit_distance(first: Sequence[str], second: Sequence[str]) -> int:
    """The least number of insertions, deletions and substitutions of tokens (Levenshtein 1966)."""
    previous = list(range(len(second) + 1))
    for row, token in enumerate(first, start=1):
        current = [row]
        for column, other in enumerate(second, start=1):
            current.append(min(previous[column] + 1, current[-1] + 1, previous[column - 1] + (token != other)))
        previous = current
    return previous[-1]


def near_duplicates(
    first: Sequence[str], second: Sequence[str], threshold: float = 0.5
) -> Iterator[tuple[int, int, float]]:
    """Every (i, j, similarity) of first[i] and second[j] whose token Jaccard similarity |A ∩ B| / |A ∪ B| is at least threshold.

    Texts without any token are alike only when they are equal. Jaccard 1901, as in the deduplication of training sets
    (Lee et al. 2022, arXiv:2107.06499).
    """
    ours, theirs = ([set(tokens_of(text)) or {f"\0{text}"} for text in texts] for texts in (first, second))
    vocabulary = {token: number for number, token in enumerate(sorted(set().union(*ours, *theirs)))}

    def incidence(sets: Sequence[set[str]]) -> csr_array:
        columns = [vocabulary[token] for tokens in sets for token in tokens]
        ends = np.cumsum([0, *(len(tokens) for tokens in sets)])
        return csr_array((np.ones(len(columns), np.int32), columns, ends), shape=(len(sets), len(vocabulary)))

    left, right = incidence(ours), incidence(theirs)
    sizes = right.sum(axis=1)
    for start in range(0, len(first), _BLOCK):
        block = left[start : start + _BLOCK]
        common = (block @ right.T).toarray()
        similarity = common / (block.sum(axis=1)[:, None] + sizes[None, :] - common)
        for i, j in np.argwhere(similarity >= threshold - 1e-12):  # 3/5 is not below 0.6
            yield start + int(i), int(j), float(similarity[i, j])


def clusters(texts: Sequence[str], threshold: float = 0.5) -> list[list[int]]:
    """Indices of texts joined by chains of near-duplicates, largest cluster first; a text like no other is one alone."""
    edges = [(i, j) for i, j, _ in near_duplicates(texts, texts, threshold)]
    rows, columns = zip(*edges, strict=True) if edges else ((), ())
    graph = coo_array(([True] * len(edges), (rows, columns)), shape=(len(texts), len(texts)))
    members: dict[int, list[int]] = {}
    for index, label in enumerate(connected_components(graph, directed=False)[1]):
        members.setdefault(int(label), []).append(index)
    return sorted(members.values(), key=lambda found: (-len(found), found))
