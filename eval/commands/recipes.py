"""The command `refusal reproduce`."""

from pathlib import Path
from typing import Any

import click

PATH = click.Path(path_type=Path)


@click.command()
@click.argument("recipe", required=False)
@click.option("-o", "--output", "out", type=PATH, help="Folder of all artifacts; the same command goes on there.")
@click.option("--model", help="Another model than the recipe's: a folder or a Hugging Face id.")
@click.option("--limit", type=click.IntRange(2), help="Use only the first N prompts of each set.")
@click.option("--max-tokens", type=click.IntRange(1), help="Longest response.")
@click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]))
@click.option("--skip", multiple=True, metavar="STAGE", help="Leave a stage out; repeatable.")
@click.option("--until", default="report", show_default=True, metavar="STAGE", help="Stop after this stage.")
@click.option(
    "--only", multiple=True, metavar="STAGE", help="Run this stage alone, the ones it needs being done; repeatable."
)
@click.option("--judge-model", metavar="M", help="Judge by this model of an OpenAI-compatible endpoint.")
@click.option("--judge-base-url", multiple=True, metavar="URL", help="Its address; repeatable.")
@click.option(
    "--with",
    "further",
    multiple=True,
    metavar="STAGE:OPTION[=VALUE]",
    help='Give a stage\'s command a further option: "extract:batched", "judge:rpm=500"; repeatable.',
)
@click.option("--force", is_flag=True, help="Run every stage anew.")
@click.option("--dry-run", is_flag=True, help="Print the stages and what they will take, and run nothing.")
@click.option("--list", "listed", is_flag=True, help="Print the recipes that come with the package.")
def reproduce(recipe: str | None, out: Path | None, force: bool, dry_run: bool, listed: bool, **options: Any) -> None:
    """Carry out RECIPE, a study from refusal vectors to a report that says which claims of the write-up hold.

    RECIPE is a shipped one (--list) or a .yaml file. Finished stages are not run again; a changed recipe, prompt file or
    model runs again what depends on it.

    \b
    Examples:
      refusal reproduce organism-distributed -o study
      refusal reproduce llama-3.2-1b-instruct --dry-run
      refusal reproduce generic --model MODEL --judge-model gpt-4.1-mini --with judge:rpm=500 -o study
    """
    from eval.studies.recipes.recipe import shipped_recipes

    if listed:
        for name, found in shipped_recipes().items():
            click.echo(f"{name:<24} {found.title}")
        return
    if recipe is None:
        raise click.UsageError("name a RECIPE, or print them with --list")
    if out is None and not dry_run:
        raise click.UsageError("-o says where the artifacts go")
    from eval.commands.generation import command_words
    from eval.generation.interruption import naming_the_whole
    from eval.studies.recipes.reproduction import make_reproduction

    study = make_reproduction(recipe, out or Path(_name_of(recipe)), options)
    if dry_run:
        click.echo("\n".join(study.forecast()))
        return
    with naming_the_whole(command_words(), goes_on=not force):
        click.echo(study.run(force))


def _name_of(recipe: str) -> str:
    """Of a shipped recipe its name, of a file that without its ending: a version number in a name is no ending."""
    return Path(recipe).name.removesuffix(".yaml").removesuffix(".yml")
