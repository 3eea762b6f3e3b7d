"""The audit's choices without an engine: halves of the prompts, greedy search, the number of responses."""

import pytest

from eval.statistics.intervals import constant_mean
from eval.studies.audit.design import LEAST_PROMPTS, AuditError, AuditSize, split_in_halves
from eval.studies.audit.greedy import forward_selection, headline_step
from surgery.prompts import Prompt


def no_novelty(chosen, layer):
    return 0.0


def make_prompts(n):
    tiers = [(1, "fraud"), (2, "theft"), (2, "intrusion")]
    return [Prompt(f"p{i}", f"How {i}?", tiers[i % 3][1], tiers[i % 3][0]) for i in range(n)]


class FakeScorer:
    """Compliance of a set of layers, by a function, and which sets were asked for."""

    def __init__(self, compliance):
        self.compliance, self.steps = compliance, []

    def __call__(self, sets):
        self.steps.append(list(sets))
        return [self.compliance(set(layers)) for layers in sets]


def test_halves_share_no_prompt_and_hold_all_of_them_in_their_order():
    prompts = make_prompts(31)
    first, second = split_in_halves(prompts, 0)
    assert sorted([*first, *second], key=prompts.index) == prompts
    assert not set(first) & set(second)
    assert first == sorted(first, key=prompts.index)
    assert abs(len(first) - len(second)) <= 1


def test_halves_hold_every_category_alike_and_depend_on_the_seed_alone():
    prompts = make_prompts(30)
    halves = split_in_halves(prompts, 3)
    for category in ("fraud", "theft", "intrusion"):
        counts = [sum(prompt.category == category for prompt in half) for half in halves]
        assert abs(counts[0] - counts[1]) <= 1
    assert split_in_halves(prompts, 3) == halves
    assert split_in_halves(prompts, 4) != halves


def test_too_few_prompts_are_refused():
    with pytest.raises(AuditError, match="at least 12 harmful prompts, found 11"):
        split_in_halves(make_prompts(11), 0)
    half = LEAST_PROMPTS // 2
    assert constant_mean(0.0, half).high < constant_mean(1.0, half).low
    assert constant_mean(0.0, half - 1).high > constant_mean(1.0, half - 1).low


def test_the_path_to_a_known_optimum_is_found_and_ends_there():
    needed = {1, 3, 4}
    scorer = FakeScorer(lambda layers: len(layers & needed) / 3)
    steps = forward_selection(range(6), scorer, no_novelty, 6)
    assert [step.score for step in steps] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert steps[-1].layers == (1, 3, 4)
    assert len(scorer.steps) == 3  # nothing is tried once compliance is enough
    assert headline_step(steps) is steps[-1]


def test_every_remaining_layer_is_tried_at_each_step_and_none_twice():
    scorer = FakeScorer(lambda layers: len(layers) / 10)
    steps = forward_selection([0, 2, 5], scorer, no_novelty, 3)
    assert [len(sets) for sets in scorer.steps] == [3, 2, 1]
    assert steps[0].tried == {0: 0.1, 2: 0.1, 5: 0.1}
    assert steps[2].layers == (0, 2, 5)


def test_where_the_first_choice_is_wrong_the_rank_is_an_upper_bound():
    def compliance(layers):
        return 1.0 if layers >= {1, 2} else 0.4 if 0 in layers else 0.1

    steps = forward_selection(range(4), FakeScorer(compliance), no_novelty, 4)
    assert steps[0].layers == (0,)  # best alone, and no part of the best pair
    assert headline_step(steps).layers == (0, 1, 2)  # one more than {1, 2} needs
    assert headline_step(steps).score == 1.0


def test_a_search_that_has_gained_and_stops_gaining_ends_after_two_steps():
    scorer = FakeScorer(lambda layers: 0.6 if 2 in layers else 0.1)
    steps = forward_selection(range(8), scorer, no_novelty, 8)
    assert [step.score for step in steps] == [0.6, 0.6, 0.6]
    assert headline_step(steps).layers == (2,)


def test_a_search_that_has_gained_nothing_goes_on_to_the_largest_rank():
    scorer = FakeScorer(lambda layers: 1.0 if len(layers) >= 5 else 0.0)
    assert forward_selection(range(8), scorer, no_novelty, 8)[-1].score == 1.0
    assert len(forward_selection(range(8), FakeScorer(lambda layers: 0.0), no_novelty, 6)) == 6


def test_gains_up_to_the_compliance_without_ablation_are_none():
    scorer = FakeScorer(lambda layers: 0.2)
    assert len(forward_selection(range(8), scorer, no_novelty, 6, floor=0.2)) == 6
    assert len(forward_selection(range(8), scorer, no_novelty, 6, floor=0.1)) == 3


def test_of_equal_scores_the_vector_furthest_outside_the_span_is_added():
    steps = forward_selection(range(4), FakeScorer(lambda layers: 0.0), lambda chosen, layer: -abs(layer - 2), 2)
    assert [step.added for step in steps] == [2, 1]
    better = FakeScorer(lambda layers: 0.1 if 3 in layers else 0.0)
    assert forward_selection(range(4), better, lambda chosen, layer: -layer, 1)[0].added == 3  # scores come first


def test_a_search_needs_candidates():
    with pytest.raises(ValueError, match="expected candidates"):
        forward_selection([], FakeScorer(lambda layers: 0.0), no_novelty, 3)


def test_the_last_fifth_of_the_layers_is_tried_and_never_chosen():
    size = AuditSize(8, 16, (1.0,), 10, 10, 5)
    assert size.candidates == (0, 1, 2, 3, 4, 5, 6)
    assert size.largest == 7
    assert AuditSize(40, 16, (1.0,), 10, 10, 5).largest == 16


def test_the_most_responses_are_those_of_a_search_that_never_ends_early():
    size = AuditSize(n_layers=8, max_rank=3, alphas=(0.5, 1.0), n_selection=10, n_measured=9, n_safe=5)
    tried = FakeScorer(lambda layers: 0.0)
    forward_selection(size.candidates, tried, no_novelty, size.max_rank)
    later = sum(len(sets) for sets in tried.steps[1:])
    other_forms = 2 * sum(1 for _ in tried.steps[1:])
    assert size.n_selecting == (1 + 3 * 8 + later + other_forms) * 10
    assert size.n_responses == size.n_selecting + size.n_measuring + size.n_on_safe
    assert f"at most {size.n_responses} responses" in str(size)
