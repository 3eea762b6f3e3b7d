"""What a recipe will take, said before it begins."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.generation.job import HARMFUL, SAFE
from eval.studies.recipes.recipe import MODEL_FOLDER, Recipe
from eval.studies.recipes.stages import Choices
from eval.studies.study import Stage
from eval.studies.workplace import Workplace
from surgery.residual.layers import parse_layers

GENERATION = 25e9
"""Parameters x tokens a second on two CPU cores while answers are generated: 109 M at 235 (docs/benchmarks.md)."""
READING = 60e9
"""The same while prompts are only read: 96 prompts of 47 tokens in 174 CPU s at the shape of Llama-3.2-1B (there too)."""
CPU_MOST = 5000.0
"""Tokens a second, however small the model."""
WRITING = 0.25e9
"""Bytes of weights a second, edited, written and verified: 16 GB in 37 CPU s, and the disk (docs/benchmarks.md)."""
JUDGING = 0.0005
"""Seconds for each response of the heuristic judge."""
ENGINE_SECONDS = 10.0
PROMPT_TOKENS, DAMAGE_PROMPTS, DAMAGE_TEXT_TOKENS, DOCUMENT_TOKENS = 50, 65, 2000, 150
N_BYTES = {"float32": 4, "auto": 2, "bfloat16": 2, "float16": 2}
_TEXT_BYTES = 5  # a token of a response, with its share of the record


@dataclass(frozen=True)
class Cost:
    """What one stage takes: 0 where there is none of it, None where it cannot be known.

    Attributes:
        n_requests: responses generated.
        n_verdicts: at most, for equal responses are judged once.
        n_bytes: on the disk, of weights and responses, at most.
        seconds: on two CPU cores, at most: every response as long as it may be.
    """

    stage: str
    n_requests: float | None = 0
    n_verdicts: float | None = 0
    n_bytes: float | None = 0
    seconds: float | None = 0


@dataclass(frozen=True)
class Estimate:
    """A recipe in numbers; None where it cannot be known yet."""

    n_conditions: int
    n_prompts: int | None
    costs: Sequence[Cost]

    def total(self, name: str) -> float | None:
        """Sum of one of a cost's fields over the stages; None where one of them is not known."""
        values = [getattr(cost, name) for cost in self.costs]
        return None if None in values else sum(values)


@dataclass(frozen=True)
class _Scale:
    """What the stages' costs follow from."""

    recipe: Recipe
    choices: Choices
    n_conditions: int
    n_prompts: int | None
    n_parameters: float | None
    weight_bytes: float | None

    @property
    def n_weights(self) -> int:
        """Checkpoints beside the model."""
        return 0 if "checkpoints" in self.choices.skip else len(self.recipe.alphas)

    def seconds(self, n_tokens: float | None, rate: float, n_engines: int = 0) -> float | None:
        """For so many tokens on two CPU cores, with the starts of engines."""
        if n_tokens is None or self.n_parameters is None:
            return None
        return n_engines * ENGINE_SECONDS + n_tokens / min(CPU_MOST, rate / self.n_parameters)

    def limited(self, n: int | None) -> int | None:
        """What --limit leaves of n."""
        return None if n is None else min(n, self.recipe.limit or n)


def estimate(
    recipe: Recipe, n_layers: int, place: Workplace, choices: Choices, stages: Sequence[Stage] = ()
) -> Estimate:
    """Count what the stages will do.

    Args:
        recipe: with layers of the model at hand (`Recipe.at_depth`).
        stages: those that run.
    """
    n_conditions, n_prompts = count_conditions(recipe, n_layers, choices), _count_prompts(recipe)
    weights = _weight_bytes(recipe, place)
    parameters = recipe.shape.parameters if recipe.shape else weights and weights / 2
    scale = _Scale(recipe, choices, n_conditions, n_prompts, parameters or None, weights)
    return Estimate(n_conditions, n_prompts, [_COSTS.get(stage.group, _small)(stage, scale) for stage in stages])


def _small(stage: Stage, scale: _Scale) -> Cost:
    return Cost(stage.name)


def _model(stage: Stage, scale: _Scale) -> Cost:
    return Cost(stage.name, n_bytes=scale.weight_bytes, seconds=scale.weight_bytes and scale.weight_bytes / WRITING)


def _extract(stage: Stage, scale: _Scale) -> Cost:
    sources = [source for source in (scale.recipe.pairs, scale.recipe.held_out) if source]
    counts = [_count_pairs(source, scale.recipe) for source in sources]
    n_tokens = None if None in counts else 2 * PROMPT_TOKENS * sum(count or 0 for count in counts)
    return Cost(stage.name, seconds=scale.seconds(n_tokens, READING))


def _sweep(stage: Stage, scale: _Scale) -> Cost:
    n_requests = None if scale.n_prompts is None else scale.n_conditions * scale.n_prompts
    n_tokens = None if n_requests is None else n_requests * scale.recipe.max_tokens
    n_bytes = None if n_tokens is None else n_tokens * _TEXT_BYTES
    return Cost(stage.name, n_requests, 0, n_bytes, scale.seconds(n_tokens, GENERATION, 1 + scale.n_weights))


