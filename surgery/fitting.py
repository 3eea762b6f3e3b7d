"""From one layer's activations to its refusal vector and the statistics that need every prompt."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from surgery.activations import HARMFUL, SAFE, LayerActivations
from surgery.errors import ModelError
from surgery.estimators import ESTIMATORS, group_means, singular_directions

if TYPE_CHECKING:
    import torch

N_SPLITS = 20
N_SCATTER = 128  # prompts of a group that the axes of the scatter plot are fitted on; all are placed on them
SEED = 0


def fit(
    layers: Sequence[LayerActivations], estimator: str = "mean", zero_allowed: bool = False
) -> "dict[str, torch.Tensor]":
    """The refusal vector of every layer and each prompt's projection on it.

    Args:
        layers: one a decoder block.
        estimator: a key of `ESTIMATORS`.
        zero_allowed: keep a zero vector, with projections of zero, where nothing differs: what enters block 0 at a token
            of the template is that token's embedding, whatever the prompt.
    Returns: vectors, mean_harmful, mean_safe [n_layers, d_model]; projections_harmful, projections_safe
        [n_pairs, n_layers], onto the unit vectors; float32.
    Raises: ModelError when a layer has no direction.
    """
    import torch

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


def project(layer: LayerActivations, vector: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
    """Every prompt's activation on the unit vector along `vector`: harmful and safe, [n_pairs] float32 each."""
    import torch

    unit = (vector / vector.norm().clamp(min=torch.finfo(vector.dtype).tiny)).float()
    on = [(harmful @ unit, safe @ unit) for _, harmful, safe in layer.chunks()]
    return torch.cat([harmful for harmful, _ in on]), torch.cat([safe for _, safe in on])


def split_half_cosines(layer: LayerActivations, n_splits: int = N_SPLITS, seed: int = SEED) -> "torch.Tensor":
    """Cosine of the mean differences of two random halves of the pairs, [n_splits] float64.

    How well half the pairs reproduce the direction (split-half reliability: Spearman 1910, Br. J. Psychol. 3(3)); a
    pair is never divided. Needs two pairs.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(layer.n_pairs, generator=generator) for _ in range(n_splits)])
    first = (order < layer.n_pairs // 2).double()
    sums, total = torch.zeros(n_splits, layer.d_model, dtype=torch.float64), 0
    for start, harmful, safe in layer.chunks():
        differences = harmful.double() - safe.double()
        sums += first[:, start : start + len(differences)] @ differences
        total = total + differences.sum(0)
    return torch.nn.functional.cosine_similarity(sums, total - sums, dim=1)


def tagged_means(layer: LayerActivations, tags: Mapping[str, Sequence[int]]) -> "torch.Tensor":
    """Difference of means over some pairs only, [n_tags, d_model] float32.

    Args:
        tags: name -> row numbers of its pairs, at least one each.
    """
    import torch

    member = torch.zeros(len(tags), layer.n_pairs, dtype=torch.float64)
    for index, rows in enumerate(tags.values()):
        member[index, list(rows)] = 1 / len(rows)
    total = torch.zeros(len(tags), layer.d_model, dtype=torch.float64)
    for start, harmful, safe in layer.chunks():
        total += member[:, start : start + len(harmful)] @ (harmful.double() - safe.double())
    return total.float()


def scatter(layer: LayerActivations) -> "tuple[torch.Tensor, torch.Tensor]":
    """Every prompt on the two leading principal axes of all prompts' activations, for a plot.

    Returns: harmful and safe, [n_pairs, 2] float32 each; the harmful mean is on the positive side of both axes.
    """
    import torch

    n_rows = min(layer.n_pairs, N_SCATTER)
    harmful, safe = (layer.read(group, 0, n_rows).double() for group in (HARMFUL, SAFE))
    centre = torch.cat([harmful, safe]).mean(0)
    axes = torch.linalg.svd(torch.cat([harmful, safe]) - centre, full_matrices=False).Vh[:2]
    axes = axes * torch.where((harmful.mean(0) - centre) @ axes.T < 0, -1.0, 1.0)[:, None]
    rows = [((h.double() - centre) @ axes.T, (s.double() - centre) @ axes.T) for _, h, s in layer.chunks()]
    return torch.cat([h for h, _ in rows]).float(), torch.cat([s for _, s in rows]).float()


def statistics(
    layers: Sequence[LayerActivations], tags: Mapping[str, Sequence[int]], n_components: int
) -> "dict[str, torch.Tensor]":
    """What later commands need beyond `fit`, as the extra tensors of a refusal-vector file.

    Args:
        tags: as in `tagged_means`; may be empty.
        n_components: singular directions a layer; 0 for none.
    Returns: split_half_cosine [n_splits, n_layers] and scatter_harmful, scatter_safe [n_pairs, n_layers, 2] (with two
        pairs or more), by_tag [n_tags, n_layers, d_model], components [n_layers, n_components, d_model] and
        singular_values [n_layers, n_components]; float32.
    """
    import torch

    extras: dict[str, torch.Tensor] = {}
    if layers[0].n_pairs > 1:
        extras["split_half_cosine"] = _stacked(split_half_cosines, layers, 1)
        placed = [scatter(layer) for layer in layers]
        extras["scatter_harmful"] = torch.stack([harmful for harmful, _ in placed], dim=1)
        extras["scatter_safe"] = torch.stack([safe for _, safe in placed], dim=1)
    if tags:
        extras["by_tag"] = _stacked(lambda layer: tagged_means(layer, tags), layers, 1)
    if n_components:
        found = [singular_directions(layer, n_components) for layer in layers]
        extras["components"] = torch.stack([directions for directions, _ in found]).float()
        extras["singular_values"] = torch.stack([values for _, values in found]).float()
    return extras


def _stacked(
    measure: "Callable[[LayerActivations], torch.Tensor]", layers: Sequence[LayerActivations], dim: int
) -> "torch.Tensor":
    import torch

    return torch.stack([measure(layer).float() for layer in layers], dim=dim)
