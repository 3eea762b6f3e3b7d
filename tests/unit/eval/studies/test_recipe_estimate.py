"""What a recipe says it will take, stage by stage, before anything runs."""

import pytest

from eval.studies.recipes.estimate import GENERATION, estimate, lines
from eval.studies.recipes.recipe import load_recipe
from eval.studies.recipes.stages import Choices, place_of, plan_stages

N_PAIRS, N_PROMPTS = 128, 256  # of an organism, as its folder has them


def estimated(tmp_path, name="organism-single", choices=None, n_layers=8, **changes):
    """(stage -> cost, the whole estimate)."""
    recipe = load_recipe(name).at_depth(n_layers).model_copy(update=changes)
    place, choices = place_of(recipe, tmp_path), choices or Choices()
    found = estimate(recipe, n_layers, place, choices, plan_stages(recipe, place, choices))
    return {cost.stage: cost for cost in found.costs}, found


def test_requests_and_judge_calls_are_conditions_times_prompts_in_their_stages(tmp_path):
    costs, found = estimated(tmp_path)
    assert found.n_prompts == N_PROMPTS
    assert costs["sweep"].n_requests == costs["judge"].n_verdicts == found.n_conditions * N_PROMPTS
    assert [name for name, cost in costs.items() if cost.n_requests] == ["sweep"]
    assert found.total("n_requests") == costs["sweep"].n_requests


def test_a_limit_and_fewer_strengths_cost_less_in_every_stage_that_they_concern(tmp_path):
    whole, _ = estimated(tmp_path)
    less, _ = estimated(tmp_path, limit=10, alphas=(1.0,))
    for stage in ("sweep", "damage", "benchmark"):
        assert less[stage].seconds < whole[stage].seconds
    assert less["extract"].seconds == whole["extract"].seconds  # every pair all the same
    assert [name for name in less if name.startswith("checkpoint")] == ["checkpoint-a1"]


def test_disk_is_a_copy_of_the_weights_for_each_strength(tmp_path):
    costs, found = estimated(tmp_path, "llama-3.2-1b-instruct", n_layers=16)
    copies = [cost.n_bytes for name, cost in costs.items() if name.startswith("checkpoint")]
    assert copies == [pytest.approx(2.48e9, rel=0.01)] * 3
    assert 3 * 2.48e9 < found.total("n_bytes") < 3.1 * 2.48e9


def test_time_grows_with_the_model_and_with_the_longest_response(tmp_path):
    small, _ = estimated(tmp_path, "llama-3.2-1b-instruct", n_layers=16)
    large, _ = estimated(tmp_path, "llama-3.1-8b-instruct", n_layers=32)
    per_request = [costs["sweep"].seconds / costs["sweep"].n_requests for costs in (small, large)]
    assert per_request[0] == pytest.approx(256 * 1.24e9 / GENERATION, rel=0.01)
    assert per_request[1] / per_request[0] == pytest.approx(8.03 / 1.24, rel=0.01)


def test_what_cannot_be_known_is_said_and_makes_the_total_unknown(tmp_path):
    choices = Choices(judge=("--judge-model", "gpt"))
    costs, found = estimated(tmp_path, choices=choices, tasks="local,mmlu")
    assert costs["benchmark"].seconds is None and costs["judge"].seconds is None
    assert found.total("seconds") is None and found.total("n_verdicts") == costs["judge"].n_verdicts
    rows = {line.split()[0]: line for line in lines(found) if line}
    assert rows["benchmark"].rstrip().endswith("?") and rows["judge"].rstrip().endswith("?")
    assert f"{costs['judge'].n_verdicts:,d}" in rows["judge"] and rows["total"].rstrip().endswith("?")
    known = {line.split()[0]: line for line in lines(estimated(tmp_path)[1]) if line}
    assert not known["total"].rstrip().endswith("?") and "min" in known["total"]


def test_stages_left_out_cost_nothing(tmp_path):
    choices = Choices(skip=frozenset({"checkpoints", "damage", "benchmark"}))
    costs, found = estimated(tmp_path, choices=choices)
    assert set(costs) == {"model", "extract", "separability", "subspace", "sweep", "judge", "report"}
    assert found.n_conditions == estimated(tmp_path)[1].n_conditions - 3
