"""What several offline commands share: options, and the check that a model and a basis belong together."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.decorators import FC

PATH = click.Path(path_type=Path)
force_option = click.option("--force", is_flag=True, help="Replace the output if it is already there.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
revision_option = click.option("--revision", help="Branch, tag or commit of a Hugging Face model.")
allow_other_option = click.option(
    "--allow-other-model", is_flag=True, help="Accept vectors of other weights of the same shape."
)


def _dtype_option(on_gpu: str) -> Callable[[FC], FC]:
    return click.option(
        "--dtype",
        type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
        default="auto",
        show_default=True,
        help=f"auto: as stored{on_gpu}; float32 on a CPU without units for that.",
    )


dtype_option, engine_dtype_option = _dtype_option(""), _dtype_option(", on a GPU what vLLM chooses")
date_option = click.option(
    "--date",
    type=click.DateTime(["%Y-%m-%d"]),
    callback=lambda _context, _option, value: value and value.date().isoformat(),
    help="Told to chat templates that ask for it. Default: that of the vectors or the run at hand, else today's.",
)
source_layers_option = click.option(
    "--source-layer", "--source-layers", "source_layers", help="For refusal vectors: 9, or several (QR): 7-10."
)


def model_and_basis(
    model: str, revision: str | None, file: Path, source_layers: str | None, allow_other_model: bool
) -> tuple[Any, Any, dict[str, Any]]:
    """(the model's description, the basis, its source), once it is sure that they belong together."""
    from surgery.model.models import check_fits, describe_model
    from surgery.residual.subspace import load_basis

    subspace, source = load_basis(file, source_layers)
    info = describe_model(model, revision)
    check_fits(source, info, allow_other_model)
    return info, subspace.basis, source


def on_gpu_if_any(model: Any, device_map: str | None) -> Any:
    import torch

    return model.to("cuda") if device_map is None and torch.cuda.is_available() else model
