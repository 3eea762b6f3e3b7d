"""The command-line form of a module: `NAME=FILE[,alpha=A][,layers=L][,source_layer=N][,site=S]`."""

from collections.abc import Sequence
from typing import Any

from surgery.console.errors import RefusalError
from surgery.residual.operator import check_alpha

_KEYS = ("alpha", "layers", "source_layer", "source_layers", "site", "allow_other_model")

_TRUTH = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


class OptionError(RefusalError):
    """An --ablation option cannot be read."""


def parse_ablation_options(texts: Sequence[str], allow_other_model: bool = False) -> dict[str, dict[str, Any]]:
    """Read all --ablation options of a command: name -> settings, in their order.

    Args:
        allow_other_model: said of all of them (--allow-other-model).
    Raises: OptionError (also for a name given twice), AlphaError.
    """
    modules: dict[str, dict[str, Any]] = {}
    for name, settings in map(parse_ablation_option, texts):
        if name in modules:
            raise OptionError(f"--ablation: {name} is given twice; each name must be unique")
        modules[name] = settings | ({"allow_other_model": True} if allow_other_model else {})
    return modules


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
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        raise OptionError(f"--ablation {text!r}: a key is given twice; give each once")
    return pairs


def _typed(text: str, key: str, value: str) -> Any:
    if key == "alpha":
        try:
            return check_alpha(float(value))
        except ValueError as err:
            raise OptionError(f"--ablation {text!r}: alpha must be a number, found {value!r}") from err
    if key == "allow_other_model":
        if value.lower() not in _TRUTH:
            raise OptionError(f"--ablation {text!r}: allow_other_model must be true or false, found {value!r}")
        return _TRUTH[value.lower()]
    return value
