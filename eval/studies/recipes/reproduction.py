"""Carrying out a recipe: everything checked first, then stage after stage, each recorded when it is done."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eval.studies.recipes.checks import (
    check_settings,
    check_sources,
    check_tasks_data,
    further_words,
    judge_of,
    settings_of,
)
from eval.studies.recipes.estimate import estimate, lines
from eval.studies.recipes.recipe import Recipe, RecipeError, load_recipe
from eval.studies.recipes.stages import GROUPS, Choices, place_of, plan_stages
from eval.studies.study import STATE, Stage, Study
from eval.studies.workplace import Workplace
from surgery.console.errors import ModelError
from surgery.files.artifacts import replacing

FINDINGS = "findings.json"


@dataclass(frozen=True)
class Reproduction:
    """A recipe for one model in one folder.

    Attributes:
        recipe: with layers of the model (`Recipe.at_depth`).
        stages: all of the study, whether they run now or not.
        settings: stage -> parameter -> value, as its command reads them.
        fingerprint: what names the model's weights.
    """

    name: str
    recipe: Recipe
    place: Workplace
    choices: Choices
    stages: Sequence[Stage]
    settings: Mapping[str, Mapping[str, Any]]
    n_layers: int
    fingerprint: str

    def forecast(self) -> list[str]:
        """Stages, commands and what they will take."""
        head = [f"{self.name}: {self.recipe.title}", ""]
        left_out = [f"left out: {', '.join(self.left_out)}"] if self.left_out else []
        commands = [f"{stage.name:<16} refusal {shlex.join(stage.words)}" for stage in self.chosen]
        found = estimate(self.recipe, self.n_layers, self.place, self.choices, self.chosen)
        return [*head, *commands, *left_out, "", *lines(found)]

    @property
    def chosen(self) -> list[Stage]:
        """The stages to run now."""
        return [stage for stage in self.stages if not self.choices.only or stage.group in self.choices.only]

    @property
    def left_out(self) -> list[str]:
        """The stages that --skip leaves out."""
        return sorted(self.choices.skip, key=GROUPS.index)

    def run(self, force: bool = False) -> str:
        """Run what is not done yet, or with `force` everything; returns the last words."""
        folder = self.place.folder
        if folder.exists() and not folder.is_dir():
            raise RecipeError(f"{folder}: is a file; choose a folder")
        if folder.exists() and any(folder.iterdir()) and not (folder / STATE).exists():
            raise RecipeError(f"{folder}: exists and holds no reproduction; choose another folder")
        study = Study(folder, self.stages, self.fingerprint)
        self._check_needs(study)
        missing = [stage.name for stage in self.chosen if force or not study.is_done(stage)]
        if "benchmark" in missing:
            check_tasks_data(self.settings["benchmark"]["tasks"])
        folder.mkdir(parents=True, exist_ok=True)
        for stage in self.chosen:
            if stage.group == "report":
                study.carry_out(stage, True, lambda: self._write_report(study))
            else:
                study.carry_out(stage, force)
        last = self.chosen[-1]
        return f"{last.output}: done until {last.group}" if last.group != "report" else self._closing_words()

    def _check_needs(self, study: Study) -> None:
        """Raises: RecipeError when a stage to be run reads what neither is there nor will be made."""
        stages, chosen = {stage.name: stage for stage in self.stages}, {stage.name for stage in self.chosen}
        for stage in self.chosen:
            for needed in (stages[name] for name in stage.needs if name not in chosen):
                if not study.is_done(needed):
                    raise RecipeError(
                        f"--only {stage.group}: it reads what stage {needed.name} makes, which is not done in "
                        f"{self.place.folder} for this recipe; add --only {needed.group}, or run all"
                    )

    def _write_report(self, study: Study) -> None:
        from eval.report.report import write_report
        from eval.studies.recipes.capability import capability_sections
        from eval.studies.recipes.findings import findings_of, sections

        not_done = {s.group for s in self.stages if s.group != "report" and not study.is_done(s)}
        left_out = sorted({*self.left_out, *not_done}, key=GROUPS.index)

        def keep(found: Sequence[Any]) -> None:
            rows = [vars(finding) for finding in findings_of(found[0], self.recipe)]
            text = json.dumps({"recipe": self.name, "left_out": left_out, "findings": rows}, indent=1)
            with replacing(self.place.folder / FINDINGS, force=True) as part:
                part.write_text(text + "\n", encoding="utf-8")

        def first(results: Any) -> list[Any]:
            capability = [] if "benchmark" in left_out else capability_sections(self.place.benchmark)
            return [*sections(results, self.recipe, left_out), *capability]

        judge_id = judge_of(self.settings["judge"]).judge_id
        write_report([self.place.run], self.place.report, judge_id, force=True, tell=keep, first=first)

    def _closing_words(self) -> str:
        found = json.loads((self.place.folder / FINDINGS).read_text(encoding="utf-8"))["findings"]
        rows = [f"  {row['verdict']:<14} {row['claim']}: {row['measured']}" for row in found]
        return "\n".join(["", *rows, "", f"Report: {(self.place.report / 'report.html').resolve()}"])


def make_reproduction(name: str, out: Path, options: Mapping[str, Any]) -> Reproduction:
    """Read a recipe and check all of it before anything runs.

    Args:
        options: model, limit, max_tokens, dtype, skip, until, only, judge_model, judge_base_url, further, as
            `refusal reproduce` has them.
    Raises: RecipeError, ModelError.
    """
    recipe = load_recipe(name)
    given = {key: options[key] for key in ("model", "limit", "max_tokens", "dtype") if options[key] is not None}
    if options["model"] and recipe.prepare == "organism":
        raise RecipeError(f"recipe {name} is about the organism {recipe.model!r} that it makes; leave --model out")
    recipe = recipe.model_copy(update=given)
    if not recipe.model:
        raise RecipeError(f"recipe {name} names no model; give one with --model")
    if options["model"] and recipe.prepare == "none":
        recipe = recipe.model_copy(update={"shape": None})
    n_layers, fingerprint = _model_facts(recipe)
    recipe = recipe.at_depth(n_layers)
    judge = ["--judge-model", options["judge_model"]] if options["judge_model"] else []
    judge += [word for url in options["judge_base_url"] for word in ("--judge-base-url", url)]
    choices = Choices(frozenset(options["skip"]), options["until"], frozenset(options["only"]), judge)
    place = place_of(recipe, out)
    planned = plan_stages(recipe, place, choices)
    further = further_words(options["further"], list(dict.fromkeys(stage.group for stage in planned)))
    stages = [replace(stage, words=(*stage.words, *further.get(stage.group, ()))) for stage in planned]
    check_sources(recipe)
    settings = {stage.name: settings_of(stage) for stage in stages}
    check_settings(settings, recipe)
    return Reproduction(name, recipe, place, choices, stages, settings, n_layers, fingerprint)


def _model_facts(recipe: Recipe) -> tuple[int, str]:
    """(layers, what names the weights), from the model or, where it is not there yet, from the recipe."""
    from surgery.conversion.qwen import load_qwen_config
    from surgery.model.models import describe_model, model_fingerprint

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
