"""Which options of a command are chosen."""

from collections.abc import Mapping
from typing import Any

import click
from click.core import ParameterSource


def given(values: Mapping[str, Any], usual: Mapping[str, Any]) -> list[str]:
    """Which options are chosen: not as usual, or written on the command line all the same.

    Args:
        values: parameter -> value, in the command that runs.
        usual: parameter -> its default, of the options in question.
    """
    context = click.get_current_context(silent=True)

    def is_written(name: str) -> bool:
        source = context.get_parameter_source(name) if context else None
        return source not in (None, ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)

    def plain(value: Any) -> Any:
        return list(value) if isinstance(value, list | tuple) else value

    return [name for name, value in usual.items() if plain(values[name]) != plain(value) or is_written(name)]
