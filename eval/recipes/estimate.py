"""What a recipe will take, said before it begins."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.job import HARMFUL, SAFE
from eval.recipes.recipe import MODEL_FOLDER, Recipe
from eval.recipes.stages import Choices, Stage
from eval.workplace import Workplace
from surgery.layers import parse_layers

CPU_RATE = 25e9  # parameters x tokens a second on two CPU cores: 109 M at 235 (docs/benchmarks.md)
CPU_MOST = 5000.0  # tokens a second, however small the model
N_BYTES = {"float32": 4, "auto": 2, "bfloat16": 2, "float16": 2}
_TEXT_BYTES = 5  # a token of a response, with its share of the record


@dataclass(frozen=True)
class Estimate:
    """A recipe in numbers; None where it cannot be known yet.

    Attributes:
        n_requests: responses generated; `n_verdicts` at most, for equal responses are judged once.
        disk: bytes of checkpoints and responses, at most.
        cpu_seconds: of generation on two CPU cores, at most: every response as long as it may be.
    """

    n_conditions: int
    n_prompts: int | None
    n_requests: int | None
    disk: float | None
    cpu_seconds: float | None

    @property
    def n_verdicts(self) -> int | None:
        """Verdicts at most."""
        return self.n_requests


def estimate(recipe: Recipe, n_layers: int, place: Workplace, choices: Choices) -> Estimate:
    """Count what the stages will do.

    Args:
        recipe: with layers of the model at hand (`Recipe.at_depth`).
    """
    n_conditions = count_conditions(recipe, n_layers, choices)
    n_prompts = _count_prompts(recipe)
    n_requests = None if n_prompts is None else n_conditions * n_prompts
    weights = _weight_bytes(recipe, place)
    n_copies = 0 if "checkpoints" in choices.skip else len(recipe.alphas)
    disk = seconds = None
    if n_requests is not None:
        n_tokens = n_requests * recipe.max_tokens
        disk = None if weights is None and n_copies else n_copies * (weights or 0) + n_tokens * _TEXT_BYTES
        seconds = n_tokens / min(CPU_MOST, CPU_RATE / recipe.shape.parameters) if recipe.shape else None
    return Estimate(n_conditions, n_prompts, n_requests, disk, seconds)


def count_conditions(recipe: Recipe, n_layers: int, choices: Choices) -> int:
    """Conditions of the sweep: baseline, RVs and subspaces (stream and writes) per strength and set, controls, weights."""
    n_sets, n_alphas = 1 + bool(recipe.tag), len(recipe.alphas)
    ranks = {1, *(len(parse_layers(layers, n_layers)) for layers in (recipe.subspace, recipe.wider))}
    edited = n_sets * n_alphas * (n_layers + 2 * 2)
    checkpoints = 0 if "checkpoints" in choices.skip else n_alphas
    return 1 + edited + recipe.n_random * len(ranks) + checkpoints


def lines(found: Estimate, stages: Sequence[Stage], limit: int | None) -> list[str]:
    """The estimate in words."""
    words = [
        f"conditions   {found.n_conditions}",
        f"prompts      {_or_unknown(found.n_prompts, ',d')} (harmful and safe)",
        f"requests     {_or_unknown(found.n_requests, ',d')}",
    ]
    if any(stage.group == "judge" for stage in stages):
        words.append(f"judge calls  at most {_or_unknown(found.n_verdicts, ',d')}; equal responses are judged once")
    gigabytes = None if found.disk is None else found.disk / 1e9
    words.append(f"disk         at most {_or_unknown(gigabytes, '.3g')} GB")
    minutes = None if found.cpu_seconds is None else found.cpu_seconds / 60
    words.append(
        f"generation   at most {_or_unknown(minutes, ',.0f')} min on two CPU cores, from the model's size and the longest "
        "responses; much less on a GPU, not measured"
    )
    return words


def _or_unknown(value: float | None, spec: str) -> str:
    return "(not known yet)" if value is None else format(value, spec)


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
