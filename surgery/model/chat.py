"""A user's prompt as the token ids a chat server would feed to the model."""

import datetime
import hashlib
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from surgery.console.errors import ModelError

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
    _clock(tokenizer)
    messages = [{"role": "user", "content": prompt}]
    try:
        rendered = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **template_kwargs
        )
    except TemplateError as err:
        raise ModelError(f"{tokenizer.name_or_path}: its chat template rejects a single user message ({err})") from err
    return cast("str", rendered)


def prompt_token_ids(tokenizer: "PreTrainedTokenizerBase", prompt: str, **template_kwargs: Any) -> list[int]:
    """Token ids of one rendered user message; the last is the position refusal vectors are read at.

    The text is tokenized without special tokens, for the template holds them already: as vLLM's chat endpoint does.
    Raises: ModelError, as `render_prompt`.
    """
    text = render_prompt(tokenizer, prompt, **template_kwargs)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


class Clock:
    """What a chat template is told of the present: midnight of one day, whenever it asks."""

    def __init__(self, date: str):
        """Args: date: YYYY-MM-DD. Raises: ModelError when it is none."""
        self.date, self.n_asked = check_date(date), 0

    def __call__(self, format: str) -> str:
        self.n_asked += 1
        return datetime.datetime.fromisoformat(self.date).strftime(format)


def today() -> str:
    """The date here and now, YYYY-MM-DD."""
    return datetime.date.today().isoformat()


def check_date(date: str) -> str:
    """The same date. Raises: ModelError when it is not written YYYY-MM-DD."""
    try:
        if datetime.date.fromisoformat(date).isoformat() == date:
            return date
    except ValueError:
        pass
    raise ModelError(f"expected a date as YYYY-MM-DD, found {date!r}")


def pin_date(tokenizer: "PreTrainedTokenizerBase", date: str | None = None) -> None:
    """Have every chat rendered with this tokenizer, by whomever, see one date.

    Templates such as Llama 3.2's put `strftime_now` into every prompt, so that the tokens are others on the next day.

    Args:
        date: YYYY-MM-DD; None for today's.
    Raises: ModelError when it is no date.
    """
    pinned: Any = tokenizer
    pinned.clock = Clock(date or today())
    pinned.apply_chat_template = partial(type(tokenizer).apply_chat_template, tokenizer, strftime_now=pinned.clock)


def template_date(tokenizer: "PreTrainedTokenizerBase", options: Mapping[str, Any] | None = None) -> str | None:
    """The date that a rendered prompt depends on; None where the chat template does not ask for it.

    Args:
        options: of the template.
    Raises: ModelError, as `render_prompt`.
    """
    clock = _clock(tokenizer)
    n_before = clock.n_asked
    render_prompt(tokenizer, "Hi", **(options or {}))
    return clock.date if clock.n_asked > n_before else None


def _clock(tokenizer: "PreTrainedTokenizerBase") -> Clock:
    if "clock" not in vars(tokenizer):
        pin_date(tokenizer)
    return tokenizer.clock


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
