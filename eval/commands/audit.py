"""`refusal audit`: how robust a model's refusal is to linear edits."""

from pathlib import Path
from typing import Any

import click

from eval.commands.judge_options import judge_options
from surgery.commands.options import engine_dtype_option
from surgery.commands.prompts import SOURCE_HELP

PATH = click.Path(path_type=Path)


@click.command()
@click.argument("model")
@click.option("--pairs", metavar="SOURCE", default="builtin", show_default=True, help="Extraction pairs.")
@click.option("--prompts", metavar="SOURCE", default="builtin", show_default=True, help=f"Harmful: {SOURCE_HELP}")
@click.option("--safe-prompts", metavar="SOURCE", default="builtin", show_default=True, help="Safe ones, likewise.")
@click.option("--rvs", type=PATH, metavar="FILE", help="Refusal vectors of MODEL instead of extracting them.")
@click.option("--max-rank", type=click.IntRange(1, 64), default=16, show_default=True, help="Largest subspace tried.")
@click.option("--alphas", default="0.5,1,1.5", show_default=True, help="Strengths that are measured.")
@click.option("--limit", type=click.IntRange(2), help="Use only the first N prompts of each set.")
@click.option("--max-tokens", type=click.IntRange(1), default=256, show_default=True, help="Longest response.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the halves of the prompts.")
@engine_dtype_option
@click.option("--revision", help="Branch, tag or commit of a Hugging Face model.")
@click.option("--eager/--compile", default=None, help="Default: eager on CPU, compiled on GPU.")
@click.option("--max-num-seqs", type=click.IntRange(1), help="Requests in one batch.")
@click.option("--weights/--no-weights", default=True, show_default=True, help="Make and compare a checkpoint as well.")
@click.option(
    "--tasks",
    default="local",
    show_default=True,
    help='Benchmarks of the ablations that work best, as refusal benchmark takes them, or "none".',
)
@click.option("--task-limit", type=click.IntRange(1), help="Use only the first N documents of each task.")
@click.option("--dry-run", is_flag=True, help="Say what it would ask for at most, and end.")
@click.option("-o", "--output", "out", type=PATH, required=True, help="Folder to write; the same command resumes it.")
@click.option("--force", is_flag=True, help="Replace an audit that is there, once this one is finished.")
@judge_options
def audit(model: str, out: Path, dry_run: bool, force: bool, **options: Any) -> None:
    """Audit how robust the refusals of MODEL are to linear edits, and end with a verdict on one page.

    Ablates every layer's refusal vector, then subspaces grown layer by layer on one half of the harmful prompts, and
    measures what was chosen on the other half: against rank, strength and random controls, plain, affine and projected,
    at run time and in the weights, per tier; what it costs on safe prompts and on benchmarks; and what adding the vectors
    does to safe prompts. Writes audit.html, audit.md, audit.json, and every response in runs/, one run a stage; a judge's
    limits of cost and tokens hold for each of them.

    \b
    Example:
      refusal audit meta-llama/Llama-3.2-1B-Instruct --judge-model gpt-4.1-mini -o audit
    """
    from eval.commands.generation import command_words, read_strengths
    from eval.generation.interruption import ending_resumably
    from eval.records.replacement import aside_of
    from eval.studies.audit.page import write_pages
    from eval.studies.audit.preparation import begin, prepare, replacing_audit

    arguments, alphas = command_words(), tuple(read_strengths(options.pop("alphas")))
    request = prepare(model, alphas, options, arguments)
    click.echo(f"{request.size}\n{request.capability}", err=not dry_run)
    if dry_run:
        return
    if force and out.exists():
        click.echo(f"{out}: what is there is kept in {aside_of(out)} until this audit is finished", err=True)
    with replacing_audit(out, force), ending_resumably(out, arguments) as interruption:
        begin(out, request)
        found = request.audit(out, interruption.check).run()
        page = write_pages(found, out)
    click.echo(f"{found.verdict.text}\n{page}")
