"""The harmless input on which every variant is measured beside its scores, as refusal damage does."""

from typing import Any

from eval.cost.damage.measuring import Harmless
from eval.cost.damage.texts import BUILT_IN, cut_windows, load_documents
from surgery.files.artifacts import json_sha256
from surgery.model.chat import prompt_token_ids
from surgery.model.models import ModelInfo, load_tokenizer
from surgery.prompts import load_prompts

PROMPTS = "builtin:harmless:all"
WINDOW = 64
"""Tokens of text scored at once: the built-in text then fills some twenty windows, enough for an interval."""


def make_harmless(info: ModelInfo, chat_template: bool, date: str | None, has_distributions: bool) -> Harmless:
    """The built-in harmless prompts, put as documents are, and the built-in running text.

    Args:
        date: that the chat template is told.
        has_distributions: False leaves the prompts out: the divergence cannot be had.
    Raises: ModelError without a chat template that is asked for, TextError.
    """
    tokenizer = load_tokenizer(info, date)
    prompts = [prompt.prompt for prompt in load_prompts(PROMPTS)] if has_distributions else []
    put = prompt_token_ids if chat_template else _as_text
    rendered = {f"p{index}": put(tokenizer, text) for index, text in enumerate(prompts)}
    return Harmless(rendered, cut_windows(tokenizer, load_documents(BUILT_IN), WINDOW))


def harmless_sha256(harmless: Harmless) -> str:
    """Of all token ids."""
    return json_sha256([harmless.prompts, [window.token_ids for window in harmless.windows]])


def _as_text(tokenizer: Any, prompt: str) -> list[int]:
    return list(tokenizer(prompt)["input_ids"])
