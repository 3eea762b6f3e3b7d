"""The commands that write edited weights and prove them: orthogonalize, adapter, verify."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from surgery.commands.options import (
    PATH,
    allow_other_option,
    force_option,
    model_and_basis,
    revision_option,
    source_layers_option,
)
from surgery.console.errors import ModelError
from surgery.console.progress import progress_bar


@click.command()
@click.argument("model")
@click.argument("file", type=PATH)
@source_layers_option
@click.option("--alpha", type=float, default=1.0, show_default=True, help="1 removes, 0.5 halves, 1.5 over-projects.")
@click.option("--layers", default="all", show_default=True, help="Decoder blocks to edit.")
@click.option("--embeddings", is_flag=True, help="Edit the token embeddings too (a tied unembedding stays as it was).")
@click.option("-o", "--output", type=PATH, required=True, help="The checkpoint folder to write.")
@click.option(
    "--norm-preserving",
    "keep_norms",
    is_flag=True,
    help="Give every output vector (column) of the weights its norm back.",
)
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
    keep_norms: bool,
    output: Path,
    verified: bool,
    allow_other_model: bool,
    revision: str | None,
    force: bool,
) -> None:
    """Write a copy of MODEL whose attention and MLP outputs are orthogonalized against the subspace in FILE.

    FILE holds a subspace, or refusal vectors together with --source-layer. The copy is a plain safetensors
    checkpoint; its folder records every edited tensor in surgery.json. After an interruption the same command
    goes on with the file it was at.

    \b
    Examples:
      refusal orthogonalize MODEL sub.safetensors --alpha 1.0 -o edited
      refusal orthogonalize MODEL rvs.safetensors --source-layer 9 -o edited
    """
    from surgery.residual.operator import check_alpha
    from surgery.weights.checkpoint import check_output_folder
    from surgery.weights.checkpoint import orthogonalize as write_checkpoint

    check_alpha(alpha)
    check_output_folder(output, force=force)
    info, basis, source = model_and_basis(model, revision, file, source_layers, allow_other_model)
    with progress_bar("writing", "B") as progress, _saying_what_is_kept(output):
        manifest = write_checkpoint(
            info, basis, alpha, output, layers, embeddings, force, source, progress, keep_norms, _say_resumed
        )
    click.echo(f"wrote {output}: {len(manifest['tensors'])} tensors edited, {manifest['n_untouched']} untouched")
    n_not_scaled = sum(record["n_not_scaled"] for record in manifest["tensors"])
    if n_not_scaled:
        click.echo(f"{n_not_scaled} output vectors lie within the subspace but for a tenth: not given their norm back")
    for name in manifest["left_out"]:
        click.echo(f"left out {name}: another copy of the unedited weights")
    _say_notes(manifest)
    if verified:
        _verify(output, None)


def _say_notes(manifest: Mapping[str, Any]) -> None:
    for note in manifest["notes"]:
        click.echo(f"note: {note}")


def _say_resumed(n_kept: int) -> None:
    click.echo(f"kept {n_kept} files of an interrupted run")


@contextmanager
def _saying_what_is_kept(output: Path) -> Iterator[None]:
    """Turn Ctrl-C into one line that says what the next run will find."""
    from surgery.files.resuming import scratch_of, unfinished_files

    try:
        yield
    except KeyboardInterrupt as err:
        n_kept = len(unfinished_files(output))
        kept = f"{n_kept} finished files are kept in {scratch_of(output)}; the same command goes on from there"
        raise click.ClickException(f"interrupted; {kept if n_kept else 'nothing was left behind'}") from err


@click.command()
@click.argument("model")
@click.argument("file", type=PATH)
@source_layers_option
@click.option("--alpha", type=float, default=1.0, show_default=True, help="1 removes, 0.5 halves, 1.5 over-projects.")
@click.option("--layers", default="all", show_default=True, help="Decoder blocks to edit.")
@click.option(
    "--norm-preserving", "keep_norms", is_flag=True, hidden=True, help="Refused: only a checkpoint can keep norms."
)
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
    keep_norms: bool,
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
    from surgery.residual.operator import check_alpha
    from surgery.weights.adapter import check_adapter_folder, write_adapter

    if keep_norms:
        raise ModelError(
            "a LoRA adapter cannot keep norms: scaling every column changes the weights at full rank, not at the "
            "subspace's; write a checkpoint instead (refusal orthogonalize --norm-preserving)"
        )
    check_alpha(alpha)
    check_adapter_folder(output, force)
    info, basis, source = model_and_basis(model, revision, file, source_layers, allow_other_model)
    with progress_bar("writing", "module") as progress:
        manifest = write_adapter(info, basis, alpha, output, layers, force, source, progress)
    click.echo(f"wrote {output}: rank {manifest['basis']['rank']} on {len(manifest['modules'])} modules")
    _say_notes(manifest)


@click.command()
@click.argument("folder", type=PATH)
@click.option("--base", type=PATH, help="The base model's folder, if it is no longer where the manifest says.")
def verify(folder: Path, base: Path | None) -> None:
    """Check an edited checkpoint's or an adapter's stored bytes against its manifest, its subspace and its base model.

    Prints one line per fault and exits with 1 if there is any.

    \b
    Example:
      refusal verify edited
    """
    from surgery.weights.manifest import is_adapter

    (_verify_adapter if is_adapter(folder) else _verify)(folder, base)


def _verify_adapter(folder: Path, base: Path | None) -> None:
    from surgery.weights.verify_adapter import verify_adapter

    with progress_bar("verifying", "module") as progress:
        report = verify_adapter(folder, base, progress)
    computed = f"recomputed from {report.base}" if report.base else "base model not compared"
    _print_verdict(report, f"rank {report.rank} on {report.n_modules} modules, {computed}")


def _verify(folder: Path, base: Path | None) -> None:
    from surgery.weights.verify import verify as check

    with progress_bar("verifying", "tensor") as progress:
        report = check(folder, base, progress)
    compared = f"compared with {report.base}" if report.base else "base model not compared"
    ratio = []
    if report.ratio_low is not None:
        ratio = [
            f"component left in the subspace: {report.ratio_low:.2g} to {report.ratio_high:.2g} of what it was "
            f"(alpha {report.alpha:g} demands {abs(1 - report.alpha):g})"
        ]
    _print_verdict(report, f"{report.n_edited} edited tensors, {report.n_untouched} untouched, {compared}", ratio)


def _print_verdict(report: Any, counted: str, more: Iterable[str] = ()) -> None:
    """Faults on stderr, what was checked on stdout; exit code 1 if there is any fault."""
    for fault in report.faults:
        click.echo(f"Error: {fault}", err=True)
    click.echo(f"{'verified' if report.ok else 'FAULTY'} {report.path}: {counted}")
    for line in (*more, *(f"note: {note}" for note in report.notes)):
        click.echo(line)
    if not report.ok:
        raise click.exceptions.Exit(1)
