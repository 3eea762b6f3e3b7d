"""config.json of a model folder, read as data: importing transformers for it costs seconds and 180 MiB."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgery.architecture.table import ARCHITECTURES
from surgery.console.errors import ModelError

FILE = "config.json"
_TIE = "tie_word_embeddings"


def read_config(folder: Path | str) -> dict[str, Any]:
    """A model folder's config.json.

    Raises: ModelError when it is not there, is no JSON object, or is Qwen v1's, which transformers no longer runs.
    """
    path = Path(folder) / FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as err:
        raise ModelError(f"{folder}: not a model folder (no {FILE})") from err
    except ValueError as err:
        raise ModelError(f"{path}: cannot be read as a model configuration ({err})") from err
    if not isinstance(config, dict):
        raise ModelError(f"{path}: cannot be read as a model configuration (expected a JSON object)")
    if config.get("model_type") == "qwen":
        raise ModelError(
            f"{folder}: is Qwen v1, which transformers no longer runs; refusal convert rewrites it as Qwen2"
        )
    return config


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's part of a configuration: `text_config` of a multimodal one, else all of it."""
    nested = config.get("text_config")
    return nested if isinstance(nested, dict) else config


def architecture_of(config: Mapping[str, Any]) -> str | None:
    """Class name of the model; None when the configuration names none."""
    names = config.get("architectures") or text_config(config).get("architectures")
    return names[0] if names else None


def says_tied(config: Mapping[str, Any]) -> bool | None:
    """Whether the unembedding is the embedding; None when only transformers knows the default of the model's class."""
    text = text_config(config)
    if _TIE in text:
        return bool(text[_TIE])
    entry = ARCHITECTURES.get(architecture_of(config) or "") if text is config else None
    return entry.tied_by_default if entry else None
