"""What every variant does where nothing should change, beside its scores: refusal damage's two measures."""

from typing import Any

from eval.cost.damage.measures import Damage
from eval.cost.damage.measuring import Baseline, Harmless, compare
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


def read_baseline(model: Any, harmless: Harmless) -> Baseline:
    """What the unedited model says.

    Args:
        model: of a backend, with `next_token_logprobs` and `text_logprobs`.
    """
    return Baseline(dict(model.next_token_logprobs(harmless.prompts)), _nats(model, harmless))


def measure_variant(name: str, model: Any, harmless: Harmless, baseline: Baseline) -> Damage:
    """What an edited model says against that. Raises: DamageError."""
    return compare(name, harmless, baseline, model.next_token_logprobs(harmless.prompts), _nats(model, harmless))


def _nats(model: Any, harmless: Harmless) -> dict[str, float]:
    """Mean negative log probability per token of each window."""
    texts = {window.id: window.token_ids for window in harmless.windows}
    return {key: -float(logprobs.mean()) for key, logprobs in model.text_logprobs(texts)}


def _as_text(tokenizer: Any, prompt: str) -> list[int]:
    return list(tokenizer(prompt)["input_ids"])
