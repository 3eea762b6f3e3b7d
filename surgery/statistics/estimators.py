"""Estimators of a refusal vector from the activations of harmful and of safe prompts at one layer."""

from collections.abc import Callable, Iterator

import torch

from surgery.reading.activations import CHUNK_BYTES, HARMFUL, SAFE, LayerActivations

N_BLOCKS = 11  # of median-of-means: up to five of them may hold outliers
TRIM = 0.1  # of winsorized: the share of values pulled in at either end
_ITERATIONS, _TOLERANCE = 200, 1e-10


def group_means(layer: LayerActivations) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean activation on the harmful and on the safe prompts, each [d_model] float64, summed in float64."""
    sums = torch.zeros(2, layer.d_model, dtype=torch.float64)
    for group in (HARMFUL, SAFE):
        for _, rows in layer.rows(group):
            sums[group] += rows.sum(0, dtype=torch.float64)
    return sums[HARMFUL] / layer.sizes[HARMFUL], sums[SAFE] / layer.sizes[SAFE]


def mean(layer: LayerActivations) -> torch.Tensor:
    """Difference of means, r = mean(harmful) - mean(safe)   (Arditi et al. 2024, arXiv:2406.11717, eq. 2, section 2.3).

    Returns: [d_model], float64.
    """
    harmful, safe = group_means(layer)
    return harmful - safe


def median_of_means(layer: LayerActivations, n_blocks: int = N_BLOCKS) -> torch.Tensor:
    """Geometric median of the differences of means of blocks of prompts.

    r = argmin_m sum_b ||m - (mean_{n in b} harmful_n - mean_{n in b} safe_n)||
    (Minsker 2015, Geometric median and robust estimation in Banach spaces, Bernoulli 21(4), arXiv:1308.1334)

    Outliers in fewer than half of the blocks cannot carry it away. It turns with the coordinates, as a median taken
    coordinate by coordinate does not. Row n of a group belongs to block n mod n_blocks, so that sorted categories are
    spread and pairs stay together.
    Returns: [d_model], float64; with as many blocks as pairs the geometric median of the differences.
    """
    n_blocks = min(n_blocks, *layer.sizes)
    return geometric_median(block_means(layer, HARMFUL, n_blocks) - block_means(layer, SAFE, n_blocks))


def geometric_median(points: torch.Tensor) -> torch.Tensor:
    """The point of least summed distance to the rows, by Weiszfeld's iteration as amended for iterates on a row.

    (Vardi & Zhang 2000, PNAS 97(4), eq. 2.6)
    Args:
        points: [n, d_model], float64.
    Returns: [d_model], float64.
    """
    median, scale = points.mean(0), points.abs().max().clamp(min=1e-300)
    for _ in range(_ITERATIONS):
        distance = (points - median).norm(dim=1)
        apart = distance > 1e-12 * scale
        if not apart.any():
            return median
        weights = 1 / distance[apart]
        target = (weights[:, None] * points[apart]).sum(0) / weights.sum()
        pull = (weights[:, None] * (points[apart] - median)).sum(0).norm()
        share = ((~apart).sum() / pull).clamp(max=1) if pull > 0 else 1.0
        step = (1 - share) * (target - median)
        median = median + step
        if step.norm() <= _TOLERANCE * scale:
            break
    return median


def winsorized(layer: LayerActivations, trim: float = TRIM) -> torch.Tensor:
    """Difference of winsorized means, coordinate by coordinate.

    In each group the g = floor(trim * n) smallest values of a coordinate become the next larger one, the g largest the
    next smaller one, before the mean is taken   (Tukey & McLaughlin 1963, Sankhya A 25(3))
    Returns: [d_model], float64; the difference of means while g is 0.
    """
    parts = []
    for columns in _column_blocks(layer):
        means = []
        for group in (HARMFUL, SAFE):
            ordered = torch.cat([rows[:, columns] for _, rows in layer.rows(group)]).double().sort(dim=0).values
            g = int(trim * len(ordered))
            means.append(ordered.clamp(ordered[g], ordered[-1 - g]).mean(0))
        parts.append(means[HARMFUL] - means[SAFE])
    return torch.cat(parts)


def svd(layer: LayerActivations) -> torch.Tensor:
    """The mean paired difference's part along the leading right singular vector of the paired differences.

    r = (mean(D) . v_1) v_1,  D = U S V^T,  D_n = harmful_n - safe_n, not centred   (uncentred PCA of paired differences:
    as linear artificial tomography of Zou et al. 2023, Representation Engineering, arXiv:2310.01405, section 3.1, which
    alternates their signs, so that centring takes nothing away). Centring D would remove mean(D), which is the refusal vector itself, and
    leave only how the pairs vary.
    Returns: [d_model], float64.
    """
    direction = singular_directions(layer, 1)[0][0]
    return (mean(layer) @ direction) * direction


def singular_directions(layer: LayerActivations, n_directions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Leading right singular vectors of matched pairs' differences, not centred, and the singular values.

    A QR that takes in a few rows at a time keeps R^T R = D^T D, whose singular vectors are those of D
    (Demmel et al. 2012, SIAM J. Sci. Comput. 34(1), section 2); memory is at most d_model rows.

    Args:
        n_directions: at most min(n_pairs, d_model) are given.
    Returns: ([n_directions, d_model] orthonormal rows, each turned so that the mean difference lies on its positive
        side; [n_directions] descending), float64.
    """
    triangle = torch.zeros(0, layer.d_model, dtype=torch.float64)
    total = torch.zeros(layer.d_model, dtype=torch.float64)
    for _, harmful, safe in layer.pairs():
        differences = harmful.double() - safe.double()
        total += differences.sum(0)
        triangle = torch.linalg.qr(torch.cat([triangle, differences]), mode="r").R
    _, values, directions = torch.linalg.svd(triangle, full_matrices=False)
    directions = directions[:n_directions]
    sign = torch.where(directions @ total < 0, -1.0, 1.0)
    return directions * sign[:, None], values[:n_directions]


ESTIMATORS: dict[str, Callable[[LayerActivations], torch.Tensor]] = {
    "mean": mean,
    "median-of-means": median_of_means,
    "winsorized": winsorized,
    "svd": svd,
}
PAIRED = ("svd",)  # estimators that need matched pairs


def _column_blocks(layer: LayerActivations) -> Iterator[slice]:
    """Blocks of coordinates whose values over all prompts of a group fit into memory."""
    width = max(1, 16 * CHUNK_BYTES // (8 * max(layer.sizes)))
    for start in range(0, layer.d_model, width):
        yield slice(start, min(start + width, layer.d_model))


def block_means(layer: LayerActivations, group: int, n_blocks: int) -> torch.Tensor:
    """Means of the rows n, n + n_blocks, … of a group, [n_blocks, d_model] float64."""
    sums = torch.zeros(n_blocks, layer.d_model, dtype=torch.float64)
    for start, rows in layer.rows(group):
        sums.index_add_(0, torch.arange(start, start + len(rows)) % n_blocks, rows.double())
    counts = torch.bincount(torch.arange(layer.sizes[group]) % n_blocks).double()
    return sums / counts[:, None]
