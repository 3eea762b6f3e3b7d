"""The date of a study: what chat templates that ask for it are told, the same in vectors, weights and runs."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from eval.plan.plan import Plan
from eval.records.run import Run
from surgery.console.errors import ArtifactError, MismatchError
from surgery.files.artifacts import read_header
from surgery.model.chat import template_date
from surgery.model.models import ModelInfo, load_tokenizer
from surgery.residual.subspace import KIND as SUBSPACE
from surgery.residual.vectors import KIND as VECTORS
from surgery.weights.manifest import ADAPTER_KIND, KIND, is_adapter, read_manifest


def study_date(info: ModelInfo, asked: str | None, made: Mapping[str, str], recorded: str | None) -> str | None:
    """The date that a run's prompts are rendered with; None where the model's chat template does not ask for it.

    Args:
        asked: by the user; otherwise it is `recorded`, else that of what was made before, else today's.
        made: what the run's conditions are made of -> its date.
        recorded: of the run that is gone on with.
    Raises: MismatchError when something was made with another date; ModelError, as `load_tokenizer`.
    """
    date = template_date(load_tokenizer(info, asked or recorded or next(iter(made.values()), None)))
    for name, other in made.items():
        if date is not None and other != date:
            raise MismatchError(
                f"{name} was made with the date {other} in its prompts, which {info.model}'s chat template asks for, but "
                f"this run has {date}; give --date {other}, or make it again"
            )
    return date


def made_on(plan: Plan, rvs: Path | None) -> dict[str, str]:
    """Files and folders that a run's conditions are made of -> the date in the prompts behind them, where they say one."""
    paths = [*([rvs] if rvs else []), *(Path(settings["path"]) for settings in plan.modules.values())]
    unsaved = {path: plan.made[path].header for path in paths if path in plan.made}
    return dates_of(paths, plan.folders.values(), unsaved)


def dates_of(
    files: Iterable[Path], folders: Iterable[Path], unsaved: Mapping[Path, Mapping[str, Any]] | None = None
) -> dict[str, str]:
    """Vectors and subspaces, checkpoints and adapters -> the date in the prompts behind them, where they say one.

    Args:
        unsaved: headers of files that are yet to be written.
    """
    known = unsaved or {}
    headers = {str(path): known[path] if path in known else read_header(path, (VECTORS, SUBSPACE)) for path in files}
    for folder in folders:
        manifest = read_manifest(folder, ADAPTER_KIND if is_adapter(folder) else KIND)
        headers[str(folder)] = manifest["source"].get("header") or {}
    return {name: header["date"] for name, header in headers.items() if header.get("date")}


def recorded_date(path: Path) -> str | None:
    """The date of the run that is there, if one is."""
    try:
        return Run.open(path).manifest.date
    except ArtifactError:
        return None
