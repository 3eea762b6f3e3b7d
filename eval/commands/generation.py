"""The commands that answer prompts: `generate` for named ablations, `sweep` for the write-up's comparison."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from eval.commands.generation_options import PATH, generation_options


@click.command()
@click.argument("model")
@click.option(
    "--ablation",
    "ablations",
    multiple=True,
    metavar="NAME=FILE[,alpha=A,layers=L,source_layer=N,site=S]",
    help="A condition: the subspace or refusal vectors in FILE, ablated; repeatable.",
)
@generation_options
def generate(model: str, ablations: tuple[str, ...], allow_other_model: bool, out: Path, **options: Any) -> None:
    """Answer prompts with MODEL without intervention and under each named ablation, in one engine.

    \b
    Example:
      refusal generate MODEL --prompts prompts.jsonl \\
          --ablation l9=rvs.safetensors,source_layer=9 --ablation sub=sub.safetensors,alpha=1.5 -o RUN
    """
    from eval.plan.plan import PlanBuilder
    from vllm_refusal.settings.module_files import load_module
    from vllm_refusal.settings.module_options import parse_ablation_options

    modules = parse_ablation_options(ablations, allow_other_model)

    def conditions(builder: PlanBuilder, info: Any) -> None:
        for name, settings in modules.items():
            module = load_module(name, settings, info)
            builder.named(name, settings, module.rank, module.alpha)

    _run(model, out, conditions, **options)


@click.command()
@click.argument("model")
@click.option("--rvs", type=PATH, required=True, help="Refusal vectors of this model (refusal extract).")
@click.option("--source-layers", default="all", show_default=True, help="Layers whose single RV is ablated.")
@click.option("--subspace", "subspaces", multiple=True, help="Layers of a QR subspace, e.g. 7-10; repeatable.")
@click.option(
    "--layers",
    "layer_sets",
    multiple=True,
    metavar="LAYERS",
    help="Ablate at these layers only, e.g. 7-10; repeatable, each a set of conditions of its own. Default: all.",
)
@click.option("--alphas", default="1", show_default=True, help="Strengths, e.g. 0.5,1,1.5.")
@click.option("--tiers", is_flag=True, help="Also ablate what is extracted from each tier of the pairs by itself.")
@click.option("--tag", "tags", multiple=True, help='The same for one tier or category, "tier 2"; repeatable.')
@click.option(
    "--writes", is_flag=True, help="Also ablate each subspace at attention and MLP writes: equals a checkpoint."
)
@click.option(
    "--random", "n_random", type=click.IntRange(0), default=2, show_default=True, help="Random controls per rank."
)
@generation_options
def sweep(
    model: str,
    rvs: Path,
    source_layers: str,
    subspaces: tuple[str, ...],
    layer_sets: tuple[str, ...],
    alphas: str,
    tiers: bool,
    tags: tuple[str, ...],
    writes: bool,
    n_random: int,
    allow_other_model: bool,
    out: Path,
    **options: Any,
) -> None:
    """Ablate each layer's RV, QR subspaces and random controls at every layer of MODEL, all in one engine.

    With --base-url servers answer instead: each must have been started with the ablations that the sweep needs.

    \b
    Example:
      refusal sweep MODEL --rvs rvs.safetensors --prompts prompts.jsonl --subspace 7-10 --alphas 0.5,1,1.5 -o RUN
    """
    from surgery.residual.sites import EDIT_SITES, STREAM
    from surgery.residual.subspace import Subspace
    from surgery.residual.vectors import RefusalVectors

    strengths, at = read_strengths(alphas), layer_sets or ("all",)

    def conditions(builder: Any, info: Any) -> None:
        vectors = RefusalVectors.load(rvs)
        _check_vectors(vectors, info, str(rvs), allow_other_model)
        ranks, made = {1}, _made_folder(out, options)
        for tag in ("", *_tags(vectors, rvs, tiers, tags)):
            part = vectors.of_tag(tag) if tag else vectors
            file = builder.vectors_of_tag(rvs, vectors, tag, made) if tag else rvs
            builder.single_vectors(file, source_layers, strengths, allow_other_model, at, tag)
            for spec in subspaces:
                rank = Subspace.from_vectors(part, spec).rank
                ranks.add(rank)
                for site in EDIT_SITES if writes else (STREAM,):
                    builder.subspace(file, spec, rank, strengths, site, allow_other_model, at, tag)
        control = 1.0 if 1.0 in strengths else max(strengths)
        builder.random_controls(made, sorted(ranks), n_random, control, at)

    _run(model, out, conditions, rvs=rvs, **options)


def _run(
    model: str, out: Path, add_conditions: Callable[[Any, Any], None], rvs: Path | None = None, **options: Any
) -> None:
    from eval.generation.interruption import ending_resumably
    from eval.generation.job import make_job

    arguments = command_words()
    with ending_resumably(out, arguments) as interruption:
        job = make_job(model, add_conditions, options, arguments, rvs)
        n_new = job.run(out, options["force"], interruption.check)
    click.echo(f"{out}: {n_new} new responses; {job.size}; next: refusal {job.next_command} {out}")


def _tags(vectors: Any, rvs: Path, tiers: bool, asked: Sequence[str]) -> list[str]:
    """The tags whose vectors are ablated beside those of all prompts, each once.

    Raises: ArtifactError when tiers are asked for and the file has not two, or a tag that it does not have.
    """
    from surgery.console.errors import ArtifactError

    held = [entry["tag"] for entry in vectors.header.get("tags", ())]
    found = [tag for tag in held if tag.startswith("tier ")] if tiers else []
    if tiers and len(found) < 2:
        raise ArtifactError(
            f"{rvs}: --tiers needs the vectors of two tiers at least, found {', '.join(found) or 'none'}; extract them "
            "again from pairs that name their tiers"
        )
    for tag in asked:
        vectors.of_tag(tag)
    return list(dict.fromkeys([*found, *asked]))


def _made_folder(out: Path, options: Mapping[str, Any]) -> Path:
    """Where files made for the run are kept: in it; beside it where servers answer, which must be started with them."""
    return out.with_name(f"{out.name}-controls") if options["base_urls"] else out / "modules"


def _check_vectors(vectors: Any, info: Any, what: str, allow_other: bool) -> None:
    from surgery.console.errors import MismatchError
    from surgery.model.models import check_same_model

    check_same_model(vectors.header, info, what, allow_other)
    if tuple(vectors.vectors.shape) != (info.n_layers, info.d_model):
        raise MismatchError(
            f"{what} has vectors {list(vectors.vectors.shape)} but {info.model} has [{info.n_layers}, {info.d_model}] "
            "(n_layers, d_model); extract vectors from this model"
        )


def command_words() -> list[str]:
    """The words of the command line after `refusal`."""
    from eval.cli import ARGUMENTS

    return click.get_current_context().meta.get(ARGUMENTS, [])


def read_strengths(text: str) -> list[float]:
    """The strengths of --alphas. Raises: AlphaError."""
    from surgery.console.errors import AlphaError
    from surgery.residual.operator import check_alpha

    try:
        return [check_alpha(float(part)) for part in text.split(",")]
    except ValueError as err:
        raise AlphaError(f"--alphas {text!r}: expected numbers such as 0.5,1,1.5") from err
