"""Interval estimates of one quantity: a mean with its bootstrap interval, a share with its Wilson interval."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
N_RESAMPLES = 10_000
MIN_MOVED = 20
SEED = 0


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval.

    Attributes:
        estimate, low, high: same unit, low <= estimate <= high.
        n: independent observations (prompts) behind it.
        method: "bca", "wilson", "exact" (constant data, where resampling shows no spread), "mover" (a difference of two
            independent estimates), "bonett-price" (a paired difference of which few prompts moved) or "jackknife".
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


def paired_difference(
    differences: Sequence[float] | NDArray[np.float64],
    confidence: float = CONFIDENCE,
    n_resamples: int = N_RESAMPLES,
    seed: int = SEED,
) -> Interval:
    """Mean of paired differences with the BCa interval, or Bonett and Price's where too few differences are unusual.

    The bootstrap cannot draw what a sample does not hold: with a handful of differences off the commonest value, its
    nominal 95 % covered 78 % of the time at n = 20 and 89 % at n = 200 in simulations, so below MIN_MOVED of them
    `bonett_price` takes its place.

    Args:
        differences: [n] in -1..1, finite, at least one.
    """
    d = np.asarray(differences, dtype=np.float64)
    counts = np.unique(d, return_counts=True)[1]
    if counts.size > 1 and d.size - counts.max() < MIN_MOVED:
        return bonett_price(d, confidence)
    return bootstrap_mean(d, (-1.0, 1.0), confidence, n_resamples, seed)


def bonett_price(differences: Sequence[float] | NDArray[np.float64], confidence: float = CONFIDENCE) -> Interval:
    """Mean of paired differences with Bonett and Price's adjusted Wald interval.

    One difference of +1 and one of -1 are added to the n observed, then m +- z sqrt(var / (n + 2)) is taken of all.
    For differences of yes-or-no outcomes this is p1 - p2 +- z sqrt((p1 + p2 - (p1 - p2)^2) / (n + 2)) with
    p1 = (gained + 1) / (n + 2), p2 = (lost + 1) / (n + 2) (Bonett & Price 2012, J. Educ. Behav. Stat. 37:479-488;
    recommended by Fagerland, Lydersen & Laake 2014, Stat. Med. 33:2850-2875). Differences of smaller size get an
    interval that is too wide rather than too narrow. The estimate reported is the plain mean.

    Args:
        differences: [n] in -1..1, finite, at least one.
    """
    from scipy.special import ndtri

    d = np.asarray(differences, dtype=np.float64)
    if d.size == 0 or not np.isfinite(d).all() or np.abs(d).max() > 1:
        raise ValueError(f"expected at least one finite difference in -1..1, found {d.tolist()[:8]}")
    padded = np.append(d, (1.0, -1.0))
    half = float(ndtri(0.5 + confidence / 2) * (padded.var() / padded.size) ** 0.5)
    estimate, centre = float(d.mean()), float(padded.mean())
    low, high = max(-1.0, min(estimate, centre - half)), min(1.0, max(estimate, centre + half))
    return Interval(estimate, low, high, d.size, "bonett-price")


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


def independent_difference(first: Interval, second: Interval) -> Interval:
    """second - first of two independent estimates, its interval recovered from theirs (MOVER).

    low = d - sqrt((e2 - l2)^2 + (u1 - e1)^2), high = d + sqrt((u2 - e2)^2 + (e1 - l1)^2)
    (Zou & Donner 2008, Stat. Med. 27:1693-1702; with Wilson intervals it is method 10 of Newcombe 1998, Stat. Med.
    17:873-890). Unlike a bootstrap of the difference it keeps the width that a constant group has by its exact bound.
    """
    d = second.estimate - first.estimate
    below = ((second.estimate - second.low) ** 2 + (first.high - first.estimate) ** 2) ** 0.5
    above = ((second.high - second.estimate) ** 2 + (first.estimate - first.low) ** 2) ** 0.5
    return Interval(d, d - below, d + above, first.n + second.n, "mover")


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
