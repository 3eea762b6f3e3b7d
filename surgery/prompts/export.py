"""The built-in sets as files in the roles that `extract`, `generate` and `sweep` give them."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from surgery.files.folders import replacing_folder
from surgery.prompts.loading import load_pairs, load_prompts
from surgery.prompts.prompt_set import PromptSet

PAIRS, HARMFUL_PROMPTS, SAFE_PROMPTS, HARMLESS = "pairs.jsonl", "prompts.jsonl", "safe_prompts.jsonl", "harmless.jsonl"


def export_builtin(folder: Path | str, force: bool = False) -> dict[str, int]:
    """Write pairs.jsonl (extraction split), prompts.jsonl and safe_prompts.jsonl (evaluation split), harmless.jsonl (all).

    Returns: file name -> rows.
    Raises: OutputExistsError, ArtifactError, DiskError.
    """
    sets: dict[str, PromptSet[Any]] = {
        PAIRS: load_pairs("builtin:extraction"),
        HARMFUL_PROMPTS: load_prompts("builtin:evaluation", "harmful"),
        SAFE_PROMPTS: load_prompts("builtin:evaluation", "safe"),
        HARMLESS: load_prompts("builtin:harmless:all"),
    }
    with replacing_folder(folder, force, kind="a folder of exported prompts", is_kind=_is_export) as part:
        for name, items in sets.items():
            (part / name).write_text("".join(json.dumps(asdict(item)) + "\n" for item in items), encoding="utf-8")
    return {name: len(items) for name, items in sets.items()}


def _is_export(folder: Path) -> bool:
    return {path.name for path in folder.iterdir()} == {PAIRS, HARMFUL_PROMPTS, SAFE_PROMPTS, HARMLESS}
