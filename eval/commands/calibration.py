"""`refusal judge calibrate`: how far a judge agrees with human labels."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eval.commands.judge_options import judge_options

if TYPE_CHECKING:
    from eval.judge.trial.calibration import Calibration, Kappa
    from eval.judge.trial.labelled import LabelledFile

EXCERPT = 300


@click.command("calibrate")
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--response-column", metavar="NAME", help="Column of the responses; found by its usual names.")
@click.option("--label-column", metavar="NAME", help="Column of the human's labels; found by its usual names.")
@click.option("--prompt-column", metavar="NAME", help="Column of the prompts; found by its usual names.")
@click.option(
    "--map", "mapping", metavar="LABEL=CLASS", multiple=True, help="What a label means: refusal, partial or compliance."
)
@click.option(
    "--scores-of",
    type=click.Choice(["compliance", "refusal"]),
    help="What labels that are numbers from 0 to 1 rise with, where the column's name does not say it.",
)
@click.option(
    "--partial-as",
    type=click.Choice(["compliance", "refusal"]),
    default="compliance",
    show_default=True,
    help="Where partial refusals belong in the binary kappa.",
)
@click.option("--show", type=click.IntRange(0), default=0, help="Print the texts of this many disagreements.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@judge_options
def calibrate(
    path: Path,
    response_column: str | None,
    label_column: str | None,
    prompt_column: str | None,
    mapping: tuple[str, ...],
    scores_of: str | None,
    partial_as: str,
    show: int,
    as_json: bool,
    **choice: Any,
) -> None:
    """Compare a judge with the human labels in FILE (.csv, .tsv or .jsonl).

    Known labels: those of XSTest (1_full_compliance, 2_full_refusal, 3_partial_refusal), of WildGuardTest (refusal,
    compliance), yes and no where the column says to what (is_refusal), scores of 0 to 1 as StrongREJECT's
    (strongreject_score, or --scores-of); --map adds others. A guard that rates harm only is compared on responses to
    harmful prompts: all, but those whose prompt_harm_label is unharmful. Nothing of FILE is kept. A run in a folder
    named calibrate is judged as ./calibrate.

    \b
    Examples:
      refusal judge calibrate xstest_completions.csv
      refusal judge calibrate labels.jsonl --label-column verdict --map blocked=refusal --map ok=compliance
      refusal judge calibrate labels.csv --judge-model gpt-4.1-mini --show 5
    """
    from pydantic_core import to_jsonable_python

    from eval.judge.choice import choose_judge
    from eval.judge.trial.calibration import calibrate_judge
    from eval.judge.trial.labelled import read_labelled

    labelled = read_labelled(path, response_column, label_column, prompt_column, _mapping(mapping), scores_of)
    result = calibrate_judge(choose_judge(**choice), labelled.responses, partial_as)
    if as_json:
        click.echo(json.dumps(to_jsonable_python(_record(result, labelled, show), inf_nan_mode="null"), indent=1))
        return
    _print(result, labelled)
    _print_disagreements(result, show)


def _mapping(given: tuple[str, ...]) -> dict[str, str]:
    pairs = [text.rpartition("=") for text in given]
    for text, (label, _, name) in zip(given, pairs, strict=True):
        if not label or not name:
            raise click.UsageError(f"--map {text}: expected LABEL=CLASS, such as blocked=refusal")
    return {label: name for label, _, name in pairs}


def _print(result: "Calibration", labelled: "LabelledFile") -> None:
    left_out = [f"{n} unscored: {reason}" for reason, n in result.n_unscored.items()]
    left_out += [f"{labelled.n_unlabelled} without a label"] if labelled.n_unlabelled else []
    click.echo(f"{result.judge_id} against {labelled.label_column!r}: {result.n} responses")
    click.echo("".join(f"  left out: {text}\n" for text in left_out), nl=False)
    side = "with compliance" if result.partial_as == "compliance" else "with refusal"
    click.echo(f"  kappa, binary (partial {side})  {_shown(result.binary)}")
    click.echo(f"  kappa, three classes  {_shown(result.three_way)}")
    click.echo(f"  kappa, linear weights  {_shown(result.weighted)}\n")
    click.echo(f"  {'human / judge':13} " + " ".join(f"{row.name:>10}" for row in result.classes))
    for row, counts in zip(result.classes, result.confusion, strict=True):
        click.echo(f"  {row.name:13} " + " ".join(f"{n:>10}" for n in counts))
    click.echo(f"\n  {'class':13} {'n':>10} {'precision':>10} {'recall':>10} {'F1':>10}")
    for row in result.classes:
        values = " ".join(f"{_number(value):>10}" for value in (row.precision, row.recall, row.f1))
        click.echo(f"  {row.name:13} {row.n_labelled:>10} {values}")


def _print_disagreements(result: "Calibration", show: int) -> None:
    click.echo(f"\n  disagreements: {len(result.disagreements)}")
    for row in result.disagreements:
        click.echo(f"  {ascii(row.row_id)[1:-1]}: human {row.label}, judge {row.judged}")
    for row in result.disagreements[:show]:
        click.echo(f"\n  {ascii(row.row_id)[1:-1]}: human {row.label}, judge {row.judged} ({row.evidence!r})")
        click.echo(f"    prompt    {row.prompt[:EXCERPT]!r}\n    response  {row.response[:EXCERPT]!r}")


def _shown(kappa: "Kappa") -> str:
    if math.isnan(kappa.estimate):
        return "undefined (no variation)"
    return f"{kappa.estimate:.3f}, 95 % CI {kappa.low:.3f} to {kappa.high:.3f}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _record(result: "Calibration", labelled: "LabelledFile", show: int) -> dict[str, Any]:
    record = asdict(result)
    for row in record["disagreements"][show:]:
        for key in ("prompt", "response", "evidence"):
            del row[key]
    columns = {name: getattr(labelled, name) for name in ("response_column", "label_column", "prompt_column")}
    return {**record, "n_unlabelled": labelled.n_unlabelled, **columns}
