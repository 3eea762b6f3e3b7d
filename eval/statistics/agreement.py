"""Agreement of raters beyond chance: Cohen's kappa, plain and weighted, and Krippendorff's alpha."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

WEIGHTS = ("none", "linear", "quadratic")
LEVELS = ("nominal", "ordinal", "interval")


def confusion(first: Sequence[Any], second: Sequence[Any], categories: Sequence[Any]) -> NDArray[np.int64]:
    """[n_categories, n_categories] counts: rows by the first rater, columns by the second.

    Raises: ValueError when the lengths differ or a rating is no category.
    """
    if len(first) != len(second):
        raise ValueError(f"two raters must rate the same items, found {len(first)} and {len(second)} ratings")
    position = {category: index for index, category in enumerate(categories)}
    unknown = sorted({str(rating) for rating in (*first, *second) if rating not in position})
    if unknown:
        raise ValueError(f"ratings outside the categories {list(categories)}: {', '.join(unknown)}")
    counts = np.zeros((len(position), len(position)), dtype=np.int64)
    np.add.at(counts, ([position[rating] for rating in first], [position[rating] for rating in second]), 1)
    return counts


def cohen_kappa(first: Sequence[Any], second: Sequence[Any], categories: Sequence[Any], weights: str = "none") -> float:
    """Cohen's kappa of two raters.

    kappa = 1 - sum(w * observed) / sum(w * expected)       (Cohen 1960; weighted: Cohen 1968)

    where `expected` is what the raters' own margins give by chance, and w the disagreement of categories i and j: 1 for
    i != j ("none"), |i - j| ("linear") or (i - j)**2 ("quadratic").

    Args:
        categories: all of them, in their order where there is one.
    Returns: at most 1; NaN when there is no item, or both raters used one and the same category throughout.
    Raises: ValueError when ratings do not fit, or `weights` is unknown.
    """
    return kappa_of_counts(confusion(first, second, categories), weights)


def kappa_of_counts(counts: ArrayLike, weights: str = "none") -> float:
    """Cohen's kappa of a [k, k] table of counts; see `cohen_kappa`."""
    table = np.asarray(counts, dtype=np.float64)
    n = table.sum()
    if n == 0:
        return float("nan")
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / n
    disagreement = _disagreement(len(table), weights)
    by_chance = (disagreement * expected).sum()
    return float(1 - (disagreement * table).sum() / by_chance) if by_chance > 0 else float("nan")


def _disagreement(n_categories: int, weights: str) -> NDArray[np.float64]:
    apart = np.abs(np.subtract.outer(np.arange(n_categories), np.arange(n_categories))).astype(np.float64)
    if weights not in WEIGHTS:
        raise ValueError(f"weights must be one of {', '.join(WEIGHTS)}, found {weights!r}")
    return {"none": (apart > 0).astype(np.float64), "linear": apart, "quadratic": apart**2}[weights]


def krippendorff_alpha(ratings: ArrayLike, level: str = "nominal") -> float:
    """Krippendorff's alpha of any number of raters with missing ratings.

    alpha = 1 - D_observed / D_expected          (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability")

    from the coincidence matrix of values within units; units with fewer than two ratings carry no information.

    Args:
        ratings: [n_raters, n_units] numbers, NaN where a rater did not rate.
        level: "nominal" (equal or not), "ordinal" (by rank, how many ratings lie between) or "interval" (squared
            difference).
    Returns: at most 1; NaN when no unit has two ratings, or all ratings are the same.
    Raises: ValueError when `ratings` is no matrix or `level` is unknown.
    """
    matrix = np.asarray(ratings, dtype=np.float64)
    if matrix.ndim != 2:
        raise ValueError(f"ratings must be [n_raters, n_units], found shape {list(matrix.shape)}")
    values, counts = _counts_by_unit(matrix)
    n_by_unit = counts.sum(axis=1)
    paired, n_paired = counts[n_by_unit > 1], n_by_unit[n_by_unit > 1]
    coincidences = paired.T @ (paired / (n_paired - 1)[:, None]) - np.diag(
        (paired / (n_paired - 1)[:, None]).sum(axis=0)
    )
    totals = coincidences.sum(axis=1)
    apart = _metric(values, totals, level)
    expected = (np.outer(totals, totals) * apart).sum()
    return float(1 - (totals.sum() - 1) * (coincidences * apart).sum() / expected) if expected > 0 else float("nan")


def _counts_by_unit(matrix: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(values [k], counts [n_units, k]): how often each value was given to each unit."""
    rated = ~np.isnan(matrix)
    values, position = np.unique(matrix[rated], return_inverse=True)
    counts = np.zeros((matrix.shape[1], len(values)))
    np.add.at(counts, (np.nonzero(rated)[1], position), 1.0)
    return values, counts


def _metric(values: NDArray[np.float64], totals: NDArray[np.float64], level: str) -> NDArray[np.float64]:
    """[k, k] squared differences of values at a level of measurement."""
    if level == "nominal":
        return 1.0 - np.eye(len(values))
    if level == "interval":
        return np.subtract.outer(values, values) ** 2
    if level == "ordinal":
        middles = np.cumsum(totals) - totals / 2  # sum of n_g for g = c..k, less half of both ends
        return np.subtract.outer(middles, middles) ** 2
    raise ValueError(f"level must be one of {', '.join(LEVELS)}, found {level!r}")
