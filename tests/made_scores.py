"""Scores made from plain lists, for the tests of statistics."""

import numpy as np

from eval.plan.conditions import BASELINE
from eval.statistics.scores import PromptKey, Scores


def make_scores(compliance, coherence=None, condition=BASELINE, tiers=None, categories=None, scored_share=None):
    """Scores of one sample per prompt; NaN is unscored. Refused is compliance 0, full is compliance 1."""
    values = np.asarray(compliance, dtype=float)
    n = values.size
    prompts = tuple(
        PromptKey(f"p{i}", "How?", categories[i] if categories else "", tiers[i] if tiers else None) for i in range(n)
    )
    scored = ~np.isnan(values)
    share = scored.astype(float) if scored_share is None else np.asarray(scored_share, dtype=float)
    return Scores(
        condition,
        "harmful",
        prompts,
        {
            "compliance": values,
            "coherence": np.where(scored, 1.0 if coherence is None else coherence, np.nan),
            "full": np.where(scored, (values == 1).astype(float), np.nan),
            "refused": np.where(scored, (values == 0).astype(float), np.nan),
        },
        scored_share=share,
        n=n,
        n_scored=int(scored.sum()),
    )
