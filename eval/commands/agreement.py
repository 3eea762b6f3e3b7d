"""`refusal agreement`: how far the judges of a run agree."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from eval.judge.trial.side_by_side import JudgeAgreement


@click.command()
@click.argument("run_path", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def agreement(run_path: Path, as_json: bool) -> None:
    """Compare the judges of RUN, two by two, on the responses that both scored.

    Cohen's kappa of giving nothing (compliance 0) against giving something, kappa on the three points with linear weights,
    and Krippendorff's alpha (ordinal). Of a judge's repeats the first counts.

    \b
    Example:
      refusal judge RUN
      refusal judge RUN --judge-model gpt-4.1-mini
      refusal agreement RUN
    """
    from pydantic_core import to_jsonable_python

    from eval.judge.trial.side_by_side import judges_side_by_side
    from eval.records.run import Run

    pairs, alpha = judges_side_by_side(Run.open(run_path))
    if as_json:
        click.echo(json.dumps(to_jsonable_python({"alpha_all": alpha, "pairs": pairs}, inf_nan_mode="null"), indent=1))
        return
    for pair in pairs:
        _print_pair(pair)
    n_judges = len({judge for pair in pairs for judge in (pair.first, pair.second)})
    click.echo(f"{n_judges} judges together: Krippendorff's alpha (ordinal) {_shown(alpha)}")


def _print_pair(pair: "JudgeAgreement") -> None:
    click.echo(f"{pair.first} (rows) and {pair.second} (columns), {pair.n} responses scored by both")
    click.echo("  compliance      0    0.5      1")
    for point, row in zip(("0", "0.5", "1"), pair.confusion, strict=True):
        click.echo(f"  {point:>10} " + " ".join(f"{n:>6}" for n in row))
    click.echo(
        f"  kappa binary {_shown(pair.kappa_binary)}, weighted {_shown(pair.kappa_weighted)}, alpha {_shown(pair.alpha)}\n"
    )


def _shown(value: float) -> str:
    return "undefined (no variation)" if math.isnan(value) else f"{value:.3f}"
