"""`refusal power`: the sampling plan, before anything is generated."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eval.commands.judge_options import Finite
from surgery.console.table import table

if TYPE_CHECKING:
    from eval.power.pilot import Pilot
    from eval.power.power import Level, Spread
    from eval.power.sampling_plan import PlanRow

SHARE = Finite(0, 1)
LEVEL = Finite(1e-12, 1, max_open=True)
CHANCE = Finite(0, 1, min_open=True, max_open=True)
OF_PILOTS = ("baseline", "correlation", "discordance", "judge_noise")


@click.command()
@click.option("--difference", type=Finite(-1, 1), help="In mean compliance, e.g. 0.1: how many prompts?")
@click.option("--n", "n_prompts", type=click.IntRange(4, 10_000_000), help="Prompts: how small a difference?")
@click.option("--baseline", type=SHARE, help="Mean compliance without intervention. Default: 0.1.")
@click.option("--correlation", type=Finite(-1, 1), help="Of a prompt's scores with and without. Default: 0.4.")
@click.option("--discordance", type=SHARE, help="Share of prompts whose score changes, instead of the correlation.")
@click.option(
    "--conditions", type=click.IntRange(1, 100_000), help="Layers or other interventions compared. Default: 1."
)
@click.option("--tiers", type=click.IntRange(1, 1_000), help="Tiers of prompts to be compared. Default: 1.")
@click.option("--repeats", type=click.IntRange(1, 1_000), default=1, show_default=True, help="Verdicts per response.")
@click.option("--judge-noise", type=Finite(0, 0.5), help="sd of one verdict around their mean. Default: 0.")
@click.option("--run", "run_path", type=click.Path(path_type=Path), help="A judged run as pilot: spread and noise.")
@click.option("--judge", "judge_id", help="Whose verdicts of the pilot to take.")
@click.option("--power", "chance", type=CHANCE, default=0.8, show_default=True, help="Chance of finding it.")
@click.option("--significance", type=LEVEL, default=0.05, show_default=True, help="Level of the two-sided tests.")
@click.option("--price", type=Finite(0), help="Of one verdict, for the cost.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def power(
    difference: float | None,
    n_prompts: int | None,
    conditions: int | None,
    tiers: int | None,
    repeats: int,
    run_path: Path | None,
    judge_id: str | None,
    chance: float,
    significance: float,
    price: float | None,
    as_json: bool,
    **model: float | None,
) -> None:
    """Print how many prompts, responses and verdicts a difference in compliance takes, or what N prompts can show.

    Correction over layers is by Bonferroni, an upper bound of what max-T needs. Numbers are of scored prompts: add what
    the judge is expected to leave unscored.

    \b
    Examples:
      refusal power --difference 0.1 --conditions 32 --tiers 2
      refusal power --n 100 --conditions 32
      refusal power --difference 0.05 --run RUN --repeats 3 --price 0.002
    """
    from eval.power.power import Level
    from eval.power.sampling_plan import Size, plan_for_difference, plan_for_prompts

    if (difference is None) == (n_prompts is None):
        raise click.UsageError("give --difference, or --n for the difference that so many prompts can show")
    pilot = _pilot(run_path, judge_id, repeats, model)
    spread = pilot.spread if pilot else _spread(repeats, model)
    level = Level(1, chance, significance)
    _check_power(level)
    size = Size(conditions or (pilot.n_conditions if pilot else 1), tiers or (pilot.n_tiers if pilot else 1), price)
    if n_prompts is not None:
        rows = plan_for_prompts(n_prompts, spread, level, size)
    else:
        assert difference is not None
        _check_difference(difference, spread)
        rows = plan_for_difference(difference, spread, level, size)
    if as_json:
        found = {"spread": asdict(spread), "level": asdict(level), "plan": [asdict(row) for row in rows]}
        click.echo(json.dumps(found, indent=1))
        return
    click.echo("\n".join(_lines(rows, spread, level, difference, pilot)))


def _pilot(path: Path | None, judge_id: str | None, repeats: int, model: Mapping[str, Any]) -> "Pilot | None":
    from dataclasses import replace

    from eval.power.pilot import read_pilot
    from eval.records.run import Run
    from eval.statistics.scores import open_scored

    if path is None:
        if judge_id is not None:
            raise click.UsageError("--judge belongs to --run")
        return None
    given = [name for name in OF_PILOTS[:3] if model[name] is not None]
    if given:
        raise click.UsageError(f"--{given[0]} is read from the pilot of --run; leave one of them out")
    (scored,) = open_scored([Run.open(path)], judge_id)
    pilot = read_pilot(scored, repeats)
    if model["judge_noise"] is None:
        return pilot
    return replace(pilot, spread=replace(pilot.spread, judge_noise=model["judge_noise"]), noise_known=True)


def _spread(repeats: int, model: Mapping[str, Any]) -> "Spread":
    from eval.power.power import Spread

    if model["correlation"] is not None and model["discordance"] is not None:
        raise click.UsageError("give --correlation or --discordance, not both")
    return Spread(repeats=repeats, **{name: value for name, value in model.items() if value is not None})


def _check_power(level: "Level") -> None:
    from eval.power.power import PowerError

    if level.power <= level.significance:
        raise PowerError(
            f"--power {level.power:g}: a test at level {level.significance:g} finds so much by chance; give more than that"
        )


def _check_difference(difference: float, spread: "Spread") -> None:
    from eval.power.power import PowerError

    if difference == 0 or not 0 <= spread.baseline + difference <= 1:
        raise PowerError(
            f"--difference {difference:g} from a baseline of {spread.baseline:.3g} must differ from 0 and stay within 0..1"
        )
    if spread.discordance is not None and spread.discordance < abs(difference):
        raise PowerError(
            f"--discordance {spread.discordance:g}: fewer prompts change than a difference of {difference:g} takes; "
            "give at least that"
        )
    most = spread.most_moved(difference)
    if spread.discordance is not None and spread.discordance > most + 1e-9:
        raise PowerError(
            f"--discordance {spread.discordance:g}: more prompts change than the {most:.3g} that a baseline of "
            f"{spread.baseline:g} and a difference of {difference:g} allow; give at most that"
        )


def _lines(
    rows: Sequence["PlanRow"], spread: "Spread", level: "Level", difference: float | None, pilot: "Pilot | None"
) -> list[str]:
    asked = f"to find {difference:+g}" if difference is not None else "least rise found"
    columns = [("", "<46"), ("difference", ">10"), ("prompts", ">12"), ("responses", ">10"), ("verdicts", ">10")]
    columns += [("cost", ">10")] if any(row.cost is not None for row in rows) else []
    return [
        f"{asked} with {level.power:.0%} power at p <= {level.significance:g}, two-sided",
        *_assumptions(spread, difference, pilot),
        "",
        *table(columns, [_cells(row)[: len(columns)] for row in rows], gap=" "),
        "",
        "corrected: Bonferroni over the conditions, an upper bound of what max-T and Holm need",
        "prompts are scored ones; verdicts are an upper bound, for equal responses are judged once",
    ]


def _assumptions(spread: "Spread", difference: float | None, pilot: "Pilot | None") -> list[str]:
    noise = f"judge's noise {spread.judge_noise:.3g} a verdict, {spread.repeats} a response"
    if pilot is None:
        tied = f"correlation {spread.correlation:g}" if spread.discordance is None else ""
        tied = tied or f"discordance {spread.discordance:g}"
        sd = "" if difference is None else f": paired differences have sd {spread.sd(difference):.3f}"
        return [f"assuming baseline compliance {spread.baseline:g}, {tied}, {noise}{sd}"]
    unknown = "" if pilot.noise_known else " (not known: no response has two verdicts)"
    seen = f"pilot of {pilot.n_prompts} prompts: baseline compliance {spread.baseline:.3f}, sd {spread.pilot_sd:.3f}"
    return [f"{seen} over {pilot.n_conditions} conditions, {noise}{unknown}"]


def _cells(row: "PlanRow") -> list[object]:
    difference = "none" if row.difference is None else f"{row.difference:.3g}"
    if row.n_prompts is None:
        return [row.name, difference, "more than 10 million", "", "", ""]
    each = f"{row.n_groups} x {row.n_prompts // row.n_groups}" if row.n_groups > 1 else str(row.n_prompts)
    cost = "" if row.cost is None else f"{row.cost:.2f}"
    return [row.name, difference, each, row.n_responses, row.n_verdicts, cost]
