"""The command `refusal organism`."""

from pathlib import Path

import click

from surgery.commands.options import PATH, force_option
from surgery.console.progress import progress_bar


@click.command()
@click.argument("name", type=click.Choice(["single", "distributed", "plain"]))
@click.option("-o", "--output", type=PATH, required=True, help="The model folder to write.")
@click.option("--retrain", is_flag=True, help="Train from scratch (minutes) instead of copying the packaged weights.")
@click.option("--seed", type=int, help="Of training, with --retrain; what it misses is written down, not tried again.")
@force_option
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

    with progress_bar("training", "step") as progress:
        folder = write_organism(
            name,
            output,
            retrain=retrain,
            seed=seed,
            force=force,
            progress=lambda stage, done, total: progress(done, total, stage),
        )
    click.echo(f"wrote {folder}")
