"""The main job end to end on the model organisms: vectors, ablation in vLLM, checkpoints, verdicts, one report.

A recipe whose commands a user could type, each printed, for every organism; then how long each stage took. What an
earlier demo left in the output folder is used again.
"""

import io
import os
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import replace
from pathlib import Path

import click

from eval.judge.choice import choose_judge
from eval.records.run import Run
from eval.report.console import headline
from eval.report.report import write_report
from eval.studies.recipes.recipe import MODEL_FOLDER, Recipe
from eval.studies.recipes.stages import Choices, place_of, plan_stages
from eval.studies.study import Study

NEIGHBOURS = "3-6"
"""Layers of a third subspace: neighbours, beside the four spread ones of the headline, and what six layers add."""


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
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything it needs is in the package
    judge = ["--judge-model", judge_model] if judge_model else []
    judge += ["--judge-base-url", judge_base_url] if judge_base_url else []
    urls = (judge_base_url,) if judge_base_url else ()
    judge_id = choose_judge(judge_model=judge_model, judge_base_url=urls).judge_id
    names = organisms.split(",")
    studies = [_study(out / name, _recipe(name, limit), retrain, judge) for name in names]
    for study in studies:
        _carry_out(study, force)
    runs = [out / name / "run" for name in names]
    report = write_report(runs, out / "report", judge_id, force=True)
    _tell_times(studies)
    click.echo(f"\n{headline(runs, judge_id)}\n\nReport: {report.resolve()}")


def _recipe(name: str, limit: int | None) -> Recipe:
    return Recipe(
        title=f"the demo on the organism {name}",
        model=name,
        prepare="organism",
        pairs=f"{MODEL_FOLDER}/pairs.jsonl",
        prompts=f"{MODEL_FOLDER}/prompts.jsonl",
        safe_prompts=f"{MODEL_FOLDER}/safe_prompts.jsonl",
        subspace="1,2,4,6",
        wider="1-6",
        max_tokens=48,
        limit=limit,
        dtype="float32",
        claims=("subspace-better",),
    )


def _study(folder: Path, recipe: Recipe, retrain: bool, judge: Sequence[str]) -> Study:
    """One organism, from its weights to judged responses of all conditions."""
    choices = Choices(frozenset({"separability"}), until="judge", judge=judge)
    more = {"model": ["--retrain"] if retrain else [], "sweep": ["--subspace", NEIGHBOURS]}
    planned = plan_stages(recipe, place_of(recipe, folder), choices)
    stages = [replace(stage, words=(*stage.words, *more.get(stage.name, ()))) for stage in planned]
    return Study(folder, stages, recipe.model)


def _carry_out(study: Study, force: bool) -> None:
    """Every stage that is not done; the run keeps their times."""
    study.path.parent.mkdir(parents=True, exist_ok=True)
    for stage in study.stages:
        # a hundred rows of verdicts that the report shows better
        with redirect_stdout(io.StringIO()) if stage.group == "judge" else nullcontext():
            study.carry_out(stage, force)
    run = Run.open(study.stages[-1].output)
    with run.writing():
        run.refresh_manifest()
        with run.amending() as manifest:
            manifest.stages.update({stage: round(seconds, 2) for stage, seconds in study.seconds.items()})


def _tell_times(studies: Sequence[Study]) -> None:
    seconds: dict[str, float] = {}
    for study in studies:
        for stage, taken in study.seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + taken
    click.echo("\nSeconds of each stage, all organisms together")
    for stage, taken in {**seconds, "total": sum(seconds.values())}.items():
        click.echo(f"  {stage:<{max(map(len, seconds))}}  {taken:7.1f}")


if __name__ == "__main__":
    main()
