"""The end-of-instruction tokens: what the chat template puts after the user's text."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from surgery.console.errors import ModelError, PositionError
from surgery.model.chat import chat_template, prompt_token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Contents that share no first and no last character, so that what their renderings share is the template's.
_PROBES = ("a b", "Q?", "7!", "z.", "mx")


def end_of_instruction(tokenizer: "PreTrainedTokenizerBase", options: Mapping[str, Any] | None = None) -> list[int]:
    """Token ids between the user's text and the answer: the ones that every rendered prompt ends with.

    Found by rendering short messages and taking the tokens that all of them end with. Arditi et al. 2024
    (arXiv:2406.11717, section 2.3) read the stream at each of these: the model has seen the whole instruction there.
    Returns: at least one id; position -1 is the last.
    Raises: ModelError when the rendered prompts share no last token.
    """
    rendered = [prompt_token_ids(tokenizer, probe, **(options or {})) for probe in _PROBES]
    n_shared = 0
    while n_shared < min(map(len, rendered)) and len({ids[-1 - n_shared] for ids in rendered}) == 1:
        n_shared += 1
    if not n_shared:
        raise ModelError(f"{tokenizer.name_or_path}: its chat template puts nothing between the prompt and the answer")
    return rendered[0][-n_shared:]


def parse_positions(spec: str, n_positions: int) -> tuple[int, ...]:
    """Read token positions: "all", or negative numbers joined by commas ("-3,-1").

    Args:
        n_positions: number of end-of-instruction tokens.
    Returns: ascending, each once; -1 is the last prompt token.
    Raises: PositionError.
    """
    if spec.strip() == "all":
        return tuple(range(-n_positions, 0))
    try:
        positions = sorted({int(part) for part in spec.split(",")})
    except ValueError as err:
        raise PositionError(f"positions {spec!r} cannot be read; use all, -1 or -3,-1") from err
    outside = [position for position in positions if not -n_positions <= position < 0]
    if outside:
        raise PositionError(
            f"position {outside[0]} is outside the chat template's {n_positions} end-of-instruction tokens, "
            f"-{n_positions}..-1"
        )
    return tuple(positions)


def check_endings(prompts: Sequence[tuple[str, Sequence[int]]], ending: Sequence[int]) -> None:
    """Check that every prompt ends with the end-of-instruction tokens, so that a position is the same token in all.

    Args:
        prompts: (name for messages, token ids).
    Raises: PositionError naming the first that does not.
    """
    for name, ids in prompts:
        if list(ids[-len(ending) :]) != list(ending):
            raise PositionError(
                f"prompt {name} does not end with the chat template's {len(ending)} end-of-instruction tokens (its last "
                "characters merge with them); change its ending, or read only the last position"
            )


def check_template_options(tokenizer: "PreTrainedTokenizerBase", options: Mapping[str, Any]) -> None:
    """Refuse an option that the chat template never mentions, which it would ignore without a word.

    Raises: ModelError naming the option.
    """
    text = chat_template(tokenizer)
    for name in options:
        if not re.search(rf"\b{re.escape(name)}\b", text):
            raise ModelError(
                f"{tokenizer.name_or_path}: its chat template knows no option {name!r} and would ignore it"
            )
