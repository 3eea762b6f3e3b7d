"""What every conversion writes beside the weights, and how its folder is known: the record `conversion.json`."""

import json
import shutil
from pathlib import Path
from typing import Any

from surgery.console.errors import DiskError
from surgery.weights.manifest import FILE as EDIT_FILE

FILE = "conversion.json"
KIND = "converted_checkpoint"
FORMAT_VERSION = 1
WORDS = "a converted checkpoint"
_SPARE_BYTES = 64 << 20  # for the tokenizer and the file system's own records


def is_converted(folder: Path) -> bool:
    """Whether a folder holds a converted checkpoint; one that was edited since is no longer one."""
    return (folder / FILE).is_file() and not (folder / EDIT_FILE).is_file()


def check_space(out_dir: Path, folder: Path, n_bytes: int) -> None:
    """Raises: DiskError when the disk of `folder` has no room for so many bytes of weights and what goes with them."""
    needed, free = n_bytes + _SPARE_BYTES, shutil.disk_usage(folder).free
    if needed > free:
        raise DiskError(f"{out_dir}: needs {needed / 1e9:.2f} GB but {free / 1e9:.2f} GB are free; choose another disk")


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write one JSON file of the folder."""
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
