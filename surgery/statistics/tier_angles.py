"""How far apart the refusal vectors of different tiers lie, beside how far apart two halves of one tier do."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import torch

from surgery.reading.activations import HARMFUL, SAFE, LayerActivations
from surgery.residual.layers import LayerSpec, format_layers, parse_layers
from surgery.residual.subspace import Subspace
from surgery.residual.vectors import RefusalVectors
from surgery.statistics.angles import principal_angles
from surgery.statistics.fitting import SEED, Rows, tagged_means

N_SPLITS = 10
MIN_HALF = 2  # prompts: the mean of one is no mean
INDEPENDENT = 1e-6  # least eigenvalue of a Gram matrix of unit vectors that float32 entries leave above their rounding


def half_grams(layers: Sequence[LayerActivations], tags: Mapping[str, Rows]) -> torch.Tensor | None:
    """Inner products of the unit RVs of disjoint halves of every tier, all of one size, for random splits.

    They are all that the principal angles between spans of these vectors take, for any choice of layers, in a
    hundredth of the room of the vectors.

    Args:
        layers: one a decoder block.
        tags: name -> row numbers of its harmful and safe prompts.
    Returns: [N_SPLITS, n, n] float32 with n = n_tiers * 2 * n_layers, tier by tier, half by half, layer by layer; None
        with fewer than two tiers, or when a tier is too small to be halved.
    """
    samples = _halves(tags, layers[0].matched)
    if not samples:
        return None
    means = torch.stack(
        [tagged_means(layer, samples.values())[0] for layer in layers], dim=1
    )  # [n_samples, n_layers, d_model]
    units = torch.nn.functional.normalize(means.double(), dim=-1).unflatten(0, (N_SPLITS, -1))
    return torch.stack([split.flatten(0, 1) @ split.flatten(0, 1).T for split in units]).float()


def tier_angles(rvs: RefusalVectors, spans: Iterable[LayerSpec]) -> list[dict[str, Any]]:
    """Principal angles between the spans of two tiers' RVs, for every two tiers and every choice of layers.

    Noise alone turns vectors of finite samples apart, so the angle between tiers means nothing by itself. `across` gives
    the angles between a half of one tier and a half of the other, `within` those between two halves of the same tier,
    all halves of one size: only what `across` has above `within` speaks for different directions.

    Args:
        spans: layers whose RVs span a subspace; one layer is a direction.
    Returns: one for each, in plain JSON types: {tiers [2], layers, n_per_half, angles_degrees [rank] of all prompts
        (empty where a vector is zero), across, within [2]: null, or of the angles {mean, low, high [rank]} over the
        splits, smallest angle first}. Empty for a file without two tiers.
    Raises: LayerRangeError.
    """
    tags = {entry["tag"]: entry for entry in rvs.header.get("tags", ()) if _is_tier(entry["tag"])}
    if "by_tag" not in rvs.extras:
        return []
    chosen = [parse_layers(span, rvs.n_layers) for span in spans]
    n_per_half = min((entry.get("n_harmful", entry.get("n_pairs", 0)) for entry in tags.values()), default=0) // 2
    return [
        {
            "tiers": [first, second],
            "layers": format_layers(layers),
            "n_per_half": n_per_half,
            "angles_degrees": _between(rvs, first, second, layers),
            **_of_halves(rvs, list(tags), (first, second), layers),
        }
        for layers in chosen
        for first, second in combinations(tags, 2)
    ]


def angles_of_gram(gram: torch.Tensor, first: Sequence[int], second: Sequence[int]) -> torch.Tensor:
    """Principal angles between the spans of two sets of vectors, from their inner products alone.

    With G_A = U S U^T, the rows of S^(-1/2) U^T A are orthonormal, so the cosines are the singular values of
    S_A^(-1/2) U_A^T G_AB U_B S_B^(-1/2)   (as `principal_angles`; small angles to about 0.1 degrees)

    Args:
        gram: [n, n], inner products of unit vectors.
        first, second: which of them span either side.
    Returns: [min(rank)] float64 radians, smallest first.
    """
    wide = gram.double()
    maps = []
    for rows in (first, second):
        values, vectors = torch.linalg.eigh(wide[list(rows)][:, list(rows)])
        kept = values > INDEPENDENT * len(rows)
        maps.append(vectors[:, kept] / values[kept].sqrt())
    cosines = torch.linalg.svdvals(maps[0].T @ wide[list(first)][:, list(second)] @ maps[1])
    return cosines.clamp(0, 1).arccos()


def _is_tier(tag: str) -> bool:
    return tag.startswith("tier ")


def _halves(tags: Mapping[str, Rows], matched: bool) -> dict[tuple[int, str, int], Rows]:
    """(split, tier, half) -> rows: disjoint random halves of the tiers, cut to the size of the smallest tier's.

    Unmatched tiers share the safe prompts, which are halved as well: half 0 of every tier has one half of them.
    """
    tiers = {tag: rows for tag, rows in tags.items() if _is_tier(tag)}
    size = min((len(rows[HARMFUL]) for rows in tiers.values()), default=0) // 2
    if len(tiers) < 2 or size < MIN_HALF:
        return {}
    generator = torch.Generator().manual_seed(SEED)
    samples: dict[tuple[int, str, int], Rows] = {}
    for split in range(N_SPLITS):
        safe = None if matched else _shuffled(next(iter(tiers.values()))[SAFE], generator)
        for tier, rows in tiers.items():
            harmful = _shuffled(rows[HARMFUL], generator)
            for half in (0, 1):
                part = harmful[half * size : (half + 1) * size]
                samples[split, tier, half] = (part, part if safe is None else safe[half::2])
    return samples


def _shuffled(rows: Sequence[int], generator: torch.Generator) -> list[int]:
    return [rows[index] for index in torch.randperm(len(rows), generator=generator).tolist()]


def _between(rvs: RefusalVectors, first: str, second: str, layers: Sequence[int]) -> list[float]:
    vectors = [rvs.of_tag(tag).vectors[list(layers)] for tag in (first, second)]
    if any((each.norm(dim=1) == 0).any() for each in vectors):
        return []
    bases = [Subspace.from_vectors(rvs.of_tag(tag), layers).basis for tag in (first, second)]
    return [math.degrees(angle) for angle in principal_angles(*bases).tolist()]


def _of_halves(
    rvs: RefusalVectors, tiers: Sequence[str], pair: tuple[str, str], layers: Sequence[int]
) -> dict[str, Any]:
    """Angles between halves of the two tiers, and between the halves of either, over the splits."""
    grams = rvs.extras.get("tier_half_grams")
    if grams is None:
        return {"across": None, "within": None}

    def rows(tier: str, half: int) -> list[int]:
        return [(2 * tiers.index(tier) + half) * rvs.n_layers + layer for layer in layers]

    first, second = pair
    across = [(rows(first, half), rows(second, 1 - half)) for half in (0, 1)]
    within = [[(rows(tier, 0), rows(tier, 1))] for tier in pair]
    return {"across": _over_splits(grams, across), "within": [_over_splits(grams, each) for each in within]}


def _over_splits(grams: torch.Tensor, sides: Sequence[tuple[list[int], list[int]]]) -> dict[str, list[float]]:
    """Mean, least and greatest of every angle, in degrees; a split counts by the mean over `sides`."""
    angles = [torch.stack([angles_of_gram(gram, *side) for side in sides]).mean(0) for gram in grams]
    rank = min(map(len, angles))
    degrees = torch.rad2deg(torch.stack([each[:rank] for each in angles]))
    low, high = degrees.aminmax(dim=0)
    return {"mean": degrees.mean(0).tolist(), "low": low.tolist(), "high": high.tolist()}
