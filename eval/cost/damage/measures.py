"""Two measures of damage: how far the next token's distribution moves, and how much worse text is predicted."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.statistics.intervals import Interval, bootstrap_mean


@dataclass(frozen=True)
class Damage:
    """What one condition does to harmless input.

    Attributes:
        perplexity: exp of the mean negative log probability per token of the text.
        kl: mean over prompts of D(baseline || condition) of the first answer token, nats; None for the baseline.
        same_token: share of prompts whose most probable first token is the baseline's; None for the baseline.
        nats: mean over windows of the change in nats per token against the baseline (greater is worse); None likewise.
    """

    perplexity: float
    kl: Interval | None = None
    same_token: float | None = None
    nats: Interval | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Damage":
        """Read what `to_json` wrote."""
        kl, nats = (Interval(**record[key]) if record[key] else None for key in ("kl", "nats"))
        return cls(record["perplexity"], kl, record["same_token"], nats)


def kl_divergence(baseline: NDArray[np.float32], changed: NDArray[np.float32]) -> float:
    """D(p || q) = sum_v p(v) (log p(v) - log q(v)) in nats, p the baseline (Kullback & Leibler 1951, eq. 2.4).

    Args:
        baseline, changed: [vocab_size] natural log probabilities of the whole vocabulary; summed in float64.
    Returns: at least 0; inf where `changed` excludes what the baseline allows.
    """
    log_p, log_q = baseline.astype(np.float64), changed.astype(np.float64)
    allowed = log_p > -math.inf
    log_p, log_q = log_p[allowed], log_q[allowed]
    return max(0.0, float(np.sum(np.exp(log_p) * (log_p - log_q))))  # rounding of equal ones may fall below 0


def perplexity(nats: Sequence[float]) -> float:
    """exp of the mean of [n_windows] mean nats per token, of windows of equal length."""
    return float(np.exp(np.mean(nats)))


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean of an unbounded measure with its BCa bootstrap interval; equal values have no spread to estimate it from.

    Args:
        values: [n] independent observations, finite.
    """
    x = np.asarray(values, dtype=np.float64)
    if np.ptp(x) == 0:
        return Interval(float(x[0]), float(x[0]), float(x[0]), x.size, "constant")
    return bootstrap_mean(x, bounds=(-math.inf, math.inf))
