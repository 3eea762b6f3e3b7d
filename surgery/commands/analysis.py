"""The commands that look at refusal vectors and combine them: show, subspace."""

import json
from dataclasses import replace
from pathlib import Path

import click

from surgery.commands.options import PATH, force_option, json_option
from surgery.residual.sites import RESID_SITES


@click.command()
@click.argument("file", type=PATH)
@click.argument("other", type=PATH, required=False)
@click.option("--all", "whole", is_flag=True, help="Of refusal vectors: every layer, category, tier and reading.")
@json_option
@click.option("--subspace", "spans", multiple=True, help="Layers, e.g. 7-10: angles between tiers' spans; repeatable.")
@click.option("--figures", type=PATH, help="Draw the refusal vectors of FILE into this folder, as SVG and PNG.")
def show(
    file: Path, other: Path | None, whole: bool, as_json: bool, spans: tuple[str, ...], figures: Path | None
) -> None:
    """Show what is in FILE: refusal vectors, a subspace, or the folder of an edited checkpoint or adapter.

    For refusal vectors: per layer the norm, Cohen's d with its bootstrap interval, AUROC, how well half the pairs
    reproduce the vector; with --all also the cosines to the neighbouring layers and, of prompts in tiers, the angles
    between the tiers' vectors beside those between halves of one tier; --json adds the whole cosine matrix. With OTHER,
    compare two: the cosines of two files of vectors, the principal angles of two subspaces, or how much of each vector
    lies in a subspace.

    \b
    Examples:
      refusal show rvs.safetensors --figures figures
      refusal show rvs.safetensors --all
      refusal show rvs.safetensors --subspace 7-10
      refusal show sub-a.safetensors sub-b.safetensors
    """
    from surgery.commands.summary import render, summarize
    from surgery.residual.vectors import RefusalVectors
    from surgery.statistics.angles import compare, render_comparison

    if other is not None:
        if figures is not None:
            raise click.UsageError("--figures draws one file of refusal vectors; leave out OTHER")
        if spans:
            raise click.UsageError("--subspace compares the tiers of one file; leave out OTHER")
        found = compare(file, other)
        click.echo(json.dumps(found, indent=1) if as_json else render_comparison(found))
        return
    summary = summarize(file, spans)
    drawn: list[Path] = []
    if figures is not None:
        from surgery.statistics.figures import draw

        drawn = draw(RefusalVectors.load(file), figures)
    click.echo(json.dumps(summary, indent=1) if as_json else render(summary, whole))
    for path in drawn:
        click.echo(f"wrote {path}", err=True)


@click.command()
@click.argument("rvs", type=PATH)
@click.option("--layers", required=True, help="Layers whose refusal vectors span it: 7-10, or 3,5,7-9, or all.")
@click.option("--projected", "projection", flag_value="projected", help="Leave out what lies along the harmless mean.")
@click.option(
    "--biprojected", "projection", flag_value="biprojected", help="The same for the harmless means of all layers."
)
@click.option("--affine", is_flag=True, help="Move to the safe prompts' mean instead of to zero; at run time only.")
@click.option("--reference-layer", type=int, help="With --affine: the layer of that mean. Default: the source layer.")
@click.option(
    "--components", type=click.IntRange(min=0), default=0, help="Singular directions a layer, not the vectors."
)
@click.option("--reading", help="Vectors of another site and token, as extracted: resid_mid@-2.")
@click.option("--tag", help='Vectors of one tier or category: "tier 2".')
@click.option("-o", "--output", type=PATH, required=True, help="The subspace file to write (.safetensors).")
@force_option
def subspace(
    rvs: Path,
    layers: str,
    projection: str | None,
    affine: bool,
    reference_layer: int | None,
    components: int,
    reading: str | None,
    tag: str | None,
    output: Path,
    force: bool,
) -> None:
    """Make an orthonormal basis (QR) of the refusal vectors of several layers of the file RVS.

    \b
    Examples:
      refusal subspace rvs.safetensors --layers 7-10 -o sub.safetensors
      refusal subspace rvs.safetensors --layers 9 --projected -o projected.safetensors
      refusal subspace rvs.safetensors --layers 9 --affine -o affine.safetensors
    """
    from surgery.commands.summary import render, summarize
    from surgery.files.artifacts import check_output_file, file_sha256
    from surgery.residual.subspace import Subspace
    from surgery.residual.vectors import RefusalVectors

    if reference_layer is not None and not affine:
        raise click.UsageError("--reference-layer belongs to --affine")
    check_output_file(output, force)
    chosen = RefusalVectors.load(rvs)
    chosen = chosen.at(*_site_and_position(reading)) if reading else chosen
    chosen = chosen.of_tag(tag) if tag else chosen
    made = Subspace.from_vectors(chosen, layers, projection, components)
    if affine and reference_layer is None and len(made.source_layers) > 1:
        raise click.UsageError("--affine with several layers needs --reference-layer, the one it will be applied at")
    if affine:
        made = made.towards(chosen, made.source_layers[0] if reference_layer is None else reference_layer)
    replace(made, header={**made.header, "source_sha256": file_sha256(rvs)}).save(output, force)
    click.echo(f"wrote {output}\n\n{render(summarize(output))}")


def _site_and_position(reading: str) -> tuple[str, int]:
    site, at, position = reading.partition("@")
    if site not in RESID_SITES or not at or not position.removeprefix("-").isdigit():
        raise click.UsageError(f"--reading {reading!r}: expected site@position, e.g. resid_mid@-2")
    return site, int(position)
