"""The date that a server's chat templates are told: one for as long as it runs, as `--date` says."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from surgery.model.chat import Clock

_told: list[str] = []


@contextmanager
def telling(date: str) -> Iterator[None]:
    """While it lasts, every chat that this process renders sees one date, whoever renders it and whatever a request says.

    Set on the class, for vLLM renders with copies of its tokenizer. Its engine processes render nothing.
    Raises: ModelError when it is no date.
    """
    from transformers import PreTrainedTokenizerBase

    clock, tokenizers = Clock(date), cast(Any, PreTrainedTokenizerBase)
    original = tokenizers.apply_chat_template
    tokenizers.apply_chat_template = _telling(original, clock)
    _told[:] = [clock.date]
    try:
        yield
    finally:
        tokenizers.apply_chat_template = original
        _told.clear()


def told() -> str | None:
    """The date that this process tells templates; None where each is told today's."""
    return next(iter(_told), None)


def _telling(original: Any, clock: Clock) -> Any:
    @functools.wraps(original)
    def apply_chat_template(self: Any, *args: Any, **kwargs: Any) -> Any:
        return original(self, *args, **{**kwargs, "strftime_now": clock})

    return apply_chat_template
