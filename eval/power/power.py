"""Sampling plans: how many prompts a difference in compliance takes, and what difference so many prompts can show."""

from collections.abc import Callable
from dataclasses import dataclass

from eval.statistics.comparisons import POWER, SIGNIFICANCE
from surgery.console.errors import RefusalError

BASELINE, CORRELATION = 0.1, 0.4
MAX_PROMPTS = 10_000_000
CONTINUITY = 0.5  # of a score: half the step of the difference of two sums when two labels are exchanged
_LEAST_DIFFERENCE = 1e-4


class PowerError(RefusalError):
    """A sampling plan is asked for that no scores can have."""


@dataclass(frozen=True)
class Spread:
    """How much the paired differences from the baseline vary, when their mean is known.

    Scores are taken at the ends of the scale, 0 or 1, where they vary most: with half points fewer prompts do.

    Attributes:
        baseline: mean compliance without intervention, 0..1.
        correlation: of a prompt's scores under the two conditions.
        discordance: share of prompts whose score changes; None: as the correlation has it.
        pilot_sd: standard deviation of paired differences seen in a pilot, without the judge's noise; None: as above.
        judge_noise: standard deviation of one verdict around its response's mean.
        repeats: verdicts averaged for each response.
    """

    baseline: float = BASELINE
    correlation: float = CORRELATION
    discordance: float | None = None
    pilot_sd: float | None = None
    judge_noise: float = 0.0
    repeats: int = 1

    def sd(self, difference: float) -> float:
        """Standard deviation of the paired differences whose mean is `difference`.

        var = p0 q0 + p1 q1 - 2 rho sqrt(p0 q0 p1 q1), or discordance - difference^2 (Connor 1987, Biometrics 43:207-211),
        at least |difference| (1 - |difference|), which is all moves going one way, and at most what moves both ways as
        the two means allow; the judge adds 2 noise^2 / repeats.
        """
        moved = abs(difference)
        variance = max(self._variance(difference), moved * (1 - moved))
        return (variance + 2 * self.judge_noise**2 / self.repeats) ** 0.5

    def _variance(self, difference: float) -> float:
        if self.pilot_sd is not None:
            return self.pilot_sd**2
        most = self.most_moved(difference) - difference**2
        if self.discordance is not None:
            return min(most, self.discordance - difference**2)
        before, after = (p * (1 - p) for p in (self.baseline, self.baseline + difference))
        return min(most, before + after - 2 * self.correlation * (max(0.0, before * after)) ** 0.5)

    def most_moved(self, difference: float) -> float:
        """The greatest share of prompts that change between scores of 0 and 1 with these means, (p0 + p1) or its rest."""
        ones = 2 * self.baseline + difference
        return min(ones, 2 - ones)


@dataclass(frozen=True)
class Level:
    """What counts as found: a two-sided test at significance / n_tests (Bonferroni), with this power."""

    n_tests: int = 1
    power: float = POWER
    significance: float = SIGNIFICANCE


Found = Callable[[int, float, Spread, Level], bool]


def mean_found(n: int, difference: float, spread: Spread, level: Level) -> bool:
    """Whether n prompts show this paired difference of means of {0, 0.5, 1} scores.

    By the paired t-test, whose statistic is noncentral t with n - 1 degrees of freedom and noncentrality
    difference sqrt(n) / sd (Cohen 1988, Statistical Power Analysis, ch. 2). The sign-flip test follows it unless few
    prompts move: m of them have 2^m sign patterns, so p cannot go below 2^(1 - m), and enough of them have to move with
    this power. Of scores without half points it is McNemar's test, which takes a few prompts more: `share_found`.
    """
    sd = spread.sd(difference)
    enough = _enough_move(n, min(1.0, sd**2 + difference**2), level)
    return enough and _t_finds(abs(difference), sd / n**0.5, n - 1, level)


def share_found(n: int, difference: float, spread: Spread, level: Level) -> bool:
    """Whether n prompts show this paired difference of shares (complied or not), by McNemar's exact test."""
    moved = min(1.0, spread.sd(difference) ** 2 + difference**2)
    lost = max(0.0, moved - abs(difference)) / 2
    return mcnemar_power(n, lost + abs(difference), lost, level.significance / level.n_tests) >= level.power


