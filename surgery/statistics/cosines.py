"""How alike the refusal vectors of different layers are, with intervals over prompts."""

import math
from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any

import torch
from scipy.special import stdtrit

from surgery.reading.activations import HARMFUL, SAFE, LayerActivations
from surgery.residual.layers import late_layers
from surgery.residual.vectors import RefusalVectors
from surgery.statistics.estimators import block_means

MOST_BLOCKS = 100  # of prompts that are left out together: each costs n_layers vectors for a while
FEWEST_BLOCKS = 3
LEVEL = 0.95


def block_counts(n_harmful: int, n_safe: int, matched: bool) -> list[int]:
    """How many blocks of prompts are left out one by one: of pairs; or of harmful prompts, and of safe ones.

    Row n of a group belongs to block n mod n_blocks; a few blocks may have one prompt more than the others.
    """
    sizes = [n_harmful] if matched else [n_harmful, n_safe]
    return [n // max(1, math.ceil(n / MOST_BLOCKS)) for n in sizes]


def cosines_without(layers: Sequence[LayerActivations]) -> torch.Tensor | None:
    """Cosines between the layers' expected differences of means, of all prompts and with one block of them left out.

    The inner product of two layers' differences of means, r_i . r_j, exceeds that of what they estimate by the trace of
    the covariance of their errors, which the blocks b estimate:
    s_ij = r_i . r_j - G / (G - 1) sum_b (x_bi - mean x_i) . (x_bj - mean x_j),  cos_ij = s_ij / sqrt(s_ii s_jj)
    (Spearman 1904, Am. J. Psychol. 15(1), correction for attenuation, on vectors), x_b block b's share of r. These cosines
    are all that a jackknife of any function of them takes.

    Args:
        layers: one a decoder block.
    Returns: [1 + sum of block_counts, n_layers (n_layers - 1) / 2] float32, the matrix above its diagonal row by row:
        of all prompts, then without each block of pairs, or of harmful prompts and then of safe ones. None for a single
        layer, with fewer than `FEWEST_BLOCKS` blocks, or where some vector is no longer than its error.
    """
    counts = block_counts(*layers[0].sizes, layers[0].matched)
    if len(layers) < 2 or min(counts) < FEWEST_BLOCKS:
        return None
    shares = torch.stack([_shares(layer, counts) for layer in layers], dim=1).split(counts)
    grams = torch.stack(list(_grams(shares)))
    squares = grams.diagonal(dim1=1, dim2=2)
    if not (squares > 0).all():
        return None
    first, second = torch.triu_indices(len(layers), len(layers), 1)
    cosines = grams[:, first, second] / (squares[:, first] * squares[:, second]).sqrt()
    return cosines.float()


def cosine_statistics(rvs: RefusalVectors) -> dict[str, Any] | None:
    """Means of the cosines between layers, with jackknife intervals over the prompts.

    Returns: {neighbours, far, decay, late}, each {estimate, low, high, n}, n the pairs (or prompts): mean cosine between
        neighbouring layers; mean over the distances of half the depth and more; the former minus the latter; mean among
        the last 60 % of the layers, null when that is one layer. None for a file without what they take.
    """
    cosines = rvs.extras.get("cosines_without")
    if cosines is None:
        return None
    counts = block_counts(rvs.n_harmful, rvs.n_safe, rvs.matched)
    n = rvs.n_harmful if rvs.matched else rvs.n_harmful + rvs.n_safe
    whole, *without = [_means(_matrix(row, rvs.n_layers)) for row in cosines.double()]
    return {name: _statistic(name, whole, without, counts, n) for name in whole}


def jackknife(
    whole: float, without: Sequence[torch.Tensor], most: float, level: float = LEVEL
) -> tuple[float, float, float]:
    """Estimate without its first-order bias, and its interval by Student's t.

    theta_J = theta - sum_s (g_s - 1) (mean_b theta_(s,b) - theta),
    se^2 = sum_s (g_s - 1) / g_s sum_b (theta_(s,b) - mean_b theta_(s,b))^2
    (Quenouille 1956 and Tukey 1958: Efron & Tibshirani 1993, An Introduction to the Bootstrap, ch. 10-11; over several
    samples: Arvesen 1969, Annals of Mathematical Statistics 40(6))

    Args:
        whole: theta of all prompts.
        without: of each sample s, theta with each of its g_s blocks left out, [g_s] float64.
        most: the greatest absolute value that theta can take.
    Returns: estimate, low, high.
    """
    means = [values.mean().item() for values in without]
    bias = sum((len(values) - 1) * (mean - whole) for values, mean in zip(without, means, strict=True))
    variance = sum((len(values) - 1) * values.var(correction=0).item() for values in without)
    reach = float(stdtrit(min(map(len, without)) - 1, (1 + level) / 2)) * math.sqrt(variance)
    estimate, low, high = (max(-most, min(most, whole - bias + by)) for by in (0.0, -reach, reach))
    return estimate, low, high


def decay_off_diagonal(cosine: torch.Tensor) -> torch.Tensor:
    """Mean cosine at each layer distance: [n, n] -> [n]; entry k averages cosine[i, i + k], entry 0 is 1."""
    return torch.stack([cosine.diagonal(distance).mean() for distance in range(len(cosine))])


def _shares(layer: LayerActivations, counts: Sequence[int]) -> torch.Tensor:
    """What each block adds to the difference of means, [sum(counts), d_model] float32."""
    if layer.matched:
        return (_block_shares(layer, HARMFUL, counts[0]) - _block_shares(layer, SAFE, counts[0])).float()
    harmful, safe = (_block_shares(layer, group, n) for group, n in zip((HARMFUL, SAFE), counts, strict=True))
    return torch.cat([harmful, -safe]).float()


def _block_shares(layer: LayerActivations, group: int, n_blocks: int) -> torch.Tensor:
    sizes = torch.bincount(torch.arange(layer.sizes[group]) % n_blocks).double()
    return block_means(layer, group, n_blocks) * (sizes / layer.sizes[group])[:, None]


def _grams(samples: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Inner products of what the layers' differences of means estimate: of all prompts, then without each block.

    Without block b of G, r becomes r - g (x_b - mean x) with g = G / (G - 1), the others' shares being g times as large.

    Args:
        samples: blocks' shares of the differences of means, [n_blocks, n_layers, d_model] each.
    Yields: [n_layers, n_layers] float64.
    """
    total = reduce(torch.add, (sample.double().sum(0) for sample in samples))
    spreads = [sample - sample.mean(0) for sample in samples]
    squares = [sum(_square(row) for row in spread) for spread in spreads]
    noise = [square * len(spread) / (len(spread) - 1) for square, spread in zip(squares, spreads, strict=True)]
    yield _square(total) - sum(noise)
    for index, spread in enumerate(spreads):
        n_blocks, others = len(spread), sum(noise) - noise[index]
        g = n_blocks / (n_blocks - 1)
        for row in spread:
            left = (squares[index] - g * _square(row)) * g**2 * (n_blocks - 1) / (n_blocks - 2)
            yield _square(total - g * row.double()) - others - left


def _square(rows: torch.Tensor) -> torch.Tensor:
    """Inner products of the rows, [n, d] -> [n, n] float64."""
    wide = rows.double()
    return wide @ wide.T


def _means(cosine: torch.Tensor) -> dict[str, float | None]:
    """The statistics of one cosine matrix, [n_layers, n_layers] float64."""
    by_distance = decay_off_diagonal(cosine)
    neighbours, far = by_distance[1].item(), by_distance[math.ceil(len(cosine) / 2) :].mean().item()
    first = late_layers(len(cosine)).start
    late = cosine[first:, first:]
    rows, columns = torch.triu_indices(len(late), len(late), 1)
    among = late[rows, columns].mean().item() if len(late) > 1 else None
    return {"neighbours": neighbours, "far": far, "decay": neighbours - far, "late": among}


def _matrix(above: torch.Tensor, n_layers: int) -> torch.Tensor:
    """A symmetric matrix with ones on its diagonal from what is above it, row by row."""
    matrix = torch.eye(n_layers, dtype=above.dtype)
    first, second = torch.triu_indices(n_layers, n_layers, 1)
    matrix[first, second] = matrix[second, first] = above
    return matrix


def _statistic(
    name: str, whole: dict[str, float | None], without: list[dict[str, float | None]], counts: list[int], n: int
) -> dict[str, Any] | None:
    value = whole[name]
    if value is None:
        return None
    parts = torch.tensor([part[name] for part in without], dtype=torch.float64).split(counts)
    estimate, low, high = jackknife(value, parts, most=2.0 if name == "decay" else 1.0)
    return {"estimate": estimate, "low": low, "high": high, "n": n}
