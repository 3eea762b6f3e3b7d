"""The `report` command, and the headline that other commands print."""

from pathlib import Path

import click


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", "out", required=True, type=click.Path(path_type=Path), help="Report folder to write.")
@click.option("--judge", "judge_id", help="Whose verdicts to show. Default: a language-model judge if there is one.")
@click.option("--force", is_flag=True, help="Replace the output if it is already there.")
def report(runs: tuple[Path, ...], out: Path, judge_id: str | None, force: bool) -> None:
    """Tables, figures and a response browser of judged RUNs.

    Writes report.html (one file, opens without a network), report.md, tables/*.csv and figures/*.svg. Of runs with
    conditions from tiers (sweep --tiers) the transfer between them is printed as well.

    \b
    Examples:
      refusal report RUN -o DIR
      refusal report RUN_A RUN_B -o DIR        several models, with a contrast table
    """
    from eval.report.console import transfer_text
    from eval.report.report import write_report

    told: list[str] = []
    click.echo(write_report(runs, out, judge_id, force, tell=lambda results: told.append(transfer_text(results))))
    for text in filter(None, told):
        click.echo(text)
