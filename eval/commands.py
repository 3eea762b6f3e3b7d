"""The commands that answer prompts: `generate` for named ablations, `sweep` for the write-up's comparison."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from surgery.prompt_commands import SOURCE_HELP, say_origin

PATH = click.Path(path_type=Path)


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that every generating command shares."""
    for option in reversed(
        [
            click.option("--prompts", metavar="SOURCE", required=True, help=f"Harmful prompts: {SOURCE_HELP}"),
            click.option("--safe-prompts", metavar="SOURCE", help="Safe prompts answered beside them, likewise."),
            click.option(
                "-o",
                "--output",
                "out",
                type=PATH,
                required=True,
                help="Run folder to write; the same command resumes it.",
            ),
            click.option(
                "--checkpoint",
                "checkpoints",
                type=PATH,
                multiple=True,
                metavar="DIR",
                help="Also answer by this orthogonalized checkpoint of MODEL, in stock vLLM; repeatable.",
            ),
            click.option(
                "--max-tokens", type=click.IntRange(1), default=256, show_default=True, help="Longest response."
            ),
            click.option(
                "--temperature", type=click.FloatRange(0), default=0.0, show_default=True, help="0 is greedy."
            ),
            click.option(
                "--seed", type=int, default=0, show_default=True, help="Of sampling, at temperatures above 0."
            ),
            click.option(
                "--dtype",
                type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
                default="auto",
                show_default=True,
            ),
            click.option("--revision", help="Branch, tag or commit of a Hugging Face model."),
            click.option(
                "--allow-other-model", is_flag=True, help="Accept vectors of other weights of the same shape."
            ),
            click.option("--eager/--compile", default=None, help="Default: eager on CPU, compiled on GPU."),
            click.option("--max-num-seqs", type=click.IntRange(1), help="Requests in one batch."),
            click.option("--limit", type=click.IntRange(1), help="Use only the first N prompts of each set."),
            click.option("--force", is_flag=True, help="Replace the output if it is already there."),
        ]
    ):
        command = option(command)
    return command


@click.command()
@click.argument("model")
@click.option(
    "--ablation",
    "ablations",
    multiple=True,
    metavar="NAME=FILE[,alpha=A,layers=L,source_layer=N,site=S]",
    help="A condition: the subspace or refusal vectors in FILE, ablated; repeatable.",
)
@engine_options
def generate(model: str, ablations: tuple[str, ...], allow_other_model: bool, out: Path, **options: Any) -> None:
    """Answer prompts with MODEL without intervention and under each named ablation, in one engine.

    \b
    Example:
      refusal generate MODEL --prompts prompts.jsonl \\
          --ablation l9=rvs.safetensors,source_layer=9 --ablation sub=sub.safetensors,alpha=1.5 -o RUN
    """
    from eval.plan import PlanBuilder
    from vllm_refusal.config import load_module
    from vllm_refusal.options import parse_ablation_options

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
@click.option("--alphas", default="1", show_default=True, help="Strengths, e.g. 0.5,1,1.5.")
@click.option(
    "--writes", is_flag=True, help="Also ablate each subspace at attention and MLP writes: equals a checkpoint."
)
@click.option(
    "--random", "n_random", type=click.IntRange(0), default=2, show_default=True, help="Random controls per rank."
)
@engine_options
def sweep(
    model: str,
    rvs: Path,
    source_layers: str,
    subspaces: tuple[str, ...],
    alphas: str,
    writes: bool,
    n_random: int,
    allow_other_model: bool,
    out: Path,
    **options: Any,
) -> None:
    """Ablate each layer's RV, QR subspaces and random controls at every layer of MODEL, all in one engine.

    \b
    Example:
      refusal sweep MODEL --rvs rvs.safetensors --prompts prompts.jsonl --subspace 7-10 --alphas 0.5,1,1.5 -o RUN
    """
    from surgery.subspace import Subspace
    from surgery.vectors import RefusalVectors

    strengths = _strengths(alphas)

    def conditions(builder: Any, info: Any) -> None:
        vectors = RefusalVectors.load(rvs)
        _check_vectors(vectors, info, str(rvs), allow_other_model)
        ranks = [1]
        builder.single_vectors(rvs, source_layers, strengths, allow_other_model)
        for spec in subspaces:
            rank = Subspace.from_vectors(vectors, spec).rank
            ranks.append(rank)
            for site in ("stream", "writes") if writes else ("stream",):
                builder.subspace(rvs, spec, rank, strengths, site, allow_other_model)
        control = 1.0 if 1.0 in strengths else max(strengths)
        builder.random_controls(out / "modules", ranks, n_random, control)

    _run(model, out, conditions, rvs=rvs, **options)


