"""What a judged run says about the spread of scores, for planning a larger one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.plan.conditions import Condition
from eval.power.power import Spread
from eval.statistics.judge_noise import condition_repeats, repeat_noise
from eval.statistics.scores import NoScoresError, ScoredRun
from eval.statistics.summaries import differences

HARMFUL = "harmful"


@dataclass(frozen=True)
class Pilot:
    """What was seen in a run, on its harmful prompts.

    Attributes:
        spread: baseline compliance, sd of paired differences (root mean square over the conditions), judge's noise.
        n_prompts: the least number of scored pairs behind it.
        n_conditions: conditions compared: the RVs of the run, or all interventions of a run without.
        n_tiers: tiers of its prompts, at least 1.
        noise_known: whether any response has two verdicts, without which the judge's noise is not known.
    """

    spread: Spread
    n_prompts: int
    n_conditions: int
    n_tiers: int
    noise_known: bool


def read_pilot(scored: ScoredRun, repeats: int = 1) -> Pilot:
    """Read the spread of a run. Raises: NoScoresError without a baseline and a compared condition that share scores.

    The sd seen holds the noise of the pilot's own verdicts, 2 noise^2 / (verdicts per response), which is taken out.

    Args:
        repeats: verdicts per response of the planned run.
    """
    compared = _compared(scored)
    unedited = next((c for c in scored.conditions if c.kind == "baseline" and scored.has(c, HARMFUL)), None)
    if unedited is None or not compared:
        raise NoScoresError(f"{scored.run.path}: a pilot needs a baseline and another condition on {HARMFUL} prompts")
    baseline = scored.scores(unedited, HARMFUL)
    pairs = [differences(scored.scores(condition, HARMFUL), baseline) for condition in compared]
    kept = [d[~np.isnan(d)] for d in pairs if (~np.isnan(d)).sum() > 1]
    if not kept:
        raise NoScoresError(f"{scored.run.path}: no condition has two prompts scored under it and the baseline")
    noise = repeat_noise(_ratings(scored, [unedited, *compared]))
    sd, per_response = (noise.sd, noise.n_verdicts / noise.n_items) if noise else (0.0, 1.0)
    variance = max(0.0, float(np.mean([np.var(d, ddof=1) for d in kept])) - 2 * sd**2 / per_response)
    spread = Spread(baseline.mean(), pilot_sd=variance**0.5, judge_noise=sd, repeats=repeats)
    tiers = {prompt.tier for prompt in baseline.prompts} - {None}
    return Pilot(spread, min(map(len, kept)), len(kept), max(1, len(tiers)), noise is not None)


def _compared(scored: ScoredRun) -> list[Condition]:
    found = [c for c in scored.conditions if c.kind not in ("baseline", "random") and scored.has(c, HARMFUL)]
    return [condition for condition in found if condition.kind == "rv"] or found


def _ratings(scored: ScoredRun, conditions: Sequence[Condition]) -> NDArray[np.float64]:
    """[n_responses, n_repeats] compliance of all these conditions' responses; NaN where there is no verdict."""
    parts = [condition_repeats(scored, condition.id, HARMFUL) for condition in conditions]
    width = max(part.shape[1] for part in parts)
    return np.vstack([np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=np.nan) for part in parts])
