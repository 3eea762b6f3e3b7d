"""What several offline commands share: options, the progress bar, and the check that a model and a basis belong together."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

PATH = click.Path(path_type=Path)
SITES = ("resid_pre", "resid_mid", "resid_post")
force_option = click.option("--force", is_flag=True, help="Replace the output if it is already there.")
revision_option = click.option("--revision", help="Branch, tag or commit of a Hugging Face model.")
allow_other_option = click.option(
    "--allow-other-model", is_flag=True, help="Accept vectors of other weights of the same shape."
)
dtype_option = click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="auto: as stored; float32 on a CPU without units for that.",
)
engine_dtype_option = click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="auto: as stored, on a GPU what vLLM chooses; float32 on a CPU without units for that.",
)
date_option = click.option(
    "--date",
    type=click.DateTime(["%Y-%m-%d"]),
    callback=lambda _context, _option, value: value and value.date().isoformat(),
    help="Told to chat templates that ask for it. Default: that of the vectors or the run at hand, else today's.",
)
source_layers_option = click.option(
    "--source-layer", "--source-layers", "source_layers", help="For refusal vectors: 9, or several (QR): 7-10."
)


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


def model_and_basis(
    model: str, revision: str | None, file: Path, source_layers: str | None, allow_other_model: bool
) -> tuple[Any, Any, dict[str, Any]]:
    """(the model's description, the basis, its source), once it is sure that they belong together."""
    from surgery.console.errors import MismatchError
    from surgery.model.models import check_same_model, describe_model
    from surgery.residual.subspace import load_basis

    basis, source = load_basis(file, source_layers)
    info = describe_model(model, revision)
    check_same_model(source["header"], info, str(file), allow_other_model)
    if source["n_layers"] not in (None, info.n_layers):
        raise MismatchError(
            f"{file} has RVs of {source['n_layers']} layers but {model} has {info.n_layers}; extract vectors from this model"
        )
    return info, basis, source


def on_gpu_if_any(model: Any, device_map: str | None) -> Any:
    import torch

    return model.to("cuda") if device_map is None and torch.cuda.is_available() else model


def said_dtype(info: Any, dtype: str, device_map: str | None) -> str:
    """The type that a model is to run in, told where `auto` is not the stored one."""
    from surgery.model.dtypes import auto_dtype

    return _said(info, auto_dtype(info.dtype, device_map)) if dtype == "auto" else dtype


def said_engine_dtype(info: Any, dtype: str) -> str:
    """The same of an engine of vLLM's, to which `auto` is left on a GPU and for quantized weights."""
    from surgery.model.config import read_config
    from surgery.model.dtypes import engine_dtype
    from surgery.model.quantization import stated_method

    if dtype != "auto":
        return dtype
    return _said(info, engine_dtype(info.dtype, stated_method(read_config(Path(info.path))) is not None))


def _said(info: Any, chosen: str) -> str:
    if chosen not in (info.dtype, "auto"):
        click.echo(
            f"running in {chosen}: this processor has no {info.dtype} units (--dtype {info.dtype}: as stored, but slower)",
            err=True,
        )
    return chosen


@contextmanager
def progress_bar(label: str, unit: str) -> Iterator[Callable[..., None]]:
    """Progress on stderr, a bar where that is a terminal, else lines: call it with (done, total[, label])."""
    import sys

    from tqdm import tqdm

    from surgery.console.progress import ProgressLines

    if not sys.stderr.isatty():
        yield ProgressLines(label, unit, sys.stderr).update
        return
    with tqdm(desc=label, unit=unit, unit_scale=unit == "B", file=sys.stderr) as bar:

        def update(done: int, total: int, label: str | None = None) -> None:
            if label is not None:
                bar.set_description(label, refresh=False)
            bar.total = total
            bar.update(done - bar.n)

        yield update
