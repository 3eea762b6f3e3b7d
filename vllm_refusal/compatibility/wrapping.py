"""Wraps functions of vLLM's, each named by its place in the table of surfaces."""

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

from vllm_refusal.compatibility.surfaces import NAMES, SIGNATURES


def wrap(place: str, wrapper: Callable[[Any], Any]) -> None:
    """Put `wrapper(original)` in the place of a function; a class method stays one."""
    owner, name = owner_of(place)
    original = inspect.getattr_static(owner, name)
    if isinstance(original, classmethod):
        setattr(owner, name, classmethod(wrapper(original.__func__)))
    else:
        setattr(owner, name, wrapper(original))


def owner_of(place: str) -> tuple[Any, str]:
    """The module or class that has a function of the table, imported, and the function's name there."""
    module, _, path = place.partition(":")
    assert place in SIGNATURES or path in NAMES[f"{module}:"].split(), place  # what is wrapped has been checked
    *parents, name = path.split(".")
    owner: Any = import_module(module)
    for parent in parents:
        owner = getattr(owner, parent)
    return owner, name
