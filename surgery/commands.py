"""The offline commands: extract, show, subspace, orthogonalize, adapter, verify, organism."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from surgery.prompt_commands import SOURCE_HELP, say_origin

PATH = click.Path(path_type=Path)
SITES = ("resid_pre", "resid_mid", "resid_post")
_force = click.option("--force", is_flag=True, help="Replace the output if it is already there.")
_revision = click.option("--revision", help="Branch, tag or commit of a Hugging Face model.")
_allow_other = click.option(
    "--allow-other-model", is_flag=True, help="Accept vectors of other weights of the same shape."
)
_source_layers = click.option(
    "--source-layer", "--source-layers", "source_layers", help="For refusal vectors: 9, or several (QR): 7-10."
)


@click.command()
@click.argument("model")
@click.option("--pairs", metavar="SOURCE", required=True, help=f"Matched pairs: {SOURCE_HELP}")
@click.option("-o", "--output", type=PATH, required=True, help="The refusal-vector file to write (.safetensors).")
@click.option(
    "--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto", show_default=True
)
@click.option(
    "--device-map", help='Placement, as in transformers, e.g. "auto". Default: the GPU if there is one, else CPU.'
)
@click.option(
    "--site", type=click.Choice(SITES), default="resid_post", show_default=True, help="Where vectors are read."
)
@click.option("--position", type=int, default=-1, show_default=True, help="Token read; -1 is the last of the prompt.")
@click.option("--sites", type=click.Choice([*SITES, "all"]), multiple=True, help="Keep vectors of more sites too.")
@click.option("--positions", default="", help='Keep more end-of-instruction tokens too: "all", or "-3,-1".')
@click.option(
    "--estimator",
    type=click.Choice(["mean", "median-of-means", "winsorized", "svd"]),
    default="mean",
    show_default=True,
    help="Difference of means, or one that outliers move less, or the leading direction of paired differences.",
)
@click.option("--components", type=click.IntRange(min=0), default=0, help="Keep this many singular directions a layer.")
@click.option("--template-option", "options", multiple=True, help="Of the chat template, e.g. enable_thinking=false.")
@click.option("--batched", is_flag=True, help="Run prompts of equal token length together: no padding, much faster.")
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="With --batched: at most."
)
@click.option(
    "--held-out", metavar="SOURCE", help="Pairs that are not fitted on, only projected, for an honest Cohen's d."
)
@_revision
@_force
def extract(
    model: str,
    pairs: str,
    output: Path,
    dtype: str,
    device_map: str | None,
    site: str,
    position: int,
    sites: tuple[str, ...],
    positions: str,
    estimator: str,
    components: int,
    options: tuple[str, ...],
    batched: bool,
    batch_size: int,
    held_out: str | None,
    revision: str | None,
    force: bool,
) -> None:
    """Extract refusal vectors from MODEL, a local folder or a Hugging Face id.

    Reads the residual stream after every block at the last prompt token, one prompt at a time, and writes per layer
    the mean over harmful prompts minus the mean over their safe counterparts.

    \b
    Examples:
      refusal extract meta-llama/Llama-3.2-1B-Instruct --pairs pairs.jsonl -o rvs.safetensors
      refusal extract MODEL --pairs builtin --held-out builtin --positions all --batched -o rvs.safetensors
      refusal extract Qwen/Qwen3-1.7B --pairs pairs.jsonl --template-option enable_thinking=false -o rvs.safetensors
    """
    from surgery.artifacts import check_output_file
    from surgery.chat import chat_template
    from surgery.extraction import Plan
    from surgery.extraction import extract as extract_vectors
    from surgery.families import family_of
    from surgery.models import describe_model, load_model, load_tokenizer
    from surgery.prompts import load_pairs
    from surgery.summary import render, summarize

    check_output_file(output, force)
    loaded = say_origin(load_pairs(pairs))
    plan = Plan(
        site=site,
        position=position,
        sites=SITES if "all" in sites else sites,
        positions=positions,
        estimator=estimator,
        n_components=components,
        batch_size=batch_size if batched else 1,
        template_options=dict(map(_template_option, options)),
        held_out=say_origin(load_pairs(held_out, "evaluation")) if held_out else (),
        folder=output.parent,
    )
    info = describe_model(model, revision)
    family_of(info.architecture)
    tokenizer = load_tokenizer(info)
    chat_template(tokenizer)  # before the weights are loaded
    weights = _on_gpu_if_any(load_model(info, dtype, device_map), device_map)
    with _bar("extracting", "prompt") as progress:
        rvs = extract_vectors(weights, tokenizer, loaded, info, progress, plan)
    rvs.save(output, force)
    click.echo(f"wrote {output}\n\n{render(summarize(output))}")


@click.command()
@click.argument("file", type=PATH)
@click.argument("other", type=PATH, required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
@click.option("--figures", type=PATH, help="Draw the refusal vectors of FILE into this folder, as SVG and PNG.")
def show(file: Path, other: Path | None, as_json: bool, figures: Path | None) -> None:
    """Show what is in FILE: refusal vectors, a subspace, or the folder of an edited checkpoint or adapter.

    For refusal vectors: per layer the norm, Cohen's d with its bootstrap interval, AUROC, how well half the pairs
    reproduce the vector, and the cosine to the neighbouring layers; --json adds the whole cosine matrix. With OTHER,
    compare two: the cosines of two files of vectors, the principal angles of two subspaces, or how much of each vector
    lies in a subspace.

    \b
    Examples:
      refusal show rvs.safetensors --figures figures
      refusal show sub-a.safetensors sub-b.safetensors
    """
    import json

    from surgery.angles import compare, render_comparison
    from surgery.summary import render, summarize

    if other is not None and figures is not None:
        raise click.UsageError("--figures draws one file of refusal vectors; leave out OTHER")
    if other is not None:
        found = compare(file, other)
        click.echo(json.dumps(found, indent=1) if as_json else render_comparison(found))
        return
    summary = summarize(file)
    drawn = _draw(file, figures) if figures is not None else []
    click.echo(json.dumps(summary, indent=1) if as_json else render(summary))
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
@_force
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
    from dataclasses import replace

    from surgery.artifacts import check_output_file, file_sha256
    from surgery.subspace import Subspace
    from surgery.summary import render, summarize
    from surgery.vectors import RefusalVectors

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


@click.command()
@click.argument("model")
@click.argument("file", type=PATH)
@_source_layers
@click.option("--alpha", type=float, default=1.0, show_default=True, help="1 removes, 0.5 halves, 1.5 over-projects.")
@click.option("--layers", default="all", show_default=True, help="Decoder blocks to edit.")
@click.option("--embeddings", is_flag=True, help="Edit the token embeddings too (a tied unembedding stays as it was).")
@click.option("-o", "--output", type=PATH, required=True, help="The checkpoint folder to write.")
@click.option("--verify/--no-verify", "verified", default=True, help="Check the written bytes afterwards.")
@_allow_other
@_revision
@_force
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
    checkpoint; its folder records every edited tensor in vllm_refusal_manifest.json.

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
    info, basis, source = _model_and_basis(model, revision, file, source_layers, allow_other_model)
    with _bar("writing", "B") as progress:
        manifest = write_checkpoint(info, basis, alpha, output, layers, embeddings, force, source, progress)
    click.echo(f"wrote {output}: {len(manifest['tensors'])} tensors edited, {manifest['n_untouched']} untouched")
    for name in manifest["left_out"]:
        click.echo(f"left out {name}: another copy of the unedited weights")
    if verified:
        _verify(output, None)


@click.command()
@click.argument("model")
@click.argument("file", type=PATH)
@_source_layers
@click.option("--alpha", type=float, default=1.0, show_default=True, help="1 removes, 0.5 halves, 1.5 over-projects.")
@click.option("--layers", default="all", show_default=True, help="Decoder blocks to edit.")
@click.option("-o", "--output", type=PATH, required=True, help="The adapter folder to write.")
@_allow_other
@_revision
@_force
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
    info, basis, source = _model_and_basis(model, revision, file, source_layers, allow_other_model)
    with _bar("writing", "module") as progress:
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


@click.command()
@click.argument("name", type=click.Choice(["single", "distributed", "plain"]))
@click.option("-o", "--output", type=PATH, required=True, help="The model folder to write.")
@click.option("--retrain", is_flag=True, help="Train from scratch (minutes) instead of copying the packaged weights.")
@click.option("--seed", type=int, help="Of training, with --retrain; what it misses is written down, not tried again.")
@_force
def organism(name: str, output: Path, retrain: bool, seed: int | None, force: bool) -> None:
    """Write a model organism: a tiny chat model whose refusals work in a known, planted way.

    \b
    Examples:
      refusal organism single -o organism-single
      refusal organism distributed --retrain --seed 7 -o organism-distributed-7
    """
    if seed is not None and not retrain:
        raise click.UsageError("--seed needs --retrain: the packaged weights have theirs")
    from surgery.organisms.release import write_organism

    with _bar("training", "step") as progress:
        folder = write_organism(
            name,
            output,
            retrain=retrain,
            seed=seed,
            force=force,
            progress=lambda stage, done, total: progress(done, total, stage),
        )
    click.echo(f"wrote {folder}")


def _model_and_basis(
    model: str, revision: str | None, file: Path, source_layers: str | None, allow_other_model: bool
) -> tuple[Any, Any, dict[str, Any]]:
    """(the model's description, the basis, its source), once it is sure that they belong together."""
    from surgery.errors import MismatchError
    from surgery.models import check_same_model, describe_model
    from surgery.subspace import load_basis

    basis, source = load_basis(file, source_layers)
    info = describe_model(model, revision)
    check_same_model(source["header"], info, str(file), allow_other_model)
    if source["n_layers"] not in (None, info.n_layers):
        raise MismatchError(
            f"{file} has RVs of {source['n_layers']} layers but {model} has {info.n_layers}; extract vectors from this model"
        )
    return info, basis, source


def _verify(folder: Path, base: Path | None) -> None:
    from surgery.verify import verify as check

    with _bar("verifying", "tensor") as progress:
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


def _site_and_position(reading: str) -> tuple[str, int]:
    site, at, position = reading.partition("@")
    if site not in SITES or not at or not position.removeprefix("-").isdigit():
        raise click.UsageError(f"--reading {reading!r}: expected site@position, e.g. resid_mid@-2")
    return site, int(position)


def _draw(file: Path, folder: Path) -> list[Path]:
    from surgery.figures import draw
    from surgery.vectors import RefusalVectors

    return draw(RefusalVectors.load(file), folder)


def _template_option(text: str) -> tuple[str, Any]:
    """`key=value` with the value read as JSON where it is (false, 3), as text where it is not."""
    import json

    key, equals, value = text.partition("=")
    if not (key.isidentifier() and equals):
        raise click.UsageError(f"--template-option {text!r}: expected name=value, e.g. enable_thinking=false")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def _on_gpu_if_any(model: Any, device_map: str | None) -> Any:
    import torch

    return model.to("cuda") if device_map is None and torch.cuda.is_available() else model


@contextmanager
def _bar(label: str, unit: str) -> Iterator[Callable[..., None]]:
    """A progress bar on stderr, where that is a terminal: call it with (done, total[, label])."""
    from tqdm import tqdm

    with tqdm(desc=label, unit=unit, unit_scale=unit == "B", disable=None) as bar:

        def update(done: int, total: int, label: str | None = None) -> None:
            if label is not None:
                bar.set_description(label, refresh=False)
            bar.total = total
            bar.update(done - bar.n)

        yield update
