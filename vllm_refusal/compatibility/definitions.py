"""What a module of vLLM defines, read from its compiled code without running it: importing them all takes many seconds."""

import inspect
from collections.abc import Iterator
from functools import cache
from importlib.machinery import SourceFileLoader
from importlib.util import find_spec
from pathlib import Path
from types import CodeType


def find(place: str) -> CodeType | None:
    """The code of a module, class or function by its place ("module:Class.method"); None where there is none."""
    module, _, path = place.partition(":")
    code = _module(module)
    for name in path.split(".") if path else ():
        code = _nested(code, name) if code is not None else None
    return code


def parameters(code: CodeType) -> list[str]:
    """The names of a function's parameters in order, those of *args and **kwargs too."""
    n_variadic = bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
    return list(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + n_variadic])


def names(code: CodeType) -> set[str]:
    """Everything that code defines, reads or names in a string, in what is nested within it too."""
    found = {*code.co_names, *code.co_varnames}
    for constant in _flat(code.co_consts):
        if isinstance(constant, CodeType):
            found |= {constant.co_name, *names(constant)}
        elif isinstance(constant, str):  # the fields of classes, and what is asked for by getattr
            found.add(constant)
    return found


@cache
def _module(name: str) -> CodeType | None:
    package, *parts = name.split(".")
    spec = find_spec(package)
    for root in (spec.submodule_search_locations or ()) if spec is not None else ():
        for path in (Path(root, *parts, "__init__.py"), Path(root, *parts).with_suffix(".py")):
            if path.is_file():
                return SourceFileLoader(name, str(path)).get_code(name)
    return None


def _nested(code: CodeType, name: str) -> CodeType | None:
    found = [constant for constant in code.co_consts if isinstance(constant, CodeType) and constant.co_name == name]
    return found[-1] if found else None  # the last definition counts


def _flat(constants: tuple[object, ...]) -> Iterator[object]:
    for constant in constants:
        if isinstance(constant, tuple):
            yield from _flat(constant)
        else:
            yield constant
