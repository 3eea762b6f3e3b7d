"""The command-line form of a module: `NAME=FILE[,alpha=A][,layers=L][,source_layer=N][,site=S]`."""

from typing import Any

from surgery.ablation import check_alpha
from surgery.errors import RefusalError

_KEYS = ("alpha", "layers", "source_layer", "source_layers", "site", "allow_other_model")


class OptionError(RefusalError):
    """An --ablation option cannot be read."""


def parse_ablation_option(text: str) -> tuple[str, dict[str, Any]]:
    """Read one --ablation option.

    Layer lists may hold commas: in "x=f.safetensors,layers=3,5,7-9,alpha=1.5" the parts without "=" belong to the key
    before them.
    Returns: (name, settings of the module as in additional_config["ablation"]["modules"]).
    Raises: OptionError, AlphaError.
    """
    name, equals, rest = text.partition("=")
    if not (name.strip() and equals and rest.strip()):
        raise OptionError(f"--ablation {text!r}: expected NAME=FILE[,alpha=A,layers=L,source_layer=N,site=S]")
    path, *parts = rest.split(",")
    settings: dict[str, Any] = {"path": path}
    for key, value in _grouped(text, parts):
        settings[key] = _typed(text, key, value)
    return name.strip(), settings


def _grouped(text: str, parts: list[str]) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for part in parts:
        key, equals, value = part.partition("=")
        if equals:
            pairs.append((key.strip(), value.strip()))
        elif pairs:
            pairs[-1] = (pairs[-1][0], f"{pairs[-1][1]},{part.strip()}")
        else:
            raise OptionError(f"--ablation {text!r}: cannot read {part!r}; known keys: {', '.join(_KEYS)}")
    for key, _ in pairs:
        if key not in _KEYS:
            raise OptionError(f"--ablation {text!r}: unknown key {key!r}; known: {', '.join(_KEYS)}")
    return pairs


def _typed(text: str, key: str, value: str) -> Any:
    if key == "alpha":
        try:
            return check_alpha(float(value))
        except ValueError as err:
            raise OptionError(f"--ablation {text!r}: alpha must be a number, found {value!r}") from err
    if key == "allow_other_model":
        return value.lower() in ("1", "true", "yes")
    return value
