"""The command `refusal select`."""

import json
from pathlib import Path

import click

from surgery.commands.options import (
    PATH,
    allow_other_option,
    dtype_option,
    force_option,
    json_option,
    on_gpu_if_any,
    revision_option,
)
from surgery.commands.prompts import SOURCE_HELP
from surgery.console.errors import ModelError
from surgery.console.progress import progress_bar


@click.command()
@click.argument("model")
@click.argument("rvs", type=PATH)
@click.option("--pairs", metavar="SOURCE", required=True, help=f"Pairs not extracted from: {SOURCE_HELP}")
@click.option("-o", "--output", type=PATH, help="Write the selected vector as a subspace file (.safetensors).")
@json_option
@dtype_option
@click.option("--device-map", help='Placement, as in transformers, e.g. "auto". Default: the GPU if any, else CPU.')
@allow_other_option
@revision_option
@force_option
def select(
    model: str,
    rvs: Path,
    pairs: str,
    output: Path | None,
    as_json: bool,
    dtype: str,
    device_map: str | None,
    allow_other_model: bool,
    revision: str | None,
    force: bool,
) -> None:
    """Select the layer of RVS whose vector controls the refusals of MODEL, by the rule of Arditi et al. (2024).

    Ranks every layer by how far ablating its vector lowers the odds of a refusal (bypass), among those that make the
    model refuse safe prompts when added (induce > 0), hardly change what follows safe prompts when ablated (KL < 0.1)
    and do not lie in the last 20 % of the layers. The tokens that open refusals are found from the model's answers.

    \b
    Example:
      refusal select MODEL rvs.safetensors --pairs held-out.jsonl -o selected.safetensors
    """
    from surgery.files.artifacts import check_output_file
    from surgery.model.dtypes import said_dtype
    from surgery.model.models import check_same_model, describe_model, load_model, load_tokenizer
    from surgery.prompts.loading import load_pairs, say_origin
    from surgery.residual.subspace import Subspace
    from surgery.residual.vectors import RefusalVectors
    from surgery.statistics.selection import render_selection
    from surgery.statistics.selection import select as select_vector

    if output is not None:
        check_output_file(output, force)
    vectors, loaded = RefusalVectors.load(rvs), say_origin(load_pairs(pairs, "evaluation"))
    info = describe_model(model, revision)
    check_same_model(vectors.header, info, str(rvs), allow_other_model)
    tokenizer = load_tokenizer(info, vectors.header.get("date"))
    weights = on_gpu_if_any(load_model(info, said_dtype(info, dtype, device_map), device_map), device_map)
    with progress_bar("selecting", "vector") as progress:
        found = select_vector(weights, tokenizer, vectors, loaded, vectors.header.get("template_options"), progress)
    click.echo(json.dumps(found.to_json(), indent=1) if as_json else render_selection(found))
    if output is not None:
        if found.chosen is None:
            raise ModelError(
                f"{output} was not written: no vector passes every filter; choose a layer with refusal subspace"
            )
        Subspace.from_vectors(vectors, found.chosen.layer).save(output, force)
        click.echo(f"wrote {output}", err=True)
