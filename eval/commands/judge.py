"""`refusal judge`: score the responses of a run."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eval.commands.judge_options import judge_options
from eval.judge.choice import choose_judge
from surgery.console.given import given

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
    bill = Bill.of(chosen, read_spending(run.path))
    if as_json:
        click.echo(json.dumps(_summary_json(summary, rows, bill), indent=1))
    else:
        _print_table(rows)
        click.echo(_summary_line(summary) + bill.told(), err=True)


@dataclass(frozen=True)
class Bill:
    """What a judge has cost on a run over all calls, and how much of this call its fallback took.

    Attributes:
        tokens: prompt and completion tokens of all calls.
        cost: their price; None without prices.
        n_fallback: responses that the fallback was asked about in this call.
    """

    tokens: int
    cost: float | None
    n_fallback: int

    @classmethod
    def of(cls, judge: "Judge", spending: Mapping[str, "Usage"]) -> "Bill":
        """Sum over the judge and its fallback."""
        spent = [(payer, spending[payer.judge_id]) for payer in judge.payers if payer.judge_id in spending]
        costs = [payer.cost(usage) for payer, usage in spent]
        known = [cost for cost in costs if cost is not None]
        cost = sum(known) if known and len(known) == len(costs) else None
        return cls(sum(usage.total_tokens for _, usage in spent), cost, judge.n_handed_on)

    def told(self) -> str:
        """What the summary line adds."""
        cost = f", cost {self.cost:.4f}" if self.cost is not None else ""
        handed = f"; {self.n_fallback} handed to the fallback" if self.n_fallback else ""
        return f"; all calls {self.tokens} tokens{cost}{handed}" if self.tokens else handed


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


def _print_table(rows: list[dict[str, Any]]) -> None:
    from eval.records.measures import MEANS

    width = max(len("condition"), *(len(row["condition"]) for row in rows))
    widths = {measure.name: len(measure.label) for measure in MEANS}
    heads = " ".join(measure.label for measure in MEANS)
    click.echo(f"{'condition':{width}}  {'prompts':8} {'n':>5} {'unscored':>8} {heads}")
    for row in rows:
        means = ("-" if row[name] is None else f"{row[name]:.3f}" for name in widths)
        told = " ".join(f"{mean:>{width}}" for mean, width in zip(means, widths.values(), strict=True))
        click.echo(f"{row['condition']:{width}}  {row['prompt_set']:8} {row['n']:>5} {row['n_unscored']:>8} {told}")


def _summary_line(summary: "JudgingSummary") -> str:
    reasons = (
        f" ({', '.join(f'{n} {reason}' for reason, n in summary.reasons.most_common())})" if summary.reasons else ""
    )
    tokens = f", {summary.usage.n_requests} requests, {summary.tokens} tokens" if summary.usage.n_requests else ""
    return (
        f"{summary.judge_id}: {summary.n_scored} scored, {summary.n_unscored} unscored{reasons}; now judged "
        f"{summary.n_judged}, taken over {summary.n_cached}, in {summary.seconds:.1f} s{tokens}"
    )


def _summary_json(summary: "JudgingSummary", rows: list[dict[str, Any]], bill: Bill) -> dict[str, Any]:
    spent = {"tokens_all_calls": bill.tokens, "cost_all_calls": bill.cost, "n_fallback": bill.n_fallback}
    return {**asdict(summary), "reasons": dict(summary.reasons), **spent, "conditions": rows}
