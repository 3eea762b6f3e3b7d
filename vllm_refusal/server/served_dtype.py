"""The dtype of a server whose user gives none."""

from collections.abc import Sequence

from surgery.console.errors import RefusalError
from surgery.model.dtypes import said_engine_dtype
from surgery.model.models import describe_model

_CHOICES = ("--dtype", "--quantization", "-q", "--config")
"""Flags of vLLM's that choose a dtype, or may."""


def dtype_flags(model: str, revision: str | None, flags: Sequence[str]) -> list[str]:
    """--dtype as our own engines choose and tell it; nothing where vLLM is to choose, or the user's flags do.

    Of a model that is none of ours (a GGUF file, an architecture without a config.json) vLLM says what is wrong, if anything.
    """
    import torch

    if torch.cuda.is_available() or any(flag.partition("=")[0] in _CHOICES for flag in flags):
        return []
    try:
        dtype = said_engine_dtype(describe_model(model, revision), "auto")
    except RefusalError:
        return []
    return [] if dtype == "auto" else ["--dtype", dtype]
