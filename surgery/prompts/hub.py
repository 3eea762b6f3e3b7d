"""Prompt tables of Hugging Face datasets: which files hold a split, fetched by huggingface_hub or found in its cache."""

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from surgery.console.errors import PromptFileError
from surgery.files.artifacts import shortened

PREFIX = "hf:"
ALL = "all"
_COLON = re.compile(r":(?![^\[]*\])")  # outside brackets, as the next
_PLUS = re.compile(r"\+(?![^\[]*\])")
_DATASET = re.compile(r"(?P<id>[^:@\[\]]+)(?:@(?P<revision>[^:\[\]]+))?(?P<within>\[.*\])?")
_BRACKETED = re.compile(r"(?P<config>[^\[\]]*)\[(?P<within>\s*[^\W\d].*)\]")
_PART = re.compile(r"\s*(?P<name>[^\[\]]*?)\s*(?:\[(?P<rows>[^\[\]]*)\])?\s*")
_BOUND = r"(-?\d[\d_]*%?)?"
_ROWS = re.compile(f"{_BOUND}:{_BOUND}")
_FORMATS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
_NOT_TABLES = ("dataset_infos.json", "dataset_dict.json", "state.json")
_SHARD = re.compile(r"-\d{5}-of-\d{5}(-[0-9a-f]+)?$")
_NUMBERED = re.compile(r"(.*)-\d{5}-of-(\d{5})(\.\w+)")
_ROLES = {"harmful": ("harmful", "unsafe"), "safe": ("benign", "harmless", "safe")}
_SPLIT_FOLDERS = ("train", "training", "test", "testing", "eval", "evaluation", "validation", "valid", "val", "dev")
Splits = dict[str, list[str]]


@dataclass(frozen=True)
class Part:
    """The files of one split, in this machine's cache, and which of its rows are meant: "" or "START:STOP"."""

    split: str
    paths: tuple[Path, ...]
    rows: str = ""


@dataclass(frozen=True)
class Found:
    """What a source means: parts of splits, one after another, in the files of one snapshot."""

    parts: tuple[Part, ...]
    folder: Path

    @property
    def revision(self) -> str:
        """The commit of the snapshot."""
        return self.folder.name

    @property
    def paths(self) -> dict[str, tuple[Path, ...]]:
        """Split -> its files."""
        return {part.split: part.paths for part in self.parts}


Wanted = tuple[str, str | None]


@dataclass(frozen=True)
class _Asked:
    """A source taken apart.

    Attributes:
        config: named in front of the splits, or None.
        either: (name, rows) that can be those of a configuration as well, or None.
        parts: (split, rows) of each part of a union, the only one's split "" where it is open; empty where the text
            reads as no splits.
    """

    dataset: str
    revision: str | None
    config: str | None
    either: Wanted | None
    parts: tuple[Wanted, ...]


@dataclass(frozen=True)
class _Configs:
    """Configuration -> split -> files, the one that is taken where none is named, and whether a card says all this."""

    splits: dict[str, Splits]
    default: str | None
    declared: bool


def is_dataset(source: str) -> bool:
    """Whether a source names a Hugging Face dataset."""
    return source.startswith(PREFIX)


def find_splits(source: str, role: str | None = None) -> Found:
    """Find the files of the splits that a source names, downloading what is not in the cache.

    Args:
        source: "hf:ORG/NAME[@REVISION][:CONFIG][:SPLIT]", where a single name may be either; then "[START:STOP]".
            SPLIT may be all that the datasets library takes, "train[:100]+test" or "all", and stand in brackets instead.
        role: where the split is left open and there are several, "harmful" takes the one called harmful or unsafe,
            "safe" the one called benign, harmless or safe.
    Raises: PromptFileError: no such dataset, no access, offline and not in the cache, no tables, split left open.
    """
    asked = _parse(source)
    folder = _snapshot(asked.dataset, asked.revision, ["README.md"])
    configs = _configs(folder, _tables(asked.dataset, folder))
    splits, wanted = _choose_config(source, configs, asked)
    chosen = [
        (name, rows or "")
        for split, rows in wanted
        for name in _choose_splits(source, splits, split, rows, role, configs.declared)
    ]
    files = sorted({file for name, _ in chosen for file in splits[name]})
    _snapshot(asked.dataset, folder.name, files)
    missing = [name for name in files if not (folder / name).is_file()] + _missing_shards(files)
    if missing:
        raise PromptFileError(
            f"{source}: not in the cache: {shortened(missing)}, and {_why_offline()}; download it first"
        )
    parts = [Part(name, tuple(folder / file for file in splits[name]), rows) for name, rows in chosen]
    return Found(tuple(parts), folder)


