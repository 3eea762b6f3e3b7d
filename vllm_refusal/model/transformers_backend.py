"""Models that vLLM runs by the code of transformers (OLMo 2, GPT-NeoX): their classes stay usable without vLLM."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def staying_usable_alone(model_class: Any) -> Iterator[None]:
    """While the context lasts vLLM may decorate a class of transformers; it can be built and run outside vLLM afterwards.

    vLLM decorates the class itself, for the life of the process: without this, a model of the same family that is loaded
    by transformers beside an engine, before or after it, could not be built or run any more.
    """
    original = model_class.__init__
    yield
    if model_class.__init__ is not original:  # decorated now, not by an engine before
        model_class.__init__ = _plain_outside_vllm(original, model_class.__init__)
        model_class.do_not_compile = True  # vLLM's own instances have an attribute of theirs


def _plain_outside_vllm(original: Any, decorated: Any) -> Any:
    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        from vllm.config import get_current_vllm_config_or_none

        init = original if get_current_vllm_config_or_none() is None else decorated
        init(self, *args, **kwargs)

    return __init__
