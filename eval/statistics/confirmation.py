"""The best source layer without the winner's curse: chosen on one half of the prompts, confirmed on the other.

The highest of several noisy means is biased upwards: among 32 layers that all do the same one looks best. Prompts that
took no part in the choice give an unbiased estimate of the layer chosen (data splitting: Cox 1975, Biometrika
62:441-444). What the choosing half shows above the confirming half is the optimism of the choice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from eval.statistics.comparisons import paired_test
from eval.statistics.intervals import Interval, bootstrap_mean
from eval.statistics.scores import PromptKey, Scores

SEED = 0
N_SPLITS = 500


@dataclass(frozen=True)
class Confirmation:
    """A layer chosen on one half of the prompts and measured on the other.

    Attributes:
        index: which candidate was chosen.
        chosen_at: its mean compliance on the choosing half, biased upwards.
        confirmed: its mean compliance on the confirming half, with its interval.
        change: its paired difference from the baseline on the confirming half; None without a scored pair.
        p: two-sided sign-flip p of `change`; no correction is due, since one candidate is tested.
        mean_confirmed, mean_optimism: means over `n_splits` random splits of the confirmed compliance, and of the
            choosing half's excess over it.
        shares: share of those splits in which each candidate was chosen.
    """

    index: int
    chosen_at: float
    confirmed: Interval
    change: Interval | None
    p: float | None
    mean_confirmed: float
    mean_optimism: float
    n_splits: int
    shares: Sequence[float] = field(default_factory=tuple)

    @property
    def optimism(self) -> float:
        """How much the choosing half shows above the confirming half in this split."""
        return self.chosen_at - self.confirmed.estimate


def confirm_best(
    candidates: Sequence[Scores], baseline: Scores | None = None, n_splits: int = N_SPLITS, seed: int = SEED
) -> Confirmation | None:
    """Choose the candidate of highest compliance (then coherence, then the first) on half of the prompts; confirm it.

    Args:
        candidates: scores of the candidates on the same prompts, in order of preference among equals.
        baseline: the unedited model's scores on these prompts.
        n_splits: random splits of the repeated version; the first of them gives the reported interval.
    Returns: None when there are fewer than two candidates, or a half has no score of the one chosen.
    """
    if len(candidates) < 2:
        return None
    compliance, coherence = _stacked(candidates)
    halves = split_in_halves(candidates[0].prompts, n_splits, seed)
    index, chosen_at = _choose(compliance, coherence, halves)
    confirming = ~halves[0]
    values = compliance[index[0], confirming]
    kept = values[~np.isnan(values)]
    if np.isnan(chosen_at[0]) or kept.size == 0:
        return None
    tested = paired_test(values - baseline.compliance[confirming]) if baseline else None
    change, p = tested or (None, None)
    repeated = _repeat(compliance, index, chosen_at, halves)
    return Confirmation(int(index[0]), float(chosen_at[0]), bootstrap_mean(kept), change, p, *repeated)


def choose_on_half(candidates: Sequence[Scores], seed: int = SEED) -> tuple[int, NDArray[np.bool_]] | None:
    """What `confirm_best` chooses in its first split, to be measured in other ways than it does.

    Returns: (which candidate, [n_prompts] True for the prompts that took no part in the choice); None when there is no
        candidate, or none is scored on the choosing half.
    """
    if not candidates:
        return None
    halves = split_in_halves(candidates[0].prompts, N_SPLITS, seed)[:1]
    index, chosen_at = _choose(*_stacked(candidates), halves)
    return None if np.isnan(chosen_at[0]) else (int(index[0]), ~halves[0])


def split_in_halves(prompts: Sequence[PromptKey], n_splits: int, seed: int = SEED) -> NDArray[np.bool_]:
    """Random halves that share out every category and tier evenly.

    Prompts are put in random order within their stratum, and stratum after stratum they go to the two halves in turn:
    no stratum, and not the whole, is split by more than one prompt from even.

    Returns: [n_splits, n_prompts], True in the choosing half.
    """
    rng = np.random.default_rng(seed)
    strata = [(prompt.category, str(prompt.tier)) for prompt in prompts]
    codes = np.unique(np.array([f"{c}\0{t}" for c, t in strata]), return_inverse=True)[1]
    order = np.argsort(codes + rng.random((n_splits, len(prompts))), axis=1)
    turns = (np.arange(len(prompts)) + rng.integers(0, 2, (n_splits, 1))) % 2 == 0
    halves = np.empty((n_splits, len(prompts)), dtype=bool)
    np.put_along_axis(halves, order, turns, axis=1)
    return halves


def _stacked(candidates: Sequence[Scores]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[n_candidates, n_prompts] compliance and coherence."""
    compliance, coherence = (np.array([c.values[name] for c in candidates]) for name in ("compliance", "coherence"))
    return compliance, coherence


def _choose(
    compliance: NDArray[np.float64], coherence: NDArray[np.float64], halves: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Per split, the best candidate on the choosing half and its mean there; NaN when nothing is scored there."""
    means = _masked_means(compliance, halves)
    scored = np.where(np.isnan(means), -1.0, means.round(12))
    ties = scored == scored.max(axis=1, keepdims=True)
    index = np.where(ties, np.nan_to_num(_masked_means(coherence, halves), nan=-1.0).round(12), -2.0).argmax(axis=1)
    return index, np.take_along_axis(means, index[:, None], axis=1)[:, 0]


def _repeat(
    compliance: NDArray[np.float64], index: NDArray[np.int64], chosen_at: NDArray[np.float64], halves: NDArray[np.bool_]
) -> tuple[float, float, int, tuple[float, ...]]:
    """Means of the confirmed compliance and of the optimism over the splits that have both, and who was chosen."""
    confirmed = np.take_along_axis(_masked_means(compliance, ~halves), index[:, None], axis=1)[:, 0]
    usable = ~np.isnan(chosen_at) & ~np.isnan(confirmed)
    shares = np.bincount(index[usable], minlength=len(compliance)) / usable.sum()
    optimism = float((chosen_at - confirmed)[usable].mean())
    return float(confirmed[usable].mean()), optimism, int(usable.sum()), tuple(map(float, shares))


def _masked_means(values: NDArray[np.float64], halves: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[n_splits, n_candidates] means of the scored prompts of each half; NaN where there is none."""
    counts = halves.astype(np.float64) @ (~np.isnan(values)).T
    sums = halves.astype(np.float64) @ np.nan_to_num(values).T
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