def row_range(source: str, rows: str, n_rows: int) -> range:
    """Which rows of a split "START:STOP" means, as in the datasets library: from 0, or the end, or per cent of them.

    Raises: PromptFileError for bounds outside the split, or none between them.
    """
    bounds = []
    for text, default in zip(rows.split(":") if rows else ("", ""), (0, n_rows), strict=True):
        bound = int(text.rstrip("%")) if text else default
        bound = round(n_rows * bound / 100) if text.endswith("%") else bound  # before it is counted from the end
        bounds.append(bound + n_rows if text.startswith("-") else bound)
    beyond = any(text.endswith("%") and abs(int(text[:-1])) > 100 for text in rows.split(":"))
    if beyond or not all(0 <= bound <= n_rows for bound in bounds):
        raise PromptFileError(f"{source}: expected bounds within its {n_rows} rows, found [{rows}]")
    taken = range(*bounds)
    if rows and not taken:
        raise PromptFileError(f"{source}: [{rows}] takes none of its {n_rows} rows")
    return taken


def _parse(source: str) -> _Asked:
    """Raises: PromptFileError for what is not of the form, or rows that are none."""
    head, *names = _COLON.split(source.removeprefix(PREFIX))
    dataset = _DATASET.fullmatch(head)
    if dataset is None or not all(names) or len(names) > 2 or (names and dataset["within"]):
        raise _malformed(source)
    *configs, text = names or [dataset["within"] or ""]
    bracketed = _BRACKETED.fullmatch(text)
    within = _parts(bracketed["within"]) if bracketed else ()
    either, parts = None, within or _parts(text)
    if bracketed and within:
        configs += [bracketed["config"]] if bracketed["config"] else []
    elif not configs and (alone := _PART.fullmatch(text)):
        either = alone["name"], alone["rows"]
    if len(configs) > 1 or not (parts or either):
        raise _malformed(source)
    for _, rows in [*parts, *([either] if either else [])]:
        _check_rows(source, rows)
    return _Asked(dataset["id"], dataset["revision"], configs[0] if configs else None, either, parts)


def _parts(text: str) -> tuple[Wanted, ...]:
    """(split, rows) of each part of "train[:100]+test"; none where this is not of that form."""
    parts = [_PART.fullmatch(part) for part in _PLUS.split(text)]
    found = tuple((part["name"], part["rows"]) for part in parts if part)
    return found if len(found) == len(parts) and (len(parts) == 1 or all(name for name, _ in found)) else ()


def _check_rows(source: str, rows: str | None) -> None:
    if rows is None:
        return
    if not _ROWS.fullmatch(rows):
        raise PromptFileError(
            f"{source}: expected rows as [START:STOP], e.g. train[:400] or train[80%:], found [{rows}]"
        )
    if len({bound.endswith("%") for bound in rows.split(":") if bound}) > 1:
        raise PromptFileError(f"{source}: expected both bounds in per cent or neither, found [{rows}]")


def _malformed(source: str) -> PromptFileError:
    return PromptFileError(
        f"{source}: expected hf:ORG/NAME, then @REVISION, :CONFIG and :SPLIT where needed, and [START:STOP] of its rows; "
        "several splits as train[:100]+test"
    )


def _choose_config(source: str, configs: _Configs, asked: _Asked) -> tuple[Splits, Sequence[Wanted]]:
    """The configuration's splits, and which of them are asked for."""
    every = configs.splits
    if not every:
        raise PromptFileError(f"{source}: has no CSV, JSON or Parquet files{_of_the_cache()}")
    if asked.config in every:
        return every[asked.config], asked.parts
    if asked.either and asked.either[0] in every:
        return every[asked.either[0]], [("", asked.either[1])]
    if not asked.parts:
        raise _malformed(source)
    if asked.config is None:
        names = {split for split, _ in asked.parts} - {"", ALL}
        holding = [config for config, splits in every.items() if names and names <= set(splits)]
        candidates = holding or list(every)
        if not names and configs.default in every:
            candidates = [configs.default]
        if len(candidates) == 1:
            return every[candidates[0]], asked.parts
    said = "; ".join(f"{config}: {', '.join(splits)}" for config, splits in sorted(every.items()))
    raise PromptFileError(
        f"{source}: expected one of its configurations and splits{_of_the_cache()}, as hf:ORG/NAME:CONFIG:SPLIT ({said})"
    )


def _choose_splits(
    source: str, splits: Splits, split: str, rows: str | None, role: str | None, declared: bool
) -> list[str]:
    preferred = [split] if split else list(_ROLES.get(role or "", ()))
    found = [name for name in preferred if name in splits]
    if found:
        return found[:1]
    if split == ALL and rows is None:
        return list(splits)
    only = next(iter(splits)) if len(splits) == 1 else ""
    if only and (not split or (split == "train" and not declared and _is_unmarked(only))):
        return [only]
    raise PromptFileError(
        f"{source}: expected one of its splits{_of_the_cache()}, {', '.join(sorted(splits))}; name it as …:SPLIT"
    )