def _judge(stage: Stage, scale: _Scale) -> Cost:
    n_verdicts = _sweep(stage, scale).n_requests
    by_rules = not scale.choices.judge and n_verdicts is not None
    return Cost(stage.name, 0, n_verdicts, seconds=n_verdicts * JUDGING if by_rules and n_verdicts else None)


def _damage(stage: Stage, scale: _Scale) -> Cost:
    n_tokens = scale.n_conditions * ((scale.limited(DAMAGE_PROMPTS) or 0) * PROMPT_TOKENS + DAMAGE_TEXT_TOKENS)
    return Cost(stage.name, seconds=scale.seconds(n_tokens, READING, 1 + scale.n_weights))


def _benchmark(stage: Stage, scale: _Scale) -> Cost:
    from eval.cost.benchmark.tasks import count_documents, parse_tasks

    counts = [count_documents(task) for task in parse_tasks(scale.recipe.tasks, scale.recipe.prepare == "organism")]
    known = [scale.limited(count) or 0 for count in counts]
    n_variants = 2 + scale.n_weights
    n_tokens = None if None in counts else n_variants * (sum(known) * DOCUMENT_TOKENS + DAMAGE_PROMPTS * PROMPT_TOKENS)
    return Cost(stage.name, seconds=scale.seconds(n_tokens, READING))


_COSTS: Mapping[str, Callable[[Stage, _Scale], Cost]] = {
    "model": _model,
    "extract": _extract,
    "checkpoints": _model,
    "sweep": _sweep,
    "judge": _judge,
    "damage": _damage,
    "benchmark": _benchmark,
}


def count_conditions(recipe: Recipe, n_layers: int, choices: Choices) -> int:
    """Conditions of the sweep: baseline, RVs and subspaces (stream and writes) per strength and set, controls, weights."""
    n_sets, n_alphas = 1 + bool(recipe.tag), len(recipe.alphas)
    ranks = {1, *(len(parse_layers(layers, n_layers)) for layers in (recipe.subspace, recipe.wider))}
    edited = n_sets * n_alphas * (n_layers + 2 * 2)
    checkpoints = 0 if "checkpoints" in choices.skip else n_alphas
    return 1 + edited + recipe.n_random * len(ranks) + checkpoints


def lines(found: Estimate) -> list[str]:
    """The estimate as a table of stages, with what its numbers rest on."""
    width = max(len(cost.stage) for cost in found.costs)
    head = f"{'stage':<{width}}  {'requests':>9}  {'judge calls':>11}  {'disk':>9}  {'time on two CPU cores':>21}"
    total = Cost("total", *(found.total(name) for name in ("n_requests", "n_verdicts", "n_bytes", "seconds")))
    return [
        f"conditions   {found.n_conditions}",
        f"prompts      {'not known yet' if found.n_prompts is None else f'{found.n_prompts:,d}'} (harmful and safe)",
        "",
        head,
        *(_row(cost, width) for cost in [*found.costs, total]),
        "",
        "At most: every response as long as it may be, every one judged (equal ones are judged once). Times follow from the "
        "model's size by rates measured on two CPU cores; on a GPU they are much less, and not measured. A judge's model "
        "takes its own time. ?: not known before the stage runs.",
    ]


def _row(cost: Cost, width: int) -> str:
    cells = (_count(cost.n_requests), _count(cost.n_verdicts), _size(cost.n_bytes), _time(cost.seconds))
    places = zip(cells, (9, 11, 9, 21), strict=True)
    return "  ".join([f"{cost.stage:<{width}}", *(f"{cell:>{place}}" for cell, place in places)])


def _count(value: float | None) -> str:
    return "?" if value is None else f"{value:,.0f}" if value else "-"


def _size(n_bytes: float | None) -> str:
    if not n_bytes:
        return "?" if n_bytes is None else "-"
    return f"{n_bytes / 1e9:,.3g} GB" if n_bytes >= 1e9 else f"{max(1, n_bytes / 1e6):,.0f} MB"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    if seconds < 15:
        return "seconds"
    return (
        f"{seconds / 3600:,.1f} h" if seconds >= 5400 else f"{seconds / 60:,.0f} min" if seconds >= 90 else "a minute"
    )


def _count_pairs(source: str, recipe: Recipe) -> int | None:
    from surgery.prompts import load_pairs

    if MODEL_FOLDER in source:
        return recipe.shape.prompts if recipe.shape else None
    return len(load_pairs(source))


def _count_prompts(recipe: Recipe) -> int | None:
    from surgery.prompts import load_prompts

    total = 0
    for source, role in ((recipe.prompts, HARMFUL), (recipe.safe_prompts, SAFE)):
        if MODEL_FOLDER in source:
            found = recipe.shape.prompts if recipe.shape else None
        else:
            found = len(load_prompts(source, role))
        if found is None:
            return None
        total += min(found, recipe.limit or found)
    return total


def _weight_bytes(recipe: Recipe, place: Workplace) -> float | None:
    stored = sum(file.stat().st_size for file in Path(place.model).glob("*.safetensors"))
    return stored or (recipe.shape.parameters * N_BYTES[recipe.dtype] if recipe.shape else None)
