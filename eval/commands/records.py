"""The commands that change the form of a run: `export` for other programs, `redact` for publication."""

from pathlib import Path

import click

PATH = click.Path(path_type=Path)


@click.command()
@click.argument("run_path", metavar="RUN", type=PATH)
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "parquet", "inspect", "openai-batch"]),
    required=True,
    help="Table of responses and verdicts, inspect_ai log, or batch requests.",
)
@click.option("-o", "--out", "--output", "out", type=PATH, required=True, help="File to write.")
@click.option("--force", is_flag=True, help="Replace the output if it is already there.")
def export(run_path: Path, form: str, out: Path, force: bool) -> None:
    """Write RUN as one file that other programs read.

    csv and parquet: a row for each response and verdict. inspect: a JSON log for `inspect view`. openai-batch: the
    run's requests, for `vllm run-batch` or an endpoint's batch interface.

    \b
    Examples:
      refusal export RUN --format parquet -o run.parquet
      refusal export RUN --format inspect -o logs/run.json
    """
    from eval.records.export import export_run
    from eval.records.run import Run

    n_rows = export_run(Run.open(run_path), form, out, force)
    named = {"inspect": "samples", "openai-batch": "requests"}.get(form, "rows")
    click.echo(f"{out}: {n_rows} {named}")


@click.command()
@click.argument("run_path", metavar="RUN", type=PATH)
@click.option("--prompts", "--redact-prompts", "prompts", is_flag=True, help="Take the prompts' text out as well.")
@click.option("-o", "--output", "out", type=PATH, help="Write a redacted copy here and leave RUN as it is.")
@click.option("--unjudged", is_flag=True, help="Go on though some responses have no verdict and never can have one.")
@click.option("--force", is_flag=True, help="Replace the output if it is already there.")
def redact(run_path: Path, prompts: bool, out: Path | None, unjudged: bool, force: bool) -> None:
    """Take the text out of a judged RUN: salted hashes, lengths, scores and counts stay.

    Responses and the evidence that judges quote are removed, for good unless -o names a copy. Reports work as before,
    without the text; the run cannot be judged again. Only RUN's own records are changed: reports and exports made of
    it before, and copies of it, still hold the text.

    \b
    Example:
      refusal redact RUN -o RUN-redacted --prompts
    """
    from eval.records.redacting import redact_run
    from eval.records.run import Run

    if force and out is None:
        raise click.UsageError("--force belongs to -o; without it RUN itself is redacted")
    n_rows = redact_run(Run.open(run_path), prompts, out, unjudged, force)
    click.echo(f"{out or run_path}: {n_rows} responses redacted{', and their prompts' if prompts else ''}")
