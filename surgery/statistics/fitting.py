"""From one layer's activations to its refusal vector and the statistics that need every prompt."""

from collections.abc import Collection, Mapping, Sequence

import torch

from surgery.console.errors import ModelError
from surgery.reading.activations import HARMFUL, SAFE, LayerActivations
from surgery.statistics.estimators import ESTIMATORS, group_means, singular_directions

N_SPLITS = 20
N_SCATTER = 128  # prompts of a group that the axes of the scatter plot are fitted on; all are placed on them
SEED = 0
Rows = tuple[Sequence[int], Sequence[int]]
"""Row numbers of some harmful and of some safe prompts, at least one each."""


def fit(
    layers: Sequence[LayerActivations], estimator: str = "mean", zero_allowed: bool = False
) -> dict[str, torch.Tensor]:
    """The refusal vector of every layer and each prompt's projection on it.

    Args:
        layers: one a decoder block.
        estimator: a key of `ESTIMATORS`.
        zero_allowed: keep a zero vector, with projections of zero, where nothing differs: what enters block 0 at a token
            of the template is that token's embedding, whatever the prompt.
    Returns: vectors, mean_harmful, mean_safe [n_layers, d_model]; projections_harmful, projections_safe
        [n_harmful, n_layers] and [n_safe, n_layers], onto the unit vectors; float32.
    Raises: ModelError when a layer has no direction.
    """
    fitted: dict[str, list[torch.Tensor]] = {}
    for index, layer in enumerate(layers):
        harmful, safe = group_means(layer)
        vector = ESTIMATORS[estimator](layer)
        if vector.norm() == 0 and not zero_allowed:
            raise ModelError(
                f"layer {index}: harmful and safe prompts give equal mean activations, so no refusal vector"
            )
        on_harmful, on_safe = project(layer, vector)
        found = {
            "vectors": vector,
            "mean_harmful": harmful,
            "mean_safe": safe,
            "projections_harmful": on_harmful,
            "projections_safe": on_safe,
        }
        for name, tensor in found.items():
            fitted.setdefault(name, []).append(tensor.float())
    return {
        name: torch.stack(tensors, dim=1 if name.startswith("projections") else 0) for name, tensors in fitted.items()
    }


