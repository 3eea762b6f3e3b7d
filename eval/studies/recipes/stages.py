"""The stages of a recipe: which command each is, what it writes, and what it takes from the stages before it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from eval.studies.recipes.recipe import MODEL_FOLDER, Recipe, RecipeError
from eval.studies.study import Stage
from eval.studies.workplace import Workplace

OPTIONAL = ("separability", "checkpoints", "damage", "benchmark")
GROUPS = (
    "model",
    "extract",
    "separability",
    "subspace",
    "checkpoints",
    "sweep",
    "judge",
    "damage",
    "benchmark",
    "report",
)


@dataclass(frozen=True)
class Choices:
    """What the command line adds to a recipe.

    Attributes:
        skip: stages to leave out of the study.
        until: its last stage.
        only: stages to run now, the others being done; empty for all.
        judge: the words that name a judge.
    """

    skip: frozenset[str] = frozenset()
    until: str = "report"
    only: frozenset[str] = frozenset()
    judge: Sequence[str] = field(default_factory=tuple)

    def check(self) -> None:
        """Raises: RecipeError for a stage that is unknown, cannot be left out, or is asked for and left out."""
        unknown = sorted((self.skip | {self.until} | self.only) - set(GROUPS))
        if unknown:
            raise RecipeError(f"no stage {unknown[0]!r}; the stages are {', '.join(GROUPS)}")
        needed = sorted(self.skip - set(OPTIONAL))
        if needed:
            raise RecipeError(
                f"stage {needed[0]!r} is needed by later ones; only {', '.join(OPTIONAL)} can be left out"
            )
        both = sorted(self.skip & self.only)
        if both:
            raise RecipeError(f"stage {both[0]!r} is both asked for by --only and left out by --skip")


def place_of(recipe: Recipe, out: Path) -> Workplace:
    """The folder of a recipe; its model is made inside, or is where it is."""
    made = {"organism": f"organism-{recipe.model}", "convert": f"{Path(recipe.model).name}-as-qwen2"}
    return Workplace(out, str(out / made[recipe.prepare]) if recipe.prepare in made else recipe.model)


def plan_stages(recipe: Recipe, place: Workplace, choices: Choices) -> list[Stage]:
    """The stages, in order.

    Args:
        recipe: with layers of the model at hand (`Recipe.at_depth`).
    Raises: RecipeError: as `Choices.check`.
    """
    choices.check()
    last = GROUPS.index(choices.until)
    stages = [stage for stage in _all(recipe, place, choices) if stage.group not in choices.skip]
    stages = [stage for stage in stages if GROUPS.index(stage.group) <= last]
    missing = sorted(choices.only - {stage.group for stage in stages})
    if missing:
        groups = ", ".join(dict.fromkeys(stage.group for stage in stages))
        raise RecipeError(f"--only {missing[0]}: this study has no such stage; its stages are {groups}")
    return stages


def _all(recipe: Recipe, place: Workplace, choices: Choices) -> Iterator[Stage]:
    first = ("model",) if recipe.prepare != "none" else ()
    if first:
        command = {"organism": "organism", "convert": "convert"}[recipe.prepare]
        yield Stage("model", "model", _words(command, recipe.model, "-o", place.model), Path(place.model))
    yield _extract(recipe, place, first)
    show = _words("show", place.rvs, "--figures", place.folder / "figures")
    yield Stage("separability", "separability", show, place.folder / "figures", ("extract",), renews=False)
    make = _words("subspace", place.rvs, "--layers", recipe.subspace, "-o", place.subspace)
    yield Stage("subspace", "subspace", make, place.subspace, ("extract",))
    yield from _checkpoints(recipe, place, first)
    yield _sweep(recipe, place, choices)
    judge = _words("judge", place.run, *choices.judge)
    yield Stage("judge", "judge", judge, place.run, ("sweep",), resumes=True, renews=False)
    damage = _words("damage", place.run, *_limit(recipe))
    yield Stage("damage", "damage", damage, place.run / "damage.json", ("sweep",), resumes=True)
    yield _benchmark(recipe, place, choices)
    yield Stage("report", "report", _words("report", place.run, "-o", place.report), place.report, ("judge",))


def _extract(recipe: Recipe, place: Workplace, needs: Sequence[str]) -> Stage:
    sources = {"--pairs": recipe.pairs, "--held-out": recipe.held_out}
    given = {option: _source(value, place) for option, value in sources.items() if value}
    options = [word for pair in given.items() for word in pair]
    words = _words("extract", place.model, *options, "--dtype", recipe.dtype, "-o", place.rvs)
    return Stage("extract", "extract", words, place.rvs, needs, _files(sources.values()))


def _checkpoints(recipe: Recipe, place: Workplace, first: Sequence[str]) -> Iterator[Stage]:
    for alpha in recipe.alphas:
        folder = place.checkpoint(alpha)
        words = _words("orthogonalize", place.model, place.subspace, "--alpha", f"{alpha:g}", "-o", folder)
        yield Stage(f"checkpoint-a{alpha:g}", "checkpoints", words, folder, ("subspace", *first))


def _sweep(recipe: Recipe, place: Workplace, choices: Choices) -> Stage:
    prompts, safe = _source(recipe.prompts, place), _source(recipe.safe_prompts, place)
    words: list[object] = [
        "sweep",
        place.model,
        "--rvs",
        place.rvs,
        "--prompts",
        prompts,
        "--safe-prompts",
        safe,
        *_limit(recipe),
    ]
    words += ["--subspace", recipe.subspace, "--subspace", recipe.wider, "--alphas", recipe.alphas_text, "--writes"]
    words += ["--tag", recipe.tag] if recipe.tag else []
    words += ["--random", recipe.n_random, "--max-tokens", recipe.max_tokens, "--dtype", recipe.dtype]
    needs = ["extract"]
    if "checkpoints" not in choices.skip:
        words += [word for alpha in recipe.alphas for word in ("--checkpoint", place.checkpoint(alpha))]
        needs += [f"checkpoint-a{alpha:g}" for alpha in recipe.alphas]
    files = _files([recipe.prompts, recipe.safe_prompts])
    return Stage("sweep", "sweep", _words(*words, "-o", place.run), place.run, needs, files, resumes=True)


def _benchmark(recipe: Recipe, place: Workplace, choices: Choices) -> Stage:
    words: list[object] = [
        "benchmark",
        place.model,
        "--ablation",
        f"subspace={place.subspace}",
        "--tasks",
        recipe.tasks,
    ]
    needs = ["subspace"]
    if "checkpoints" not in choices.skip:
        words += [word for alpha in recipe.alphas for word in ("--checkpoint", place.checkpoint(alpha))]
        needs += [f"checkpoint-a{alpha:g}" for alpha in recipe.alphas]
    words += ["--dtype", recipe.dtype, *_limit(recipe), "-o", place.benchmark]
    return Stage("benchmark", "benchmark", _words(*words), place.benchmark, needs, resumes=True)


def _limit(recipe: Recipe) -> list[object]:
    return ["--limit", recipe.limit] if recipe.limit else []


def _source(source: str, place: Workplace) -> str:
    return source.replace(MODEL_FOLDER, place.model)


def _files(sources: Iterable[str | None]) -> tuple[Path, ...]:
    """Those of the sources that are files of the user's; the model's own are covered by the stage that makes it."""
    return tuple(Path(source) for source in sources if source and MODEL_FOLDER not in source and Path(source).is_file())


def _words(*parts: object) -> tuple[str, ...]:
    return tuple(map(str, parts))
