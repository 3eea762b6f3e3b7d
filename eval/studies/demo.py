"""The main job end to end on the model organisms: vectors, ablation in vLLM, checkpoints, verdicts, one report.

Runs the same commands that a user types, prints each of them, and says how long each took. What an earlier demo left in
the output folder is used again.
"""

import io
import os
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path

import click

from eval.studies.shell import Shell
from eval.studies.workplace import Workplace

ALPHAS = (0.5, 1.0, 1.5)
HEADLINE_SUBSPACE = "1,2,4,6"
SUBSPACES = (HEADLINE_SUBSPACE, "3-6", "1-6")  # four spread layers, four neighbours, and what six layers add


@click.command()
@click.option("-o", "--out", type=click.Path(path_type=Path), default="demo-out", show_default=True)
@click.option("--organisms", default="single,distributed", show_default=True, help="Any of single, distributed, plain.")
@click.option("--limit", type=click.IntRange(4), help="Use only the first N of the 128 prompts of each set.")
@click.option("--retrain", is_flag=True, help="Train the organisms here instead of copying the packaged weights.")
@click.option("--force", is_flag=True, help="Make everything anew.")
@click.option("--judge-model", help="Judge by this model instead of the heuristic judge.")
@click.option("--judge-base-url", help="Address of its OpenAI-compatible API.")
def main(
    out: Path,
    organisms: str,
    limit: int | None,
    retrain: bool,
    force: bool,
    judge_model: str | None,
    judge_base_url: str | None,
) -> None:
    """Extract, ablate, orthogonalize, judge and report on tiny models whose refusal was planted on purpose."""
    from eval.judge.choice import choose_judge

    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything it needs is in the package
    urls = (judge_base_url,) if judge_base_url else ()
    judge = [*(["--judge-model", judge_model] if judge_model else [])]
    judge += [word for url in urls for word in ("--judge-base-url", url)]
    judge_id = choose_judge(judge_model=judge_model, judge_base_url=urls).judge_id
    out.mkdir(parents=True, exist_ok=True)
    shell = Shell(force)
    runs = [
        _study(shell, name, Workplace(out / name, str(out / name / f"organism-{name}")), limit, retrain, judge)
        for name in organisms.split(",")
    ]
    started = time.monotonic()
    report = _report(runs, out / "report", judge_id)
    shell.add("report", time.monotonic() - started)
    _conclude(shell, runs, report, judge_id)


def _study(shell: Shell, name: str, place: Workplace, limit: int | None, retrain: bool, judge: Sequence[str]) -> Path:
    """One organism, from its weights to judged responses of all conditions."""
    place.folder.mkdir(exist_ok=True)
    before = dict(shell.seconds)
    shell.make("organism", Path(place.model), "organism", name, *(["--retrain"] if retrain else []))
    shell.make(
        "extract", place.rvs, "extract", place.model, "--pairs", Path(place.model) / "pairs.jsonl", "--dtype", "float32"
    )
    shell.make("subspace", place.subspace, "subspace", place.rvs, "--layers", HEADLINE_SUBSPACE)
    for alpha in ALPHAS:
        shell.make(
            "orthogonalize",
            place.checkpoint(alpha),
            *("orthogonalize", place.model, place.subspace, "--alpha", alpha),
        )
    shell.run("sweep", *_sweep(place, limit))
    with redirect_stdout(io.StringIO()):  # a hundred rows that the report shows better
        _without_force(shell, lambda: shell.run("judge", "judge", place.run, *judge))
    _record_stages(place.run, {stage: shell.seconds[stage] - before.get(stage, 0.0) for stage in shell.seconds})
    return place.run


def _sweep(place: Workplace, limit: int | None) -> list[object]:
    command: list[object] = ["sweep", place.model, "--rvs", place.rvs, "--dtype", "float32"]
    command += [
        "--prompts",
        Path(place.model) / "prompts.jsonl",
        "--safe-prompts",
        Path(place.model) / "safe_prompts.jsonl",
    ]
    command += ["--limit", limit] if limit else []
    for layers in SUBSPACES:
        command += ["--subspace", layers]
    for alpha in ALPHAS:
        command += ["--checkpoint", place.checkpoint(alpha)]
    return [
        *command,
        "--alphas",
        ",".join(f"{alpha:g}" for alpha in ALPHAS),
        "--writes",
        "--max-tokens",
        48,
        "-o",
        place.run,
    ]


def _without_force(shell: Shell, action: Callable[[], None]) -> None:
    force, shell.force = shell.force, False
    try:
        action()
    finally:
        shell.force = force


def _record_stages(path: Path, seconds: dict[str, float]) -> None:
    from eval.records.run import Run

    run = Run.open(path)
    with run.writing():
        run.refresh_manifest()
        with run.amending() as manifest:
            manifest.stages.update({stage: round(value, 2) for stage, value in seconds.items() if value > 0})


def _report(runs: Sequence[Path], out: Path, judge_id: str) -> Path:
    from eval.report.report import write_report

    return write_report(runs, out, judge_id, force=True)


def _conclude(shell: Shell, runs: Sequence[Path], report: Path, judge_id: str) -> None:
    from eval.report.console import headline

    width = max(map(len, shell.seconds))
    click.echo("\nSeconds of each stage, all organisms together")
    for stage, seconds in shell.seconds.items():
        click.echo(f"  {stage:<{width}}  {seconds:7.1f}")
    click.echo(f"  {'total':<{width}}  {sum(shell.seconds.values()):7.1f}")
    click.echo(f"\n{headline(runs, judge_id)}\n")
    click.echo(f"Report: {report.resolve()}")


if __name__ == "__main__":
    main()