def _run(
    model: str,
    out: Path,
    add_conditions: Callable[[Any, Any], None],
    *,
    prompts: str,
    safe_prompts: str | None,
    checkpoints: tuple[Path, ...],
    max_tokens: int,
    temperature: float,
    seed: int,
    dtype: str,
    revision: str | None,
    eager: bool | None,
    max_num_seqs: int | None,
    limit: int | None,
    force: bool,
    rvs: Path | None = None,
) -> None:
    from eval.generation import generate_run
    from eval.manifest import make_manifest, resume_or_create
    from eval.plan import PlanBuilder
    from eval.progress import progress_bar
    from surgery.chat import chat_template
    from surgery.models import describe_model, load_tokenizer
    from surgery.prompts import load_prompts
    from vllm_refusal.config import check_architecture
    from vllm_refusal.engine import EngineOptions, Sampling

    files = {"harmful": prompts} | ({"safe": safe_prompts} if safe_prompts else {})
    sets = {role: say_origin(load_prompts(source, role))[:limit] for role, source in files.items()}
    info = describe_model(model, revision)
    builder = PlanBuilder(info.n_layers, info.d_model)
    add_conditions(builder, info)
    for folder in checkpoints:
        _add_checkpoint(builder, folder, info)
    plan = builder.build()
    if plan.modules:
        check_architecture(info.architecture)
    chat_template(load_tokenizer(info))
    sampling, options = Sampling(max_tokens, temperature, seed), EngineOptions(dtype, eager, max_num_seqs)
    run = resume_or_create(out, make_manifest(info, plan, files, sets, sampling, options, _arguments(), rvs), force)
    with progress_bar("generating") as progress:
        n_new = generate_run(run, info, plan, sets, sampling, options, progress)
    n_prompts = sum(map(len, sets.values()))
    click.echo(
        f"{out}: {n_new} new responses; {len(plan.conditions)} conditions x {n_prompts} prompts; next: refusal judge {out}"
    )


def _add_checkpoint(builder: Any, folder: Path, info: Any) -> None:
    from surgery.errors import MismatchError
    from surgery.manifest import read_manifest

    manifest = read_manifest(folder)
    base = manifest["base_model"]
    if base["fingerprint"] != info.fingerprint:
        raise MismatchError(
            f"{folder} was made from {base['model']} (fingerprint {base['fingerprint'][:12]}) but the run's model is "
            f"{info.model} (fingerprint {info.fingerprint[:12]}); give a checkpoint of this model"
        )
    builder.checkpoint(folder, manifest)


def _check_vectors(vectors: Any, info: Any, what: str, allow_other: bool) -> None:
    from surgery.errors import MismatchError
    from surgery.models import check_same_model

    check_same_model(vectors.header, info, what, allow_other)
    if tuple(vectors.vectors.shape) != (info.n_layers, info.d_model):
        raise MismatchError(
            f"{what} has vectors {list(vectors.vectors.shape)} but {info.model} has [{info.n_layers}, {info.d_model}] "
            "(n_layers, d_model); extract vectors from this model"
        )


def _arguments() -> list[str]:
    from eval.cli import ARGUMENTS

    return click.get_current_context().meta.get(ARGUMENTS, [])


def _strengths(text: str) -> list[float]:
    from surgery.ablation import check_alpha
    from surgery.errors import AlphaError

    try:
        return [check_alpha(float(part)) for part in text.split(",")]
    except ValueError as err:
        raise AlphaError(f"--alphas {text!r}: expected numbers such as 0.5,1,1.5") from err
