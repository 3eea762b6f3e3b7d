"""A user's prompt as the token ids a chat server would feed to the model."""

import hashlib
from typing import TYPE_CHECKING, Any

from surgery.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def render_prompt(tokenizer: "PreTrainedTokenizerBase", prompt: str, **template_kwargs: Any) -> str:
    """The chat template applied to one user message, up to where the answer begins; no system message is added.

    Args:
        template_kwargs: options of the template, e.g. enable_thinking=False.
    Raises: ModelError when there is no template or it rejects the message.
    """
    from jinja2 import TemplateError

    chat_template(tokenizer)
    messages = [{"role": "user", "content": prompt}]
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **template_kwargs)
    except TemplateError as err:
        raise ModelError(f"{tokenizer.name_or_path}: its chat template rejects a single user message ({err})") from err


def prompt_token_ids(tokenizer: "PreTrainedTokenizerBase", prompt: str, **template_kwargs: Any) -> list[int]:
    """Token ids of one rendered user message; the last is the position refusal vectors are read at.

    The text is tokenized without special tokens, for the template holds them already: as vLLM's chat endpoint does.
    Raises: ModelError, as `render_prompt`.
    """
    text = render_prompt(tokenizer, prompt, **template_kwargs)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def chat_template(tokenizer: "PreTrainedTokenizerBase") -> str:
    """The tokenizer's chat template. Raises: ModelError when it has none."""
    try:
        return tokenizer.get_chat_template()
    except ValueError as err:
        raise ModelError(
            f"{tokenizer.name_or_path}: its tokenizer has no chat template; use the chat (instruct) version of the model"
        ) from err


def chat_template_sha256(tokenizer: "PreTrainedTokenizerBase") -> str:
    """sha256 of the chat template's text, hexadecimal. Raises: ModelError when there is none."""
    return hashlib.sha256(chat_template(tokenizer).encode()).hexdigest()
