"""A tiktoken vocabulary (base64 token and rank, one a line) as a byte-level BPE tokenizer with the same ids."""

import base64
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers.convert_slow_tokenizer import bytes_to_unicode

from surgery.console.errors import ModelError

FILE = "qwen.tiktoken"
END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# Ids follow the vocabulary's ranks in this order (published tokenization_qwen.py).
SPECIAL_TOKENS = (END_OF_TEXT, IM_START, IM_END, *(f"<|extra_{number}|>" for number in range(205)))
# How text is cut into pieces before tokens are merged within each (published tokenization_qwen.py).
PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by rank, which is their id and the order in which they are merged.

    Attributes:
        ranks: token bytes -> rank; ranks are 0 … n - 1.
    """

    ranks: dict[bytes, int]

    def id_of(self, special: str) -> int:
        """Id of a special token."""
        return len(self.ranks) + SPECIAL_TOKENS.index(special)

    @property
    def n_tokens(self) -> int:
        """Tokens of both kinds."""
        return len(self.ranks) + len(SPECIAL_TOKENS)


def load_vocabulary(path: Path) -> Vocabulary:
    """Read a tiktoken file.

    Raises: ModelError: no such file, a line that is not a token and its rank, ranks that are not 0 … n - 1, a token
        that is there twice, a byte that is no token.
    """
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError as err:
        raise ModelError(f"{path.parent}: has no {path.name}; expected a complete Qwen v1 model folder") from err
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        token, rank = _parsed(path, number, line)
        if rank != len(ranks) or token in ranks:
            raise ModelError(f"{path}, line {number}: expected a new token of rank {len(ranks)}, found rank {rank}")
        ranks[token] = rank
    absent = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if absent:
        raise ModelError(f"{path}: byte 0x{absent[0]:02x} is no token; the file is cut short, download it again")
    return Vocabulary(ranks)


def recover_merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The pair that each token of more than one byte is merged from, in order of rank.

    tiktoken merges whichever adjacent pair forms the token of lowest rank, a BPE model only the pairs it lists. They
    agree when the list holds, for each token, the two parts that merging its own bytes comes to: inside a longer piece
    the bytes of that token go through the same merges in the same order, for the choice is always the lowest rank and no
    merge across its ends is ever undone.

    Raises: ModelError for a token that merging never reaches: tiktoken takes it for a whole piece, a BPE model does not.
    """
    parts = {token: merge_bytes(token, ranks) for token in ranks if len(token) > 1}
    unreached = [ranks[token] for token, pair in parts.items() if len(pair) != 2]
    if unreached:
        raise ModelError(
            f"{FILE}: {len(unreached)} tokens are not made by merging others, e.g. rank {unreached[0]}; no Qwen v1 release "
            "has such a vocabulary, and a tokenizer.json of it would give other ids"
        )
    return [(pair[0], pair[1]) for pair in parts.values()]


def merge_bytes(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """A token's bytes merged, lowest rank and then leftmost first, until two parts are left or no two form a token."""
    parts = [token[at : at + 1] for at in range(len(token))]
    none = len(ranks)
    while len(parts) > 2:
        found = [ranks.get(left + right, none) for left, right in pairwise(parts)]
        best = min(found)
        if best == none:
            break
        at = found.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def build_tokenizer(vocabulary: Vocabulary, merges: list[tuple[bytes, bytes]]) -> Tokenizer:
    """The same tokenizer in the `tokenizers` library: NFC, `PIECES`, byte-level BPE, special tokens after the ranks.

    Args:
        merges: `recover_merges` of the vocabulary.
    """
    letters = bytes_to_unicode()  # the printable characters that stand for bytes (Radford et al. 2019, GPT-2)
    names = {token: "".join(letters[byte] for byte in token) for token in vocabulary.ranks}
    pairs = [(names[left], names[right]) for left, right in merges]
    vocab = {name: vocabulary.ranks[token] for token, name in names.items()}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=pairs))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL_TOKENS])
    return tokenizer


def _parsed(path: Path, number: int, line: bytes) -> tuple[bytes, int]:
    try:
        token, rank = line.split()
        return base64.b64decode(token, validate=True), int(rank)
    except ValueError as err:
        raise ModelError(f"{path}, line {number}: expected a token in base64 and its rank; download it again") from err