def _is_unmarked(split: str) -> bool:
    """Whether the name of a table says nothing of a split: the datasets library then calls it train."""
    return not set(re.split(r"[\W_]+", split.lower())) & set(_SPLIT_FOLDERS)


def _missing_shards(files: Sequence[str]) -> list[str]:
    """Names of shards whose neighbours are there and they are not: what a broken-off download leaves."""
    shards = [shard.groups() for shard in map(_NUMBERED.fullmatch, files) if shard]
    whole = {f"{start}-{n:05d}-of-{of}{end}" for start, of, end in shards for n in range(int(of))}
    return sorted(whole - set(files))


def _configs(folder: Path, tables: Sequence[str]) -> _Configs:
    """What the dataset's card says, else the names of its files and folders."""
    from huggingface_hub import metadata_load

    card = folder / "README.md"
    declared = (metadata_load(card) or {}).get("configs") if card.is_file() else None
    if declared:
        named = {str(config.get("config_name", "default")): config for config in declared}
        configs = {name: splits for name, config in named.items() if (splits := _declared(config, tables))}
        marked = [name for name, config in named.items() if config.get("default") is True]
        return _Configs(configs, (marked or ["default"])[0], True)
    configs = {}
    for name in tables:
        config, split = _undeclared(PurePosixPath(name))
        configs.setdefault(config, {}).setdefault(split, []).append(name)
    return _Configs(configs, "default", False)


def _undeclared(path: PurePosixPath) -> tuple[str, str]:
    """(configuration, split) of a table: of its first folder, and of a folder with the name of a split or its own name."""
    folders = list(path.parts[:-1])
    config = folders.pop(0) if folders and folders[0] not in ("data", *_SPLIT_FOLDERS) else "default"
    split = next((name for name in folders if name in _SPLIT_FOLDERS), None)
    inner = folders[1:] if folders[:1] == ["data"] else folders
    return config, split or "/".join([*inner, _SHARD.sub("", path.stem)])


def _declared(config: dict[str, Any], tables: Sequence[str]) -> Splits:
    """Splits of one entry of a card's `configs`: data_files is a pattern, patterns, or {split, path} entries."""
    entries = config.get("data_files") or [{"split": "train", "path": f"{config.get('data_dir', '')}*"}]
    entries = entries if isinstance(entries, list) else [entries]
    splits: Splits = {}
    for entry in entries:
        split, patterns = (entry["split"], entry["path"]) if isinstance(entry, dict) else ("train", entry)
        for pattern in patterns if isinstance(patterns, list) else [patterns]:
            splits.setdefault(str(split), []).extend(fnmatch.filter(tables, pattern.removeprefix("./")))
    return {split: files for split, files in splits.items() if files}


def _tables(dataset: str, folder: Path) -> list[str]:
    """Names of all table files of the dataset; where it cannot be asked, of those in the cache."""
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub import errors as hub

    try:
        names = HfApi().list_repo_files(dataset, repo_type="dataset", revision=folder.name)
    except (hub.OfflineModeIsEnabled, hub.HfHubHTTPError, httpx.HTTPError):  # the cache then decides; a gap is an error
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return sorted(n for n in names if n.endswith(_FORMATS) and PurePosixPath(n).name not in _NOT_TABLES)


def _snapshot(dataset: str, revision: str | None, patterns: list[str]) -> Path:
    import httpx
    from huggingface_hub import errors as hub
    from huggingface_hub import snapshot_download

    at = f"{PREFIX}{dataset}" + (f" (revision {revision})" if revision else "")
    try:
        return Path(snapshot_download(dataset, repo_type="dataset", revision=revision, allow_patterns=patterns))
    except hub.HFValidationError as err:
        raise PromptFileError(f"{at}: not the id of a Hugging Face dataset; expected hf:ORG/NAME") from err
    except hub.GatedRepoError as err:
        raise PromptFileError(f"{at}: access is gated; accept its terms on huggingface.co and set HF_TOKEN") from err
    except hub.RevisionNotFoundError as err:
        raise PromptFileError(f"{PREFIX}{dataset}: has no revision {revision!r}") from err
    except hub.RepositoryNotFoundError as err:
        raise PromptFileError(f"{at}: no such public dataset on huggingface.co (private: set HF_TOKEN)") from err
    except (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled) as err:
        raise PromptFileError(
            f"{at}: not in the cache, and {_why_offline()}; give a file or download it first"
        ) from err
    except (hub.HfHubHTTPError, httpx.HTTPError, OSError) as err:
        raise PromptFileError(f"{at}: cannot be downloaded ({str(err).strip().splitlines()[0]})") from err


def _why_offline() -> str:
    from huggingface_hub import constants

    return "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "huggingface.co cannot be reached"


def _of_the_cache() -> str:
    from huggingface_hub import constants

    return " (of what is in the cache: HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else ""
