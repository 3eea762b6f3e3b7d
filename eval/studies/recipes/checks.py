"""What is checked of a study's commands before the first of them runs, each fault one line."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from eval.cli import COMMANDS
from eval.studies.recipes.recipe import MODEL_FOLDER, Recipe, RecipeError
from eval.studies.recipes.stages import GROUPS
from eval.studies.study import Stage

if TYPE_CHECKING:
    from eval.judge.protocol import Judge

_OWN_WORDS = {"output": "-o of the study says where its artifacts go", "force": "--force of the study runs it anew"}


def further_words(texts: Sequence[str], groups: Collection[str]) -> dict[str, list[str]]:
    """What --with asks for: stage -> more words of its command.

    Args:
        texts: STAGE:OPTION[=VALUE] each.
        groups: the stages of this study.
    Raises: RecipeError: no such stage, one that is not run or takes no options, an option that is the study's own.
    """
    found: dict[str, list[str]] = {}
    for text in texts:
        group, _, option = text.partition(":")
        name, has_value, value = option.partition("=")
        if group not in GROUPS or not name:
            raise RecipeError(f"--with {text}: expected STAGE:OPTION[=VALUE] with a stage of {', '.join(GROUPS)}")
        if group == "report":
            raise RecipeError(f"--with {text}: the report of a study takes no options; see refusal report")
        if group not in groups:
            raise RecipeError(f"--with {text}: this study has no stage {group}; its stages are {', '.join(groups)}")
        if name in _OWN_WORDS:
            raise RecipeError(f"--with {text}: {_OWN_WORDS[name]}")
        found.setdefault(group, []).append(f"--{name}={value}" if has_value else f"--{name}")
    return found


def settings_of(stage: Stage) -> dict[str, Any]:
    """What a stage's command line says, as the command will read it: parameter -> value.

    Raises: RecipeError for a command, an option or a value that there is not; of the judge, what making it raises.
    """
    from eval.cli import main

    name = stage.words[0]
    if name not in COMMANDS:
        raise RecipeError(f"stage {stage.name}: there is no command refusal {name}; leave it out with --skip {name}")
    command = main.get_command(click.Context(main), name)
    assert command is not None
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    unknown = [word for word in stage.words if word.startswith("--") and word.partition("=")[0] not in known]
    if unknown:
        raise RecipeError(f"stage {stage.name}: refusal {name} has no option {unknown[0]}")
    try:
        context = command.make_context(name, list(stage.words[1:]))
    except click.ClickException as err:
        raise RecipeError(f"stage {stage.name}: refusal {name}: {err.format_message()}") from err
    if name == "judge":
        with context.scope(cleanup=False):  # where it shows which options are given, though at their default
            judge_of(context.params)
    return context.params


def check_settings(settings: Mapping[str, Mapping[str, Any]], recipe: Recipe) -> None:
    """Check what the commands of the later stages would find out only hours later: the tasks.

    Args:
        settings: stage -> `settings_of` it.
    Raises: what the tasks raise.
    """
    from eval.cost.benchmark.tasks import parse_tasks

    if "benchmark" in settings:
        parse_tasks(settings["benchmark"]["tasks"], is_organism=recipe.prepare == "organism")


def judge_of(settings: Mapping[str, Any]) -> "Judge":
    """The judge that the settings of the stage `judge` choose. Raises: RecipeError, and what making it raises."""
    from eval.judge.choice import JudgeChoice

    names = JudgeChoice.model_fields
    try:
        return JudgeChoice(**{name: value for name, value in settings.items() if name in names}).make()
    except click.ClickException as err:
        raise RecipeError(f"stage judge: {err.format_message()}") from err


def check_sources(recipe: Recipe) -> None:
    """Raises: what reading them raises, for sources that do not wait for the model."""
    from eval.generation.job import HARMFUL, SAFE
    from surgery.prompts import load_pairs, load_prompts

    for source in filter(None, (recipe.pairs, recipe.held_out)):
        if MODEL_FOLDER not in source:
            load_pairs(source)
    for source, role in ((recipe.prompts, HARMFUL), (recipe.safe_prompts, SAFE)):
        if MODEL_FOLDER not in source:
            load_prompts(source, role)


def check_tasks_data(tasks: str) -> None:
    """Load the data of benchmark tasks that do not come with the package.

    Raises: BenchmarkError for a task that is not known or whose data cannot be had.
    """
    from eval.cost.benchmark.tasks import LOCAL_TASKS, ORGANISM_TASKS, parse_tasks

    others = [task for task in parse_tasks(tasks) if task.name not in LOCAL_TASKS | ORGANISM_TASKS]
    if others:
        from eval.cost.benchmark.harness import check_tasks

        check_tasks(others)
