"""How much of what is measured is the judge's own noise: the repeats of one judge."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.statistics.agreement import krippendorff_alpha
from eval.statistics.intervals import CONFIDENCE, Interval
from eval.statistics.scores import ScoredRun


@dataclass(frozen=True)
class RepeatNoise:
    """Variance components of one judge's repeats, by a one-way random-effects model: score = response + judge's noise.

    Attributes:
        n_items: responses scored at least once; `n_repeated` of them at least twice.
        n_verdicts: scored verdicts of these responses.
        icc: share of the variance of a single verdict that is between responses, ICC(1), with its F interval; a bare 1
            where no repeat differed, which shows no spread to make an interval of.
        noise_share: share of the variance of a condition's mean that is the judge's noise, after averaging repeats.
        alpha_ordinal, alpha_interval: Krippendorff's alpha over the repeats; NaN when all verdicts are the same.
        sd: standard deviation of one verdict around the mean of its response's verdicts.
    """

    n_items: int
    n_repeated: int
    n_verdicts: int
    icc: Interval | float
    noise_share: float
    alpha_ordinal: float
    alpha_interval: float
    sd: float


def repeat_noise(ratings: NDArray[np.float64], confidence: float = CONFIDENCE) -> RepeatNoise | None:
    """Split the variance of repeated verdicts into that of the responses and that of the judge.

    With MSB and MSW the mean squares between and within responses and n0 the effective number of repeats,
    n0 = (N - sum n_i^2 / N) / (k - 1), the judge's variance is MSW and the responses' (MSB - MSW) / n0, not below zero;
    ICC(1) = (MSB - MSW) / (MSB + (n0 - 1) MSW)   (Shrout & Fleiss 1979, Psychol. Bull. 86:420-428; for unequal numbers
    of repeats Donner 1986, Int. Stat. Rev. 54:67-82). The interval inverts F = MSB / MSW; it is exact for normal scores
    and equal repeats, an approximation here. A mean over responses has the variance (responses' + MSW mean(1/n_i)) / k,
    of which the second term is the noise.

    Args:
        ratings: [n_items, n_repeats] scores, NaN where a repeat is missing or unscored.
    Returns: None when no response has two scored repeats, fewer than two have any, or all scores are equal.
    """
    counts = (~np.isnan(ratings)).sum(axis=1)
    kept, n = ratings[counts > 0], counts[counts > 0]
    k, total = len(n), int(n.sum())
    if k < 2 or total == k or np.nanmin(kept) == np.nanmax(kept):
        return None
    between, within = _mean_squares(kept, n)
    n0 = (total - (n**2).sum() / total) / (k - 1)
    items = max(0.0, (between - within) / n0)
    noise = within * float((1 / n).mean())
    ordinal, interval = (krippendorff_alpha(kept.T, level) for level in ("ordinal", "interval"))
    icc = _icc(between, within, n0, (k - 1, total - k), k, confidence)
    share = float(noise / (items + noise))
    return RepeatNoise(k, int((n > 1).sum()), total, icc, share, ordinal, interval, within**0.5)


def condition_repeats(run: ScoredRun, condition_id: str, prompt_set: str) -> NDArray[np.float64]:
    """[n_responses, n_repeats] compliance by every scored repeat of one condition's responses; NaN elsewhere."""
    rows = [run.repeats.get(row.item_id, []) for row in run.responses(condition_id, prompt_set)]
    n_repeats = 1 + max((verdict.repeat for verdicts in rows for verdict in verdicts), default=0)
    ratings = np.full((len(rows), n_repeats), np.nan)
    for index, verdicts in enumerate(rows):
        for verdict in verdicts:
            ratings[index, verdict.repeat] = np.nan if verdict.compliance is None else verdict.compliance
    return ratings


def _mean_squares(ratings: NDArray[np.float64], n: NDArray[np.int64]) -> tuple[float, float]:
    """Mean squares between and within the rows of [k, n_repeats] ratings."""
    means = np.nanmean(ratings, axis=1)
    between = (n * (means - np.nanmean(ratings)) ** 2).sum() / (len(n) - 1)
    within = np.nansum((ratings - means[:, None]) ** 2) / (n.sum() - len(n))
    return float(between), float(within)


def _icc(
    between: float, within: float, n0: float, freedom: Sequence[int], n_items: int, confidence: float
) -> Interval | float:
    """ICC(1) with the interval that inverts F = MSB / MSW; 1 of a judge that never wavered."""
    from scipy.stats import f

    if within < 1e-14:  # rounding of scores in 0..1
        return 1.0
    tail = (1 - confidence) / 2
    ratio = between / within
    low, high = ratio / f.isf(tail, *freedom), ratio * f.isf(tail, *reversed(freedom))
    estimate, low, high = (float((x - 1) / (x + n0 - 1)) for x in (ratio, low, high))
    return Interval(estimate, min(low, estimate), max(high, estimate), n_items, "f")