def contrast_found(n: int, difference: float, spread: Spread, level: Level) -> bool:
    """Whether n prompts in each of two tiers show a difference in differences: one tier stays, one moves by it.

    By Welch's t-test (Welch-Satterthwaite degrees of freedom), which the permutation of tier labels follows but for two
    things. Sums of scores come in steps, and
    exchanges that equal what is seen count against it: half a step is lost (CONTINUITY). And m prompts that move, all of
    them in one of two equal tiers, have a chance of about 2^(1 - m) under it, so enough have to move, as in `mean_found`.
    """
    still, moving = (spread.sd(change) ** 2 for change in (0.0, difference))
    freedom = (n - 1) * (still + moving) ** 2 / ((still**2 + moving**2) or 1.0)
    enough = _enough_move(n, min(1.0, moving + difference**2), level)
    seen = abs(difference) - CONTINUITY / n
    return enough and seen > 0 and _t_finds(seen, ((still + moving) / n) ** 0.5, freedom, level)


def mcnemar_power(n: int, gained: float, lost: float, significance: float = SIGNIFICANCE) -> float:
    """Power of McNemar's exact two-sided test.

    The number m of prompts that change sides is Binomial(n, gained + lost), those that gain Binomial(m, gained / (gained
    + lost)); power sums over m the chance of a count that the test rejects   (Duffy 1984, Biometrics 40:1005-1015)

    Args:
        n: prompts.
        gained, lost: shares of prompts that go from no to yes, and from yes to no; gained + lost in 0..1.
    """
    import numpy as np
    from scipy.stats import binom

    moved = gained + lost
    if moved <= 0:
        return 0.0
    reach = 9 * (n * moved) ** 0.5 + 20  # beyond it lies less than 1e-12 of the distribution
    m = np.arange(max(0, int(n * moved - reach)), min(n, int(n * moved + reach)) + 1)
    edge = binom.ppf(significance / 2, m, 0.5)  # the least count whose lower tail reaches significance / 2
    edge = edge - (binom.cdf(edge, m, 0.5) > significance / 2)
    toward = gained / moved
    rejected = binom.cdf(edge, m, toward) + binom.sf(m - edge - 1, m, toward)
    return float((binom.pmf(m, n, moved) * rejected).sum())


def prompts_needed(found: Found, difference: float, spread: Spread, level: Level) -> int | None:
    """The least number of prompts for which the difference is found; None beyond MAX_PROMPTS."""
    high = 2
    while not found(high, difference, spread, level):
        high *= 2
        if high > MAX_PROMPTS:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if found(middle, difference, spread, level) else (middle, high)
    return high


def detectable(found: Found, n: int, spread: Spread, level: Level) -> float | None:
    """The least rise of compliance that n prompts show, to four digits; None when not even the whole scale is."""
    low, high = 0.0, 1.0 - spread.baseline
    if spread.discordance is not None:
        high = min(high, spread.discordance)
    if n < 2 or high <= 0 or not found(n, high, spread, level):
        return None
    while high - low > _LEAST_DIFFERENCE:
        middle = (low + high) / 2
        low, high = (low, middle) if found(n, middle, spread, level) else (middle, high)
    return high


def _t_finds(difference: float, error: float, freedom: float, level: Level) -> bool:
    """Whether a two-sided t-test finds a difference with this standard error, which may be 0.

    The opposite tail, below 1e-5 at any useful power, is left out.
    """
    from scipy.stats import nct, t

    if error == 0:
        return True
    critical = t.isf(level.significance / level.n_tests / 2, freedom)
    return bool(nct.sf(critical, freedom, difference / error) >= level.power)


def _enough_move(n: int, moved: float, level: Level) -> bool:
    from math import ceil, log2

    from scipy.stats import binom

    least = ceil(1 - log2(level.significance / level.n_tests))
    return float(binom.sf(least - 1, n, moved)) >= level.power
