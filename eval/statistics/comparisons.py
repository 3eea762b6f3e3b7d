"""Comparisons of conditions on the same prompts: sign-flip permutation tests, corrections, detectable differences.

The null hypothesis throughout: swapping the two conditions' scores of a prompt changes nothing, so that each paired
difference is as likely as its negative (Fisher 1935, The Design of Experiments, ch. III).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from eval.statistics.intervals import Interval, paired_difference

N_FLIPS = 10_000
SEED = 0
POWER = 0.80
SIGNIFICANCE = 0.05
_TIE = 1e-9  # statistics equal up to rounding count as equal, which keeps p on the large side


def sign_flip_p(differences: Sequence[float] | NDArray[np.float64], n_flips: int = N_FLIPS, seed: int = SEED) -> float:
    """Two-sided p of the mean paired difference under random sign flips.

    Exact when all 2^m patterns of the m non-zero differences are no more than `n_flips`; otherwise Monte Carlo with the
    observed pattern counted, p = (1 + hits) / (1 + n_flips) (Phipson & Smyth 2010, SAGMB 9:39), never zero.

    Args:
        differences: [n_prompts]; NaN where either side is unscored, which drops the pair.
    Raises: ValueError when no pair is left.
    """
    d = np.asarray(differences, dtype=np.float64)
    d = d[~np.isnan(d)]
    if d.size == 0:
        raise ValueError("no pair of scored responses to compare")
    moved = d[d != 0]
    if moved.size < 63 and 2**moved.size <= n_flips:
        sums = _all_signs(moved.size) @ moved
        return float(np.mean(np.abs(sums) >= abs(moved.sum()) - _TIE))
    sums = _random_signs(n_flips, moved.size, seed) @ moved
    return float((1 + np.sum(np.abs(sums) >= abs(moved.sum()) - _TIE)) / (1 + n_flips))


def paired_test(differences: NDArray[np.float64]) -> tuple[Interval, float] | None:
    """Mean of paired differences with its interval, and its sign-flip p; NaN drops a pair, None is without one."""
    d = differences[~np.isnan(differences)]
    return (paired_difference(d), sign_flip_p(d)) if d.size else None


def max_t_p(differences: NDArray[np.float64], n_flips: int = N_FLIPS, seed: int = SEED) -> NDArray[np.float64]:
    """p of each column, adjusted over all columns by Westfall and Young's step-down max-T.

    Westfall & Young 1993, Resampling-Based Multiple Testing, algorithm 4.1; in the notation of Ge, Dudoit & Speed 2003,
    TEST 12:1-77, box 2. A prompt's sign is flipped in all columns at once, which keeps their dependence (the baseline
    is shared). The statistic is sum(d) / sqrt(sum(d^2)), a monotone form of the paired t that stays finite when all
    differences are equal. Controls the family-wise error under the complete and any partial null.

    Args:
        differences: [n_prompts, n_columns]; NaN where a pair is unscored, which drops that pair from that column.
    Returns: [n_columns] adjusted p, at least 1 / (1 + n_flips).
    Raises: ValueError when there is no column, or one without a scored pair.
    """
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 2 or d.shape[1] == 0 or np.isnan(d).all(axis=0).any():
        raise ValueError(f"expected [n_prompts, n_columns] with a scored pair in each column, found shape {d.shape}")
    unit = np.nan_to_num(d)
    norms = np.sqrt((unit**2).sum(axis=0))
    unit = unit / np.where(norms > 0, norms, 1.0)
    observed = np.abs(unit.sum(axis=0))
    flipped = np.abs(_random_signs(n_flips, d.shape[0], seed) @ unit)
    return step_down(observed, flipped)


def holm_p(p_values: Sequence[float]) -> NDArray[np.float64]:
    """Holm's adjusted p, valid under any dependence (Holm 1979, Scand. J. Statist. 6:65-70): the check on max-T."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)))
    return adjusted


def detectable_shift(
    freedom: float, n_tests: int = 1, power: float = POWER, significance: float = SIGNIFICANCE
) -> float:
    """Least shift, in standard errors, that a two-sided t-test with so many degrees of freedom finds.

    Solves power = P(T > t_crit), T noncentral t (Cohen 1988, Statistical Power Analysis, ch. 2); the level is
    significance / n_tests (Bonferroni). The opposite tail, below 1e-5 at any useful power, is left out.
    """
    from scipy.optimize import brentq
    from scipy.stats import nct, t

    critical = t.isf(significance / n_tests / 2, freedom)
    return float(brentq(lambda shift: nct.sf(critical, freedom, shift) - power, 0.0, 3 * critical + 10))


def minimal_detectable_difference(
    sd: float, n: int, n_tests: int = 1, power: float = POWER, significance: float = SIGNIFICANCE
) -> float:
    """Least mean paired difference that a two-sided paired t-test finds; see `detectable_shift`.

    Args:
        sd: standard deviation of the paired differences, > 0.
        n: pairs, at least 2.
        n_tests: comparisons to correct for.
    Returns: the difference, in the unit of `sd`; beyond the range of the score nothing is detectable.
    """
    if n < 2 or not sd > 0 or n_tests < 1:
        raise ValueError(f"expected n >= 2, sd > 0 and n_tests >= 1, found n={n}, sd={sd}, n_tests={n_tests}")
    return detectable_shift(n - 1, n_tests, power, significance) * sd / n**0.5


def minimal_detectable_share(
    n: int, n_tests: int = 1, power: float = POWER, significance: float = SIGNIFICANCE
) -> float:
    """Least share of prompts going from 0 to 1, all others unmoved, that the same test finds with the given power.

    The differences then have sd = sqrt(s (1 - s)), so s = m^2 / (1 + m^2) with m the detectable difference at sd = 1.
    It is the floor where observed scores do not vary at all, as when baseline and intervention only ever refuse.
    """
    m = minimal_detectable_difference(1.0, n, n_tests, power, significance)
    return m**2 / (1 + m**2)


def _all_signs(n: int) -> NDArray[np.float64]:
    """[2^n, n] every pattern of +1 and -1."""
    patterns = np.arange(2**n)[:, None] >> np.arange(n)[None, :] & 1
    return 1.0 - 2.0 * patterns


def _random_signs(n_flips: int, n: int, seed: int) -> NDArray[np.float64]:
    """[n_flips, n] random +1 and -1."""
    heads = np.random.default_rng(seed).integers(0, 2, size=(n_flips, n), dtype=np.int8)
    return heads.astype(np.float64) * 2 - 1


def step_down(observed: NDArray[np.float64], flipped: NDArray[np.float64]) -> NDArray[np.float64]:
    """Adjusted p from observed [n] and permuted [n_flips, n] statistics: maxima over the columns not yet rejected."""
    order = np.argsort(-observed, kind="stable")
    successive_maxima = np.maximum.accumulate(flipped[:, order[::-1]], axis=1)[:, ::-1]
    hits = (successive_maxima >= observed[order] - _TIE).sum(axis=0)
    adjusted = np.empty_like(observed)
    adjusted[order] = np.maximum.accumulate((1 + hits) / (1 + flipped.shape[0]))
    return adjusted
