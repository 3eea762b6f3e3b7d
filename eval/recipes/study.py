"""Carrying out a recipe: everything checked first, then stage after stage, each recorded when it is done."""

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import click

from eval.cli import COMMANDS
from eval.recipes.estimate import estimate, lines
from eval.recipes.recipe import MODEL_FOLDER, Recipe, RecipeError, load_recipe
from eval.recipes.stages import GROUPS, Choices, Stage, place_of, plan_stages
from eval.recipes.state import STATE, State, keys_of
from eval.workplace import Workplace
from surgery.errors import ModelError

FINDINGS = "findings.json"


@dataclass(frozen=True)
class Study:
    """A recipe for one model in one folder.

    Attributes:
        recipe: with layers of the model (`Recipe.at_depth`).
        fingerprint: what names the model's weights.
    """

    name: str
    recipe: Recipe
    place: Workplace
    choices: Choices
    stages: Sequence[Stage]
    n_layers: int
    fingerprint: str

    def forecast(self) -> list[str]:
        """Stages, commands and what they will take."""
        head = [f"{self.name}: {self.recipe.title}", ""]
        left_out = [f"left out: {', '.join(self.left_out)}"] if self.left_out else []
        commands = [f"{stage.name:<16} refusal {shlex.join(stage.words)}" for stage in self.stages]
        found = estimate(self.recipe, self.n_layers, self.place, self.choices)
        return [*head, *commands, *left_out, "", *lines(found, self.stages, self.recipe.limit)]

    @property
    def left_out(self) -> list[str]:
        """The stages that --skip leaves out."""
        return sorted(self.choices.skip, key=GROUPS.index)

    @cached_property
    def keys(self) -> Mapping[str, str]:
        """Stage -> digest of all that it depends on."""
        return keys_of(self.stages, self.fingerprint)

    def run(self, force: bool = False) -> str:
        """Run what is not done yet, or with `force` everything; returns the last words."""
        from eval.shell import Shell

        folder = self.place.folder
        if folder.exists() and any(folder.iterdir()) and not (folder / STATE).exists():
            raise RecipeError(f"{folder}: exists and holds no reproduction; choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        state, shell = State(folder), Shell(force=False)
        for stage in self.stages:
            self._carry_out(stage, state, shell, force)
        last = self.stages[-1]
        return f"{last.output}: done until {last.group}" if last.group != "report" else self._closing_words()

    def _carry_out(self, stage: Stage, state: State, shell: Any, force: bool) -> None:
        key = self.keys[stage.name]
        if stage.group != "report" and not force and state.is_done(stage, key):
            click.echo(f"{stage.name}: done before", err=True)
            return
        may_go_on = stage.resumes and not force and state.is_begun(stage, key)
        anew = stage.output.exists() and not may_go_on
        state.begin(stage, key)
        started = time.monotonic()
        if stage.group == "report":
            self._write_report()
        else:
            shell.run(stage.name, *stage.words, *(["--force"] if anew and stage.renews else []))
        state.finish(stage, key, time.monotonic() - started)

    def _write_report(self) -> None:
        from eval.recipes.capability import capability_sections
        from eval.recipes.findings import findings_of, sections
        from eval.report.report import write_report

        def keep(found: Sequence[Any]) -> None:
            rows = [vars(finding) for finding in findings_of(found[0], self.recipe)]
            text = json.dumps(
                {"recipe": self.name, "left_out": self.left_out, "findings": rows}, indent=1, ensure_ascii=False
            )
            (self.place.folder / FINDINGS).write_text(text + "\n", encoding="utf-8")

        def first(results: Any) -> list[Any]:
            was_run = any(stage.group == "benchmark" for stage in self.stages)
            capability = capability_sections(self.place.benchmark) if was_run else []
            return [*sections(results, self.recipe, self.left_out), *capability]

        write_report([self.place.run], self.place.report, force=True, tell=keep, first=first)

    def _closing_words(self) -> str:
        found = json.loads((self.place.folder / FINDINGS).read_text(encoding="utf-8"))["findings"]
        rows = [f"  {row['verdict']:<14} {row['claim']}: {row['measured']}" for row in found]
        return "\n".join(["", *rows, "", f"Report: {(self.place.report / 'report.html').resolve()}"])


def make_study(name: str, out: Path, options: Mapping[str, Any]) -> Study:
    """Read a recipe and check all of it before anything runs.

    Args:
        options: model, limit, max_tokens, dtype, skip, until, judge_model, judge_base_url, further, as
            `refusal reproduce` has them.
    Raises: RecipeError, ModelError.
    """
    recipe = load_recipe(name)
    given = {key: options[key] for key in ("model", "limit", "max_tokens", "dtype") if options[key] is not None}
    recipe = recipe.model_copy(update=given)
    if not recipe.model:
        raise RecipeError(f"recipe {name} names no model; give one with --model")
    if options["model"] and recipe.prepare == "none":
        recipe = recipe.model_copy(update={"shape": None})
    n_layers, fingerprint = _model_facts(recipe)
    recipe = recipe.at_depth(n_layers)
    judge = ["--judge-model", options["judge_model"]] if options["judge_model"] else []
    judge += [word for url in options["judge_base_url"] for word in ("--judge-base-url", url)]
    choices, place = Choices(frozenset(options["skip"]), options["until"], judge), place_of(recipe, out)
    further = _further(options["further"])
    stages = [
        replace(stage, words=(*stage.words, *further.get(stage.group, ())))
        for stage in plan_stages(recipe, place, choices)
    ]
    _check_sources(recipe)
    for stage in stages:
        _check_words(stage)
    return Study(name, recipe, place, choices, stages, n_layers, fingerprint)


def _model_facts(recipe: Recipe) -> tuple[int, str]:
    """(layers, what names the weights), from the model or, where it is not there yet, from the recipe."""
    from surgery.conversion.qwen import load_qwen_config
    from surgery.models import describe_model, model_fingerprint

    if recipe.prepare == "none":
        try:
            info = describe_model(recipe.model)
            return info.n_layers, info.fingerprint
        except ModelError:
            if recipe.shape is None or Path(recipe.model).exists():
                raise
            return recipe.shape.n_layers, recipe.model
    folder = Path(recipe.model)
    if recipe.prepare == "convert" and folder.is_dir():
        return load_qwen_config(folder).n_layers, model_fingerprint(folder)
    if recipe.shape is None:
        raise RecipeError(f"prepare: {recipe.prepare} needs shape, the size of the model that will be there")
    return recipe.shape.n_layers, recipe.model


def _further(words: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in words:
        group, _, option = text.partition(":")
        name, has_value, value = option.partition("=")
        if group not in GROUPS or not name:
            raise RecipeError(f"--with {text}: expected STAGE:OPTION[=VALUE] with a stage of {', '.join(GROUPS)}")
        found.setdefault(group, []).extend([f"--{name}", value] if has_value else [f"--{name}"])
    return found


def _check_sources(recipe: Recipe) -> None:
    """Raises: what reading them raises, for sources that do not wait for the model."""
    from eval.job import HARMFUL, SAFE
    from surgery.prompts import load_pairs, load_prompts

    for source in filter(None, (recipe.pairs, recipe.held_out)):
        if MODEL_FOLDER not in source:
            load_pairs(source)
    for source, role in ((recipe.prompts, HARMFUL), (recipe.safe_prompts, SAFE)):
        if MODEL_FOLDER not in source:
            load_prompts(source, role)


def _check_words(stage: Stage) -> None:
    """Raises: RecipeError for a command or an option that there is not."""
    from eval.cli import main

    name = stage.words[0]
    if name not in COMMANDS:
        raise RecipeError(f"stage {stage.name}: there is no command refusal {name}; leave it out with --skip {name}")
    command = main.get_command(click.Context(main), name)
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    unknown = [word for word in stage.words if word.startswith("--") and word not in known]
    if unknown:
        raise RecipeError(f"stage {stage.name}: refusal {name} has no option {unknown[0]}")
