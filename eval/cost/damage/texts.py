"""Held-out running text, cut into windows of equal length."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from surgery.console.errors import RefusalError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BUILT_IN = Path(__file__).parent / "held_out.jsonl"


class TextError(RefusalError):
    """A text cannot be read, or is too short to measure on."""


@dataclass(frozen=True)
class Window:
    """A stretch of text that is scored on its own.

    Attributes:
        id: unique among the windows.
        token_ids: [n], begins with the tokenizer's BOS where it has one; each token but the first is scored.
    """

    id: str
    token_ids: list[int]

    @property
    def n_scored(self) -> int:
        """Tokens with a probability: those that have others before them."""
        return len(self.token_ids) - 1


def load_documents(path: Path | str) -> list[str]:
    """The documents of a file: of JSON lines the field "text", of any other file the whole.

    Raises: TextError when the file cannot be read, or a line has no text.
    """
    path = Path(path)
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise TextError(f"{path}: cannot be read as UTF-8 text ({err})") from err
    if path.suffix != ".jsonl":
        documents = [content]
    else:
        lines = enumerate(content.split("\n"), start=1)
        documents = [_text_of(path, number, line) for number, line in lines if line.strip()]
    kept = [text.strip() for text in documents if text.strip()]
    if not kept:
        raise TextError(f'{path}: holds no text; expected plain text, or JSON lines with a field "text"')
    return kept


def cut_windows(tokenizer: "PreTrainedTokenizerBase", documents: Sequence[str], length: int) -> list[Window]:
    """Cut the documents, joined by blank lines, into windows that do not overlap.

    Windows of equal length make tokens and windows weigh alike, so that the mean over windows is the mean over tokens.
    A rest that fills no window is left out. Each window begins with BOS where the tokenizer has one: as a document
    would, and so that its first own token is scored too.

    Args:
        length: tokens of a window, BOS included, at least 2.
    Raises: TextError when the text fills no window.
    """
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    token_ids = tokenizer("\n\n".join(documents), add_special_tokens=False, verbose=False)["input_ids"]
    step = length - len(start)
    pieces = [token_ids[at : at + step] for at in range(0, len(token_ids) - step + 1, step)]
    if not pieces:
        raise TextError(
            f"the text has {len(token_ids)} tokens and fills no window of {length}; give a longer text (--text) or a "
            "shorter window (--window)"
        )
    return [Window(f"w{index}", start + list(piece)) for index, piece in enumerate(pieces)]


def _text_of(path: Path, number: int, line: str) -> str:
    try:
        text = json.loads(line)["text"]
    except (ValueError, TypeError, KeyError) as err:
        raise TextError(f'{path}, line {number}: expected a JSON object with a field "text"') from err
    if not isinstance(text, str):
        raise TextError(f'{path}, line {number}: "text" must be a string, found {type(text).__name__}')
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise TextError(
            f'{path}, line {number}: "text" holds half of a surrogate pair, which no tokenizer takes; mend it'
        )
    return text
