"""Prompts and matched prompt pairs, read from JSONL."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from surgery.artifacts import json_sha256
from surgery.errors import PromptFileError


@dataclass(frozen=True)
class Pair:
    """A harmful prompt and its minimally edited safe counterpart."""

    id: str
    harmful: str
    safe: str
    category: str = ""
    tier: int | None = None


@dataclass(frozen=True)
class Prompt:
    """One prompt to be answered."""

    id: str
    prompt: str
    category: str = ""
    tier: int | None = None


def load_pairs(path: Path | str) -> list[Pair]:
    """Read pairs, one JSON object a line: {"id", "harmful", "safe", "category", "tier"}; the last two are optional.

    Raises: PromptFileError naming the line: not JSON, a key missing or not text, an id used twice; or the file is empty.
    """
    return _load(path, ("harmful", "safe"), Pair)


def load_prompts(path: Path | str) -> list[Prompt]:
    """Read prompts, one JSON object a line: {"id", "prompt", "category", "tier"}; the last two are optional.

    Raises: PromptFileError, as `load_pairs`.
    """
    return _load(path, ("prompt",), Prompt)


def prompts_sha256(prompts: Sequence[Pair | Prompt]) -> str:
    """Content hash of a prompt set: independent of formatting, dependent on order, ids and tags."""
    return json_sha256([asdict(prompt) for prompt in prompts])


def _load(path: Path | str, texts: tuple[str, ...], kind: type) -> list[Any]:
    rows, seen = [], {}
    for number, record in _records(Path(path)):
        where = f"{path}, line {number}"
        for key in texts:
            if not isinstance(record.get(key), str) or not record[key].strip():
                raise PromptFileError(f"{where}: expected a non-empty text under {key!r}, found {record.get(key)!r}")
        name = str(record.get("id", number))
        if name in seen:
            raise PromptFileError(f"{where}: id {name!r} is already used on line {seen[name]}; ids must be unique")
        seen[name] = number
        tags = {"category": _category(record, where), "tier": _tier(record, where)}
        rows.append(kind(id=name, **{key: record[key] for key in texts}, **tags))
    if not rows:
        raise PromptFileError(f"{path}: no prompts; expected one JSON object a line with {' and '.join(texts)}")
    return rows


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # splitlines would cut at U+2028 inside a prompt
    except FileNotFoundError as err:
        raise PromptFileError(f"{path}: no such file; expected prompts as JSONL") from err
    except IsADirectoryError as err:
        raise PromptFileError(f"{path}: is a folder; expected a JSONL file of prompts") from err
    except UnicodeDecodeError as err:
        line = err.object.count(b"\n", 0, err.start) + 1
        raise PromptFileError(
            f"{path}, line {line}: not UTF-8 text (byte {err.start} of the file); save it as UTF-8"
        ) from err
    except OSError as err:
        raise PromptFileError(f"{path}: cannot be read ({err.strerror})") from err
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as err:
            raise PromptFileError(f"{path}, line {number}: not JSON ({err.msg} at column {err.colno})") from err
        if not isinstance(record, dict):
            raise PromptFileError(f"{path}, line {number}: expected a JSON object, found {type(record).__name__}")
        yield number, record


def _category(record: dict[str, Any], where: str) -> str:
    category = record.get("category") or ""
    if not isinstance(category, str):
        raise PromptFileError(f"{where}: category must be text, found {category!r}")
    return category


def _tier(record: dict[str, Any], where: str) -> int | None:
    tier = record.get("tier")
    if tier is not None and (isinstance(tier, bool) or not isinstance(tier, int)):
        raise PromptFileError(f"{where}: tier must be a whole number, found {tier!r}")
    return tier
