"""The command `refusal benchmark`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from eval.benchmark.study import Outcome

PATH = click.Path(path_type=Path)


@click.command()
@click.argument("model")
@click.option("--checkpoint", "checkpoints", type=PATH, multiple=True, help="Orthogonalized checkpoint; repeatable.")
@click.option("--adapter", "adapters", type=PATH, multiple=True, help="LoRA adapter (refusal adapter); repeatable.")
@click.option(
    "--ablation",
    "ablations",
    multiple=True,
    metavar="NAME=FILE[,alpha=A,layers=L,source_layer=N,site=S]",
    help="The subspace or refusal vectors in FILE, ablated at run time; repeatable.",
)
@click.option(
    "--tasks",
    default="local",
    show_default=True,
    help='"local" (small, in the package), tasks of lm-evaluation-harness such as mmlu,gsm8k, or a task\'s YAML file.',
)
@click.option("--limit", type=click.IntRange(1), help="Use only the first N documents of each task.")
@click.option(
    "--num-fewshot", type=click.IntRange(0), help="Worked examples before each document. Default: the task's."
)
@click.option("--chat-template/--no-chat-template", default=True, show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True)
@click.option(
    "--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto", show_default=True
)
@click.option("--revision", help="Branch, tag or commit of a Hugging Face model.")
@click.option("--allow-other-model", is_flag=True, help="Accept vectors of other weights of the same shape.")
@click.option("-o", "--output", "out", type=PATH, required=True, help="Folder; the same command goes on there.")
@click.option("--force", is_flag=True, help="Run all anew.")
def benchmark(
    model: str,
    checkpoints: Sequence[Path],
    adapters: Sequence[Path],
    ablations: Sequence[str],
    tasks: str,
    revision: str | None,
    allow_other_model: bool,
    out: Path,
    force: bool,
    **settings: object,
) -> None:
    """Benchmark MODEL and edited variants of it on the same documents, by lm-evaluation-harness.

    All variants run in transformers, with the same template, shots and documents; an ablation acts by forward hooks,
    which is what the engine does (refusal doctor). Differences are paired by document. KL divergence and perplexity are
    refusal damage's.

    \b
    Examples:
      refusal benchmark MODEL --checkpoint edited --ablation sub=sub.safetensors,alpha=0.5 -o bench
      refusal benchmark MODEL --checkpoint edited --tasks mmlu,gsm8k,hellaswag --limit 200 -o bench
    """
    from eval.benchmark.study import Benchmark, Settings
    from eval.benchmark.tasks import parse_tasks
    from eval.benchmark.variants import make_variants
    from eval.commands import command_words
    from surgery.chat import chat_template as check_template
    from surgery.models import describe_model, load_tokenizer
    from vllm_refusal.options import parse_ablation_options

    modules = parse_ablation_options(ablations, allow_other_model)
    info = describe_model(model, revision)
    variants = make_variants(info, checkpoints, adapters, modules)
    asked = parse_tasks(tasks, is_organism=(Path(info.path) / "ground_truth.json").is_file())
    if settings["chat_template"]:
        check_template(load_tokenizer(info))
    study = Benchmark(out, info, variants, Settings(**settings))  # type: ignore[arg-type]
    outcomes = study.run(asked, lambda line: click.echo(line, err=True), command_words(), force)
    click.echo("\n".join(table(outcomes)))


def table(outcomes: "Sequence[Outcome]") -> list[str]:
    """The outcomes as lines of text."""
    from eval.report.documents import bounds, display, number

    width = max(len(each.variant) for each in outcomes)
    head = f"{'task':<18} {'variant':<{width}} {'measure':<12} {'n':>5}  {'score':<20} {'paired difference'}"
    lines = [head]
    for each in outcomes:
        change = "" if each.change is None else f"{number(each.change.estimate, '+.3f')} {bounds(each.change)}"
        lines.append(
            f"{each.task:<18} {each.variant:<{width}} {each.measure:<12} {each.score.n:>5}  "
            f"{display(each.score):<20} {change}".rstrip()
        )
    return lines
