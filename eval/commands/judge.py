"""`refusal judge`: score the responses of a run."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eval.commands.judge_options import judge_options
from surgery.console.given import given
from surgery.console.table import table

if TYPE_CHECKING:
    from eval.endpoints.spending import Usage
    from eval.judge.judging import JudgingSummary
    from eval.judge.protocol import Judge
    from eval.records.run import Run
    from eval.statistics.scores import Scores


@click.command("judge")
@click.argument("run_path", metavar="[RUN]", required=False, type=click.Path(path_type=Path))
@judge_options
@click.option("--repeats", type=click.IntRange(1), default=1, show_default=True, help="Verdicts for each response.")
@click.option("--retry-unscored", is_flag=True, help="Judge unscored responses again, whatever the reason was.")
@click.option(
    "--self-test",
    is_flag=True,
    help="Judge no run: say which injections the judge obeys, and which clear cases it errs on.",
)
@click.option("--redact", is_flag=True, help="Then take the text out of RUN, as refusal redact does.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def judge(
    run_path: Path | None,
    repeats: int,
    retry_unscored: bool,
    self_test: bool,
    redact: bool,
    as_json: bool,
    **choice: Any,
) -> None:
    """Score compliance and coherence of every response in RUN, each 0, 0.5 or 1.

    Only what this judge has not judged yet is judged, so an interrupted call is repeated. Verdicts of different
    judges stand side by side (refusal agreement RUN). Keys come from the environment only.

    \b
    Examples:
      refusal judge RUN
      refusal judge RUN --judge-model gpt-4.1-mini --judge-base-url https://api.openai.com/v1
      refusal judge RUN --judge-model allenai/wildguard --rubric wildguard --judge-base-url http://localhost:8000/v1
      refusal judge --self-test --judge-model gpt-4.1-mini
    """
    if self_test and redact:
        raise click.UsageError("--redact takes the text out of a RUN; --self-test has none")
    if self_test and given(
        {"repeats": repeats, "retry_unscored": retry_unscored}, {"repeats": 1, "retry_unscored": False}
    ):
        raise click.UsageError("--repeats and --retry-unscored belong to a RUN; --self-test has none")
    if (run_path is None) != self_test:
        raise click.UsageError("give a RUN to judge, or --self-test without one")
    from eval.judge.choice import choose_judge

    chosen = choose_judge(**choice)
    if run_path is None:
        _self_test(chosen, as_json)
        return
    _judge_run(run_path, chosen, repeats, retry_unscored, as_json)
    if redact:
        _redact(run_path)


def _redact(run_path: Path) -> None:
    from eval.records.redacting import redact_run
    from eval.records.run import Run

    click.echo(f"{run_path}: {redact_run(Run.open(run_path))} responses redacted", err=True)


def _judge_run(run_path: Path, chosen: "Judge", repeats: int, retry_unscored: bool, as_json: bool) -> None:
    from eval.endpoints.spending import read_spending
    from eval.judge.judging import judge_run
    from eval.records.run import Run
    from surgery.console.progress import progress_bar

    run = Run.open(run_path)
    chosen.keep_accounts(run.path)
    with progress_bar("judging", "response") as progress:
        summary = judge_run(run, chosen, progress, repeats=repeats, retry_unscored=retry_unscored)
    rows = condition_rows(run, summary.judge_id)
    bill = _bill(chosen, read_spending(run.path))
    if as_json:
        told = {**asdict(summary), "reasons": dict(summary.reasons), **bill, "conditions": rows}
        click.echo(json.dumps(told, indent=1))
    else:
        click.echo(_table(rows))
        click.echo(_summary_line(summary, bill), err=True)


def _bill(judge: "Judge", spending: Mapping[str, "Usage"]) -> dict[str, Any]:
    """What a judge and its fallback have cost on a run over all calls, and how much of this call the fallback took.

    The cost is None without prices.
    """
    spent = [(payer, spending[payer.judge_id]) for payer in judge.payers if payer.judge_id in spending]
    costs = [payer.cost(usage) for payer, usage in spent]
    known = [cost for cost in costs if cost is not None]
    cost = sum(known) if known and len(known) == len(costs) else None
    tokens = sum(usage.total_tokens for _, usage in spent)
    return {"tokens_all_calls": tokens, "cost_all_calls": cost, "n_fallback": judge.n_handed_on}


def _self_test(chosen: "Judge", as_json: bool) -> None:
    from eval.judge.trial.selftest import run_self_test

    result = run_self_test(chosen)
    if as_json:
        click.echo(json.dumps({**asdict(result), "passed": result.passed}, indent=1))
    else:
        click.echo(f"{result.judge_id}: obeyed {len(result.obeyed)} of {result.n_injections} injections")
        for name in result.obeyed:
            click.echo(f"  obeyed: {name}")
        for name, reason in result.unscored.items():
            click.echo(f"  unscored: {name} ({reason})")
        right = result.n_cases - len(result.misjudged)
        click.echo(f"{result.judge_id}: scored {right} of {result.n_cases} clear cases right")
        for name, found in result.misjudged.items():
            click.echo(f"  {name}: {found}")
    if not result.passed:
        raise click.exceptions.Exit(1)


def condition_rows(run: "Run", judge_id: str) -> list[dict[str, Any]]:
    """Per condition and prompt set: responses asked for and unscored, and the report's means (None without scores)."""
    from eval.statistics.scores import ScoredRun

    scored = ScoredRun(run, judge_id)
    return [
        _condition_row(scored.scores(condition, name))
        for condition in scored.conditions
        for name in scored.prompts
        if scored.has(condition, name)
    ]


def _condition_row(scores: "Scores") -> dict[str, Any]:
    from eval.records.measures import MEANS

    means = {measure.name: scores.mean(measure.name) if scores.n_scored else None for measure in MEANS}
    counts = {"n": scores.n, "n_unscored": scores.n_unscored}
    return {"condition": scores.condition.id, "prompt_set": scores.prompt_set, **counts, **means}


def _table(rows: list[dict[str, Any]]) -> str:
    keys = {"condition": "<", "prompts": "<8", "n": ">5", "unscored": ">8", "compliance": ">10", "coherence": ">9"}
    names = ("condition", "prompt_set", "n", "n_unscored")
    measures = ("compliance", "coherence")
    cells = (
        [*(row[name] for name in names), *(None if row[name] is None else f"{row[name]:.3f}" for name in measures)]
        for row in rows
    )
    return "\n".join(table(list(keys.items()), cells))


def _summary_line(summary: "JudgingSummary", bill: Mapping[str, Any]) -> str:
    reasons = ", ".join(f"{n} {reason}" for reason, n in summary.reasons.most_common())
    told = f"{summary.judge_id}: {summary.n_scored} scored, {summary.n_unscored} unscored"
    told += f" ({reasons})" if reasons else ""
    told += f"; now judged {summary.n_judged}, taken over {summary.n_cached}, in {summary.seconds:.1f} s"
    told += f", {summary.usage.n_requests} requests, {summary.tokens} tokens" if summary.usage.n_requests else ""
    if bill["tokens_all_calls"]:
        told += f"; all calls {bill['tokens_all_calls']} tokens"
        told += f", cost {bill['cost_all_calls']:.4f}" if bill["cost_all_calls"] is not None else ""
    return told + (f"; {bill['n_fallback']} handed to the fallback" if bill["n_fallback"] else "")
