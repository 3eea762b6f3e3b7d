"""Interval estimates of one quantity: a mean with its bootstrap interval, a share with its Wilson interval."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
N_RESAMPLES = 10_000
SEED = 0


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval.

    Attributes:
        estimate, low, high: same unit, low <= estimate <= high.
        n: independent observations (prompts) behind it.
        method: "bca", "wilson", or "exact" (constant data, where resampling shows no spread).
    """

    estimate: float
    low: float
    high: float
    n: int
    method: str


def bootstrap_mean(
    values: Sequence[float] | NDArray[np.float64],
    bounds: tuple[float, float] = (0.0, 1.0),
    confidence: float = CONFIDENCE,
    n_resamples: int = N_RESAMPLES,
    seed: int = SEED,
) -> Interval:
    """Mean with its bias-corrected and accelerated (BCa) bootstrap interval.

    Efron 1987, "Better Bootstrap Confidence Intervals", JASA 82:171-185; for the mean the acceleration is
    a = sum (x - m)^3 / (6 (sum (x - m)^2)^1.5). Scores take few distinct values, so a resample is drawn as multinomial
    counts of them, which is the same distribution and needs no [n_resamples, n] array.

    Constant data, n = 1 among them, have no spread to resample: their interval is `constant_mean`.

    Args:
        values: [n] independent observations (one per prompt), finite, inside `bounds`.
        bounds: least and greatest value that an observation can take.
    Raises: ValueError when `values` is empty, not finite, or outside `bounds`.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.size == 0 or not np.isfinite(x).all() or x.min() < bounds[0] or x.max() > bounds[1]:
        raise ValueError(f"expected at least one finite value inside {bounds}, found {x.tolist()[:8]}")
    distinct, counts = np.unique(x, return_counts=True)
    if distinct.size == 1:
        return constant_mean(float(distinct[0]), x.size, bounds, confidence)
    mean = float(x.mean())
    draws = np.random.default_rng(seed).multinomial(x.size, counts / x.size, n_resamples) @ distinct / x.size
    low, high = np.quantile(draws, _bca_levels(x, draws, confidence))
    return Interval(mean, float(min(low, mean)), float(max(high, mean)), x.size, "bca")


def constant_mean(
    value: float, n: int, bounds: tuple[float, float] = (0.0, 1.0), confidence: float = CONFIDENCE
) -> Interval:
    """Interval of the mean when all n observations equal `value`.

    The share u of the population that differs from `value` is at most 1 - (a/2)^(1/n), a = 1 - confidence: the exact
    bound for no event in n trials (Clopper & Pearson 1934, Biometrika 26:404-413). At worst that share lies at a bound,
    so the mean is within u (value - lowest) below and u (highest - value) above.
    """
    u = 1 - ((1 - confidence) / 2) ** (1 / n)
    return Interval(value, value - u * (value - bounds[0]), value + u * (bounds[1] - value), n, "exact")


def wilson(n_successes: float, n: int, confidence: float = CONFIDENCE) -> Interval:
    """Share of successes with Wilson's score interval.

    (p + z^2/2n +- z sqrt(p (1 - p)/n + z^2/4n^2)) / (1 + z^2/n)       (Wilson 1927, JASA 22:209-212)

    Args:
        n_successes: 0 to n; fractional when a prompt's share over several samples counts as its outcome.
        n: independent trials (prompts), at least 1.
    """
    from scipy.special import ndtri

    if n < 1 or not 0 <= n_successes <= n:
        raise ValueError(f"expected 0 <= successes <= n and n >= 1, found {n_successes} of {n}")
    p, z = n_successes / n, float(ndtri(0.5 + confidence / 2))
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    return Interval(p, max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half)), n, "wilson")


def _bca_levels(x: NDArray[np.float64], draws: NDArray[np.float64], confidence: float) -> NDArray[np.float64]:
    """The two quantile levels of the bootstrap distribution that BCa reads; draws equal to the mean count half."""
    from scipy.special import ndtr, ndtri

    centred = x - x.mean()
    tolerance = 1e-12 * max(1.0, float(np.abs(x).max()))
    below = np.mean(draws < x.mean() - tolerance) + 0.5 * np.mean(np.abs(draws - x.mean()) <= tolerance)
    bias = ndtri(below)
    acceleration = np.sum(centred**3) / (6 * np.sum(centred**2) ** 1.5)
    z = bias + ndtri(np.array([(1 - confidence) / 2, (1 + confidence) / 2]))
    return ndtr(bias + z / (1 - acceleration * z))
