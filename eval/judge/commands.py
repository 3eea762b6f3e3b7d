"""`refusal judge`: score the responses of a run."""

import json
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from eval.judge.judging import JudgingSummary
    from eval.judge.protocol import Judge
    from eval.records import Run

DEFAULT_BASE_URL = "https://api.openai.com/v1"
DEFAULT_KEY_ENV = "OPENAI_API_KEY"


class Temperature(click.ParamType):
    """A number, or "none" to leave the temperature to the endpoint."""

    name = "number|none"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        """Read the option."""
        if str(value).lower() == "none":
            return None
        number = click.FloatRange(0, 2).convert(value, param, ctx)
        if math.isnan(number):  # lies in no range, but FloatRange lets it pass
            self.fail(f"{value!r} is not a number from 0 to 2", param, ctx)
        return number


def judge_options(command: Any) -> Any:
    """The options that choose a judge, for every command that judges; `choose_judge` reads them.

    Where `command` is `judge` itself, --concurrency and --max-tokens do without their prefix.
    """
    options = (
        click.option("--judge", "judge_name", type=click.Choice(["heuristic"]), help="Judge by rules (the default)."),
        click.option("--judge-model", metavar="M", help="Judge by this model of an OpenAI-compatible endpoint."),
        click.option("--judge-base-url", metavar="URL", help=f"Its address; else OPENAI_BASE_URL, {DEFAULT_BASE_URL}."),
        click.option(
            "--judge-api-key-env",
            metavar="NAME",
            default=DEFAULT_KEY_ENV,
            show_default=True,
            help="Environment variable that holds the key; none is sent when the default is not set.",
        ),
        click.option(
            *_names(command, "concurrency"),
            type=click.IntRange(1, 1024),
            default=20,
            show_default=True,
            help="Requests in flight at the start; adapts to what the endpoint bears.",
        ),
        click.option(
            *_names(command, "max-tokens"),
            type=click.IntRange(16),
            default=512,
            show_default=True,
            help="Longest answer of the judge.",
        ),
        click.option(
            "--judge-temperature",
            type=Temperature(),
            default="0",
            show_default=True,
            help="0 for repeatable verdicts; none leaves it to the endpoint.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _names(command: Any, name: str) -> tuple[str, ...]:
    names = (f"--judge-{name}", f"judge_{name.replace('-', '_')}")
    return (f"--{name}", *names) if command.__name__ == "judge" else names


def choose_judge(
    judge_name: str | None,
    judge_model: str | None,
    judge_base_url: str | None,
    judge_api_key_env: str,
    judge_concurrency: int,
    judge_max_tokens: int,
    judge_temperature: float | None,
) -> "Judge":
    """Make the judge that `judge_options` ask for. Raises: click.UsageError, JudgeEndpointError."""
    if judge_model is None:
        if judge_base_url is not None:
            raise click.UsageError("--judge-base-url needs --judge-model")
        from eval.judge.heuristic import HeuristicJudge

        return HeuristicJudge()
    if judge_name is not None:
        raise click.UsageError(f"--judge {judge_name} and --judge-model {judge_model} exclude each other")
    from eval.judge.client import JudgeClient
    from eval.judge.llm import LLMJudge

    base_url = judge_base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_BASE_URL
    client = JudgeClient(base_url, _api_key(judge_api_key_env), concurrency=judge_concurrency)
    return LLMJudge(judge_model, client, max_tokens=judge_max_tokens, temperature=judge_temperature)


def _api_key(name: str) -> str | None:
    key = os.environ.get(name)
    if not key and name != DEFAULT_KEY_ENV:
        raise click.UsageError(f"--judge-api-key-env {name}: that environment variable is not set")
    return key


@click.command("judge")
@click.argument("run_path", metavar="RUN", type=click.Path(path_type=Path))
@judge_options
@click.option("--retry-unscored", is_flag=True, help="Judge unscored responses again, whatever the reason was.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def judge(run_path: Path, retry_unscored: bool, as_json: bool, **choice: Any) -> None:
    """Score compliance and coherence of every response in RUN, each 0, 0.5 or 1.

    Only what this judge has not judged yet is judged, so an interrupted call is repeated. Verdicts of different
    judges stand side by side. Keys come from the environment only.

    \b
    Examples:
      refusal judge RUN
      refusal judge RUN --judge-model gpt-4.1-mini --judge-base-url https://api.openai.com/v1
    """
    from eval.judge.judging import judge_run
    from eval.records import Run

    run = Run.open(run_path)
    chosen = choose_judge(**choice)
    with _ProgressBar() as progress:
        summary = judge_run(run, chosen, progress, retry_unscored=retry_unscored)
    rows = condition_rows(run, summary.judge_id)
    if as_json:
        click.echo(json.dumps(_summary_json(summary, rows), indent=1))
    else:
        _print_table(rows)
        click.echo(_summary_line(summary), err=True)


class _ProgressBar:
    """Responses judged, on stderr; silent where stderr is not a terminal."""

    def __enter__(self) -> "_ProgressBar":
        from tqdm import tqdm

        self._bar = tqdm(desc="judging", unit="response", file=sys.stderr, disable=not sys.stderr.isatty())
        return self

    def __call__(self, done: int, total: int) -> None:
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def __exit__(self, *exc_info: object) -> None:
        self._bar.close()


def condition_rows(run: "Run", judge_id: str) -> list[dict[str, Any]]:
    """Per condition and prompt set: n, unscored, and means over the scored responses (None when there are none)."""
    from eval.records import SCORED

    verdicts = {row.item_id: row for row in run.verdicts(judge_id)}
    groups: dict[tuple[str, str], list[Any]] = {}
    for item in run.generations():
        groups.setdefault((item.condition_id, item.prompt_set), []).append(verdicts.get(item.item_id))
    rows = []
    for (condition_id, prompt_set), found in groups.items():
        scored = [row for row in found if row is not None and row.status == SCORED]
        rows.append(
            {
                "condition": condition_id,
                "prompt_set": prompt_set,
                "n": len(found),
                "n_unscored": len(found) - len(scored),
                "compliance": _mean([row.compliance for row in scored]),
                "coherence": _mean([row.coherence for row in scored]),
            }
        )
    return rows


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _print_table(rows: list[dict[str, Any]]) -> None:
    width = max(len("condition"), *(len(row["condition"]) for row in rows))
    click.echo(f"{'condition':{width}}  {'prompts':8} {'n':>5} {'unscored':>8} {'compliance':>10} {'coherence':>9}")
    for row in rows:
        compliance, coherence = ("-" if row[key] is None else f"{row[key]:.3f}" for key in ("compliance", "coherence"))
        click.echo(
            f"{row['condition']:{width}}  {row['prompt_set']:8} {row['n']:>5} {row['n_unscored']:>8} "
            f"{compliance:>10} {coherence:>9}"
        )


def _summary_line(summary: "JudgingSummary") -> str:
    reasons = (
        f" ({', '.join(f'{n} {reason}' for reason, n in summary.reasons.most_common())})" if summary.reasons else ""
    )
    tokens = f", {summary.usage.n_requests} requests, {summary.tokens} tokens" if summary.usage.n_requests else ""
    return (
        f"{summary.judge_id}: {summary.n_scored} scored, {summary.n_unscored} unscored{reasons}; now judged "
        f"{summary.n_judged}, taken over {summary.n_cached}, in {summary.seconds:.1f} s{tokens}"
    )


def _summary_json(summary: "JudgingSummary", rows: list[dict[str, Any]]) -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(summary), "reasons": dict(summary.reasons), "conditions": rows}
