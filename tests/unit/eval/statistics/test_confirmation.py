"""The best layer chosen on half of the prompts and confirmed on the other: no winner's curse."""

import math
from collections import Counter

import numpy as np
import pytest
from made_scores import make_scores

from eval.statistics.confirmation import confirm_best, split_in_halves

SCORES = np.array([0.0, 0.5, 1.0])


def _layers(rng, truths, n=100):
    """One condition per true mean, of independent scores."""
    return [make_scores(rng.choice(SCORES, n, p=[1 - mean, 0.0, mean])) for mean in truths]


def test_halves_share_out_every_stratum_and_the_whole_to_within_one_prompt():
    categories, tiers = list("aaaaabbbbccd" * 3), [1, 2, 1] * 12
    prompts = make_scores([0.0] * 36, tiers=tiers, categories=categories).prompts
    halves = split_in_halves(prompts, 50)
    sizes = Counter(zip(categories, tiers, strict=True))
    for half in halves:
        taken = Counter((p.category, p.tier) for p, chosen in zip(prompts, half, strict=True) if chosen)
        assert all(abs(2 * taken[key] - size) <= 1 for key, size in sizes.items())
        assert half.sum() == 18
    assert len({half.tobytes() for half in halves}) == 50


def test_halves_are_seeded_and_every_prompt_is_chosen_half_of_the_time():
    prompts = make_scores([0.0] * 21, categories=list("abc" * 7)).prompts
    assert np.array_equal(split_in_halves(prompts, 5, seed=3), split_in_halves(prompts, 5, seed=3))
    assert not np.array_equal(split_in_halves(prompts, 5, seed=3), split_in_halves(prompts, 5, seed=4))
    shares = split_in_halves(prompts, 4_000).mean(axis=0)
    assert np.abs(shares - 0.5).max() < 0.04  # 5 standard errors of 4,000 fair draws


def test_a_layer_that_stands_out_is_chosen_and_confirmed():
    rng = np.random.default_rng(0)
    found = confirm_best(_layers(rng, [0.05, 0.6, 0.05, 0.05]), make_scores(np.zeros(100)))
    assert found.index == 1 and found.shares[1] == 1.0
    assert found.confirmed.low <= 0.6 <= found.confirmed.high and found.confirmed.n == 50
    assert found.change.low > 0.3 and found.p < 0.001
    assert found.optimism == pytest.approx(found.chosen_at - found.confirmed.estimate)


def test_equal_layers_look_better_than_they_are_only_on_the_choosing_half():
    rng, naive, confirmed, optimism, covered = np.random.default_rng(1), [], [], [], []
    for _ in range(150):
        layers = _layers(rng, [0.2] * 16, n=60)
        found = confirm_best(layers, n_splits=40)
        naive.append(max(layer.compliance.mean() for layer in layers))
        confirmed.append(found.mean_confirmed)
        optimism.append(found.mean_optimism)
        covered.append(found.confirmed.low <= 0.2 <= found.confirmed.high)
    # standard error of the mean of 150 confirmed means of 30 prompts, averaged over splits: below 0.006
    assert np.mean(confirmed) == pytest.approx(0.2, abs=0.02)
    assert np.mean(naive) > 0.27 and np.mean(optimism) > 0.08  # the negative control: the plain maximum is far off
    assert np.mean(covered) >= 0.90  # 95 % less 2.8 standard errors of 150 runs


def test_the_confirming_half_takes_no_part_in_the_choice():
    rng = np.random.default_rng(2)
    layers = _layers(rng, [0.3, 0.3, 0.3])
    (half,) = split_in_halves(layers[0].prompts, 1)
    first = confirm_best(layers, n_splits=1)
    layers[(first.index + 1) % 3].compliance[~half] = 1.0  # another layer, perfect where nobody chooses
    assert confirm_best(layers, n_splits=1).index == first.index
    layers[(first.index + 1) % 3].compliance[half] = 1.0
    assert confirm_best(layers, n_splits=1).index != first.index


def test_ties_go_to_coherence_and_then_to_the_first():
    dull, fluent = make_scores([0.5] * 20, coherence=0.5), make_scores([0.5] * 20)
    assert confirm_best([dull, fluent, fluent]).index == 1
    assert confirm_best([fluent, fluent, dull]).index == 0


def test_there_is_nothing_to_confirm_without_a_choice_or_without_scores():
    one = make_scores([1.0] * 8)
    assert confirm_best([one]) is None and confirm_best([]) is None
    assert confirm_best([one, make_scores([0.0] * 8)], n_splits=5).p is None
    empty = make_scores([math.nan] * 8)
    assert confirm_best([empty, empty]) is None
    assert confirm_best([empty, one], n_splits=5).index == 1


def test_all_equal_scores_have_no_optimism():
    found = confirm_best([make_scores([1.0] * 20)] * 3, make_scores([0.0] * 20), n_splits=20)
    assert found.optimism == found.mean_optimism == 0.0 and found.confirmed.method == "exact"
