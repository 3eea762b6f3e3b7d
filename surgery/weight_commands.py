"""The commands that write edited weights and prove them: orthogonalize, adapter, verify."""

from pathlib import Path

import click

from surgery.command_options import (
    PATH,
    allow_other_option,
    force_option,
    model_and_basis,
    progress_bar,
    revision_option,
    source_layers_option,
)


@click.command()
@click.argument("model")
@click.argument("file", type=PATH)
@source_layers_option
@click.option("--alpha", type=float, default=1.0, show_default=True, help="1 removes, 0.5 halves, 1.5 over-projects.")
@click.option("--layers", default="all", show_default=True, help="Decoder blocks to edit.")
@click.option("--embeddings", is_flag=True, help="Edit the token embeddings too (a tied unembedding stays as it was).")
@click.option("-o", "--output", type=PATH, required=True, help="The checkpoint folder to write.")
@click.option("--verify/--no-verify", "verified", default=True, help="Check the written bytes afterwards.")
@allow_other_option
@revision_option
@force_option
def orthogonalize(
    model: str,
    file: Path,
    source_layers: str | None,
    alpha: float,
    layers: str,
    embeddings: bool,
    output: Path,
    verified: bool,
    allow_other_model: bool,
    revision: str | None,
    force: bool,
) -> None:
    """Write a copy of MODEL whose attention and MLP outputs are orthogonalized against the subspace in FILE.

    FILE holds a subspace, or refusal vectors together with --source-layer. The copy is a plain safetensors
    checkpoint; its folder records every edited tensor in surgery.json.

    \b
    Examples:
      refusal orthogonalize MODEL sub.safetensors --alpha 1.0 -o edited
      refusal orthogonalize MODEL rvs.safetensors --source-layer 9 -o edited
    """
    from surgery.ablation import check_alpha
    from surgery.orthogonalize import check_output_folder
    from surgery.orthogonalize import orthogonalize as write_checkpoint

    check_alpha(alpha)
    check_output_folder(output, force=force)
    info, basis, source = model_and_basis(model, revision, file, source_layers, allow_other_model)
    with progress_bar("writing", "B") as progress:
        manifest = write_checkpoint(info, basis, alpha, output, layers, embeddings, force, source, progress)
    click.echo(f"wrote {output}: {len(manifest['tensors'])} tensors edited, {manifest['n_untouched']} untouched")
    for name in manifest["left_out"]:
        click.echo(f"left out {name}: another copy of the unedited weights")
    if verified:
        _verify(output, None)


@click.command()
@click.argument("model")
@click.argument("file", type=PATH)
@source_layers_option
@click.option("--alpha", type=float, default=1.0, show_default=True, help="1 removes, 0.5 halves, 1.5 over-projects.")
@click.option("--layers", default="all", show_default=True, help="Decoder blocks to edit.")
@click.option("-o", "--output", type=PATH, required=True, help="The adapter folder to write.")
@allow_other_option
@revision_option
@force_option
def adapter(
    model: str,
    file: Path,
    source_layers: str | None,
    alpha: float,
    layers: str,
    output: Path,
    allow_other_model: bool,
    revision: str | None,
    force: bool,
) -> None:
    """Write a LoRA adapter with the same effect as orthogonalizing MODEL against the subspace in FILE, exactly.

    FILE holds a subspace, or refusal vectors together with --source-layer. The adapter's rank is the subspace's; it is
    a PEFT adapter of a few MB that PEFT and vLLM load beside the unedited model.

    \b
    Example:
      refusal adapter MODEL sub.safetensors --alpha 1.0 -o adapter
    """
    from surgery.ablation import check_alpha
    from surgery.adapter import check_adapter_folder, write_adapter

    check_alpha(alpha)
    check_adapter_folder(output, force)
    info, basis, source = model_and_basis(model, revision, file, source_layers, allow_other_model)
    with progress_bar("writing", "module") as progress:
        manifest = write_adapter(info, basis, alpha, output, layers, force, source, progress)
    click.echo(f"wrote {output}: rank {manifest['basis']['rank']} on {len(manifest['modules'])} modules")


@click.command()
@click.argument("folder", type=PATH)
@click.option("--base", type=PATH, help="The base model's folder, if it is no longer where the manifest says.")
def verify(folder: Path, base: Path | None) -> None:
    """Check an edited checkpoint's stored bytes against its manifest, its subspace and its base model.

    Prints one line per fault and exits with 1 if there is any.

    \b
    Example:
      refusal verify edited
    """
    _verify(folder, base)


def _verify(folder: Path, base: Path | None) -> None:
    from surgery.verify import verify as check

    with progress_bar("verifying", "tensor") as progress:
        report = check(folder, base, progress)
    for fault in report.faults:
        click.echo(f"Error: {fault}", err=True)
    compared = f"compared with {report.base}" if report.base else "base model not compared"
    click.echo(
        f"{'verified' if report.ok else 'FAULTY'} {folder}: {report.n_edited} edited tensors, "
        f"{report.n_untouched} untouched, {compared}"
    )
    if report.ratio_low is not None:
        click.echo(
            f"component left in the subspace: {report.ratio_low:.2g} to {report.ratio_high:.2g} of what it was "
            f"(alpha {report.alpha:g} demands {abs(1 - report.alpha):g})"
        )
    for note in report.notes:
        click.echo(f"note: {note}")
    if not report.ok:
        raise click.exceptions.Exit(1)
