"""What an audit does to the stream: additions, affine and projected vectors, and how new a layer's vector is."""

import pytest
import torch
from made_vectors import D_MODEL, save_vectors

from eval.studies.audit.interventions import SMALL, Interventions
from surgery.console.errors import MismatchError
from surgery.model.models import describe_model
from surgery.organisms.release import asset
from surgery.residual.operator import ablate_affine
from surgery.residual.subspace import Subspace


@pytest.fixture(scope="module")
def info():
    return describe_model(asset("single"))


@pytest.fixture
def made(info, tmp_path):
    return Interventions(info, save_vectors(tmp_path), tmp_path / "modules")


def applied(made, condition_id, resid):
    """A stream [n, d_model] after the intervention of a condition, by the reference operator, and where it acts."""
    plan = made.plan()
    condition = next(each for each in plan.conditions if each.id == condition_id)
    settings = plan.modules[condition.request["ablation"]]
    module = Subspace.load(settings["path"])
    return ablate_affine(resid, module.basis, module.offset, settings["alpha"]), settings["layers"]


def stream():
    return torch.randn(6, D_MODEL, generator=torch.Generator().manual_seed(2))


def test_addition_adds_the_vector_itself_at_its_own_layer(made):
    after, layers = applied(made, made.added(3), stream())
    added = after - stream()
    component = (stream() @ made.vectors.direction(3)).abs().max()
    assert layers == "3"
    # a thousandth of the component along the vector is taken away, and nothing else
    assert (added - made.vectors.vectors[3]).norm(dim=1).max() <= 1.01 * SMALL * component + 1e-4
    assert (added - made.vectors.vectors[4]).norm(dim=1).min() > 1


def test_affine_ablation_moves_the_component_to_that_of_safe_prompts_and_keeps_the_rest(made):
    after, layers = applied(made, made.affine((2,), 2), stream())
    direction = made.vectors.direction(2)
    assert layers == "2"
    torch.testing.assert_close(after @ direction, (made.vectors.mean_safe[2] @ direction).expand(6), atol=1e-4, rtol=0)
    rest = stream() - (stream() @ direction)[:, None] * direction
    torch.testing.assert_close(after - (after @ direction)[:, None] * direction, rest, atol=1e-4, rtol=0)


def test_a_projected_vector_leaves_the_safe_mean_alone_and_a_plain_one_does_not(made):
    mean = made.vectors.mean_safe[2:3]
    after, layers = applied(made, made.projected((2,)), mean)
    assert layers == "all"
    torch.testing.assert_close(after, mean, atol=1e-4, rtol=0)
    plain = made.subspace((2,)).basis
    assert (mean @ plain.T).abs().max() > 0.1


def test_an_affine_ablation_of_several_layers_moves_all_their_components_at_one_layer(made):
    after, layers = applied(made, made.affine((1, 4), 2), stream())
    span = made.subspace((1, 4)).basis
    assert layers == "2" and span.shape == (2, D_MODEL)
    torch.testing.assert_close(after @ span.T, (made.vectors.mean_safe[2] @ span.T).expand(6, 2), atol=1e-4, rtol=0)
    inside = stream() @ span.T @ span
    torch.testing.assert_close(after - after @ span.T @ span, stream() - inside, atol=1e-4, rtol=0)


def test_projected_vectors_of_several_layers_leave_every_layers_safe_mean_alone(made):
    means = made.vectors.mean_safe
    after, layers = applied(made, made.projected((1, 4)), means)
    assert layers == "all"
    torch.testing.assert_close(after, means, atol=1e-4, rtol=0)
    moved, _ = applied(made, made.projected((1, 4)), stream())
    assert (moved - stream()).norm(dim=1).min() > 0.1  # something is removed all the same


def test_a_layer_in_the_span_of_those_chosen_is_not_new(info, tmp_path):
    made = Interventions(info, save_vectors(tmp_path, dependent=True), tmp_path)
    assert made.novelty((1, 2), 3) == pytest.approx(0, abs=1e-5)
    assert made.novelty((1,), 3) > 0.1
    assert made.novelty((), 3) == 1


def test_a_plan_begins_empty_and_may_leave_the_baseline_out(made):
    name = made.plain((1, 4), 1.0)
    assert [condition.id for condition in made.plan(baseline=False).conditions] == [name]
    assert [condition.id for condition in made.plan().conditions] == ["baseline"]


def test_vectors_of_another_depth_are_refused(info, tmp_path):
    with pytest.raises(MismatchError, match="RVs of 5 layers but .* has 8"):
        Interventions(info, save_vectors(tmp_path, n_layers=5), tmp_path)