def project(layer: LayerActivations, vector: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Every prompt's activation on the unit vector along `vector`: [n_harmful] and [n_safe] float32."""
    unit = (vector / vector.norm().clamp(min=torch.finfo(vector.dtype).tiny)).float()
    harmful, safe = (torch.cat([rows @ unit for _, rows in layer.rows(group)]) for group in (HARMFUL, SAFE))
    return harmful, safe


def split_half_cosines(layer: LayerActivations, n_splits: int = N_SPLITS, seed: int = SEED) -> torch.Tensor:
    """Cosine of the differences of means of two random halves of the prompts, [n_splits] float64.

    How well half the prompts reproduce the direction (split-half reliability: Spearman 1910, Br. J. Psychol. 3(3)). A
    matched pair is never divided; unmatched groups are halved each by itself. Needs two prompts a group.
    """
    generator = torch.Generator().manual_seed(seed)
    of_harmful = _halves(layer.sizes[HARMFUL], n_splits, generator)
    of_safe = of_harmful if layer.matched else _halves(layer.sizes[SAFE], n_splits, generator)
    first, second = (
        _weighted_sums(layer, HARMFUL, of_harmful[half]) - _weighted_sums(layer, SAFE, of_safe[half]) for half in (0, 1)
    )
    return torch.nn.functional.cosine_similarity(first, second, dim=1)


def tagged_means(layer: LayerActivations, samples: Collection[Rows]) -> tuple[torch.Tensor, torch.Tensor]:
    """Differences of means over some prompts only, and the means of their safe ones, [n_samples, d_model] float32 each."""
    harmful, safe = (
        _weighted_sums(layer, group, _averaging([rows[group] for rows in samples], layer.sizes[group]))
        for group in (HARMFUL, SAFE)
    )
    return (harmful - safe).float(), safe.float()


def scatter(layer: LayerActivations) -> tuple[torch.Tensor, torch.Tensor]:
    """Every prompt on the two leading principal axes of all prompts' activations, for a plot.

    Returns: harmful [n_harmful, 2] and safe [n_safe, 2], float32; the harmful mean is on the positive side of both axes.
    """
    harmful, safe = (layer.read(group, 0, min(layer.sizes[group], N_SCATTER)).double() for group in (HARMFUL, SAFE))
    centre = torch.cat([harmful, safe]).mean(0)
    axes = torch.linalg.svd(torch.cat([harmful, safe]) - centre, full_matrices=False).Vh[:2]
    axes = axes * torch.where((harmful.mean(0) - centre) @ axes.T < 0, -1.0, 1.0)[:, None]
    on_harmful, on_safe = (
        torch.cat([(rows.double() - centre) @ axes.T for _, rows in layer.rows(group)]).float()
        for group in (HARMFUL, SAFE)
    )
    return on_harmful, on_safe


def statistics(
    layers: Sequence[LayerActivations], tags: Mapping[str, Rows], n_components: int
) -> dict[str, torch.Tensor]:
    """What later commands need beyond `fit`, as the extra tensors of a refusal-vector file.

    Args:
        tags: name -> rows; may be empty.
        n_components: singular directions a layer, of matched pairs only; 0 for none.
    Returns: split_half_cosine [n_splits, n_layers] and scatter_harmful, scatter_safe [n_prompts, n_layers, 2] (with two
        prompts a group or more), by_tag, safe_by_tag [n_tags, n_layers, d_model], components [n_layers, n_components,
        d_model] and singular_values [n_layers, n_components]; float32.
    """
    extras: dict[str, torch.Tensor] = {}
    if min(layers[0].sizes) > 1:
        extras["split_half_cosine"] = torch.stack([split_half_cosines(layer).float() for layer in layers], dim=1)
        placed = [scatter(layer) for layer in layers]
        extras["scatter_harmful"] = torch.stack([harmful for harmful, _ in placed], dim=1)
        extras["scatter_safe"] = torch.stack([safe for _, safe in placed], dim=1)
    if tags:
        tagged = [tagged_means(layer, tags.values()) for layer in layers]
        extras["by_tag"], extras["safe_by_tag"] = (torch.stack(tensors, 1) for tensors in zip(*tagged, strict=True))
    if n_components:
        found = [singular_directions(layer, n_components) for layer in layers]
        extras["components"] = torch.stack([directions for directions, _ in found]).float()
        extras["singular_values"] = torch.stack([values for _, values in found]).float()
    return extras


def _halves(n_rows: int, n_splits: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Random divisions of rows in two: the weights that average either half, [n_splits, n_rows] float64 each."""
    order = torch.stack([torch.randperm(n_rows, generator=generator) for _ in range(n_splits)])
    first = (order < n_rows // 2).double()
    return first / first.sum(1, keepdim=True), (1 - first) / (1 - first).sum(1, keepdim=True)


def _averaging(rows: Sequence[Sequence[int]], n_rows: int) -> torch.Tensor:
    """Weights that average the rows named, [len(rows), n_rows] float64."""
    weights = torch.zeros(len(rows), n_rows, dtype=torch.float64)
    for index, chosen in enumerate(rows):
        weights[index, list(chosen)] = 1 / len(chosen)
    return weights


def _weighted_sums(layer: LayerActivations, group: int, weights: torch.Tensor) -> torch.Tensor:
    """Sums over a group's rows, one for each row of weights: [n, n_rows] -> [n, d_model] float64."""
    total = torch.zeros(len(weights), layer.d_model, dtype=torch.float64)
    for start, rows in layer.rows(group):
        total += weights[:, start : start + len(rows)] @ rows.double()
    return total
