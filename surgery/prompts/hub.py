"""Prompt tables of Hugging Face datasets: which files hold a split, fetched by huggingface_hub or found in its cache."""

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from surgery.artifacts import shortened
from surgery.errors import PromptFileError

PREFIX = "hf:"
_SOURCE = re.compile(
    r"hf:(?P<id>[^:@\[]+)(?:@(?P<revision>[^:\[]+))?(?P<names>(?::[^:\[]+){0,2})(?:\[(?P<rows>[^\[\]]*)\])?"
)
_ROWS = re.compile(r"(-?\d+%?)?:(-?\d+%?)?")
_FORMATS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
_NOT_TABLES = ("dataset_infos.json", "dataset_dict.json", "state.json")
_SHARD = re.compile(r"-\d{5}-of-\d{5}(-[0-9a-f]+)?$")
_NUMBERED = re.compile(r"(.*)-\d{5}-of-(\d{5})(\.\w+)")
_ROLES = {"harmful": ("harmful", "unsafe"), "safe": ("benign", "harmless", "safe")}
Splits = dict[str, list[str]]


@dataclass(frozen=True)
class Split:
    """The files of one split, in this machine's cache, and which of its rows are meant: "" or "START:STOP"."""

    paths: tuple[Path, ...]
    revision: str
    rows: str = ""


def is_dataset(source: str) -> bool:
    """Whether a source names a Hugging Face dataset."""
    return source.startswith(PREFIX)


def find_split(source: str, role: str | None = None) -> Split:
    """Find the files of the split that a source names, downloading what is not in the cache.

    Args:
        source: "hf:ORG/NAME[@REVISION][:CONFIG][:SPLIT]"; a single name may be either; then "[START:STOP]".
        role: where the split is left open and there are several, "harmful" takes the one called harmful or unsafe,
            "safe" the one called benign, harmless or safe.
    Raises: PromptFileError: no such dataset, no access, offline and not in the cache, no tables, split left open.
    """
    match = _SOURCE.fullmatch(source)
    if match is None:
        raise PromptFileError(
            f"{source}: expected hf:ORG/NAME, then @REVISION, :CONFIG and :SPLIT where needed, and [START:STOP] of its rows"
        )
    if match["rows"] is not None and not _ROWS.fullmatch(match["rows"]):
        raise PromptFileError(
            f"{source}: expected rows as [START:STOP], e.g. train[:400] or train[80%:], found [{match['rows']}]"
        )
    dataset, revision = match["id"], match["revision"]
    folder = _snapshot(dataset, revision, ["README.md"])
    names = [name for name in match["names"].split(":") if name]
    configs = _configs(folder, _tables(dataset, folder))
    files = _choose_split(source, *_choose_config(source, configs, names), role)
    _snapshot(dataset, folder.name, files)
    missing = [name for name in files if not (folder / name).is_file()] + _missing_shards(files)
    if missing:
        raise PromptFileError(
            f"{source}: not in the cache: {shortened(missing)}, and {_why_offline()}; download it first"
        )
    return Split(tuple(folder / name for name in files), folder.name, match["rows"] or "")


def row_range(source: str, rows: str, n_rows: int) -> range:
    """Which rows of a split "START:STOP" means, as in the datasets library: from 0, or the end, or per cent of them.

    Raises: PromptFileError for bounds outside the split, or none between them.
    """
    bounds = []
    for text, default in zip(rows.split(":") if rows else ("", ""), (0, n_rows), strict=True):
        bound = int(text.rstrip("%")) if text else default
        bound = n_rows * bound / 100 if text.endswith("%") else bound
        bounds.append(bound + n_rows if text.startswith("-") else bound)
    if not all(0 <= bound <= n_rows for bound in bounds):
        raise PromptFileError(f"{source}: expected bounds within its {n_rows} rows, found [{rows}]")
    taken = range(*map(round, bounds))
    if rows and not taken:
        raise PromptFileError(f"{source}: [{rows}] takes none of its {n_rows} rows")
    return taken


def _choose_config(source: str, configs: dict[str, Splits], names: list[str]) -> tuple[Splits, list[str]]:
    """The configuration's splits, and the name of a split where one is left."""
    if not configs:
        raise PromptFileError(f"{source}: has no CSV, JSON or Parquet files{_of_the_cache()}")
    if names and names[0] in configs:
        return configs[names[0]], names[1:]
    holding = [config for config, splits in configs.items() if names and names[-1] in splits]
    candidates = holding if len(names) == 1 and holding else list(configs) if len(names) < 2 else []
    if len(candidates) == 1:
        return configs[candidates[0]], names
    if not names and "default" in configs:
        return configs["default"], names
    said = "; ".join(f"{config}: {', '.join(splits)}" for config, splits in sorted(configs.items()))
    raise PromptFileError(
        f"{source}: expected one of its configurations and splits{_of_the_cache()}, as hf:ORG/NAME:CONFIG:SPLIT ({said})"
    )


def _choose_split(source: str, splits: Splits, names: list[str], role: str | None) -> list[str]:
    preferred = names or [name for name in _ROLES.get(role or "", ()) if name in splits]
    if preferred and preferred[0] in splits:
        return splits[preferred[0]]
    if not names and len(splits) == 1:
        return next(iter(splits.values()))
    raise PromptFileError(
        f"{source}: expected one of its splits{_of_the_cache()}, {', '.join(sorted(splits))}; name it as …:SPLIT"
    )


def _missing_shards(files: Sequence[str]) -> list[str]:
    """Names of shards whose neighbours are there and they are not: what a broken-off download leaves."""
    found = set(files)
    whole = {
        f"{shard[1]}-{number:05d}-of-{shard[2]}{shard[3]}"
        for name in files
        if (shard := _NUMBERED.fullmatch(name))
        for number in range(int(shard[2]))
    }
    return sorted(whole - found)


def _configs(folder: Path, tables: Sequence[str]) -> dict[str, Splits]:
    """Configuration -> split -> files: what the dataset's card says, else by the names of the files."""
    from huggingface_hub import metadata_load

    card = folder / "README.md"
    declared = (metadata_load(card) or {}).get("configs") if card.is_file() else None
    if declared:
        configs = {str(config.get("config_name", "default")): _declared(config, tables) for config in declared}
        return {name: splits for name, splits in configs.items() if splits}
    configs = {}
    for name in tables:
        path = PurePosixPath(name)
        config = path.parts[0] if len(path.parts) > 1 and path.parts[0] != "data" else "default"
        configs.setdefault(config, {}).setdefault(_SHARD.sub("", path.stem), []).append(name)
    return configs


def _declared(config: dict[str, Any], tables: Sequence[str]) -> Splits:
    """Splits of one entry of a card's `configs`: data_files is a pattern, patterns, or {split, path} entries."""
    entries = config.get("data_files") or [{"split": "train", "path": f"{config.get('data_dir', '')}*"}]
    entries = entries if isinstance(entries, list) else [entries]
    splits: Splits = {}
    for entry in entries:
        split, patterns = (entry["split"], entry["path"]) if isinstance(entry, dict) else ("train", entry)
        for pattern in patterns if isinstance(patterns, list) else [patterns]:
            splits.setdefault(str(split), []).extend(n for n in fnmatch.filter(tables, pattern.removeprefix("./")))
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
