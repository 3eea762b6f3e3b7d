"""The benchmarks of an audit: of which ablations, at which strength, and how many documents."""

from dataclasses import replace

import pytest
from made_vectors import save_vectors

from eval.cost.benchmark.compared import identified, module_of
from eval.cost.benchmark.tasks import Task, parse_tasks
from eval.plan.conditions import Condition
from eval.studies.audit.capability import Capability
from eval.studies.audit.interventions import Interventions
from surgery.model.models import describe_model
from surgery.organisms.release import asset
from vllm_refusal.settings.module_files import load_module

INFO = describe_model(asset("single"))


@pytest.fixture
def made(tmp_path):
    return Interventions(INFO, save_vectors(tmp_path), tmp_path / "modules")


def test_a_benchmark_ablates_what_the_engine_is_asked_to_ablate(made):
    made.plain((4,), 0.5)
    made.plain((1, 5), 1.5)
    made.affine((1, 5), 3)
    plan = made.plan()
    asked = {condition.id: condition for condition in plan.conditions[1:]}
    modules = {name: module_of(condition, plan, INFO) for name, condition in asked.items()}
    assert [module.alpha for module in modules.values()] == [0.5, 1.5, 1.0]
    assert [module.rank for module in modules.values()] == [1, 2, 2]
    assert [list(module.layers) for module in modules.values()] == [list(range(8)), list(range(8)), [3]]
    for name, condition in asked.items():  # the basis is the one that the same condition has in the engine
        whole = load_module("x", plan.modules[condition.request["ablation"]], INFO)
        assert (modules[name].sha256, modules[name].site) == (whole.sha256, condition.site)


@pytest.mark.parametrize(
    ("tasks", "limit", "shown"),
    [
        (parse_tasks("facts"), None, "facts (60 documents)"),
        (parse_tasks("facts,short-answers"), 10, "facts (10 documents), short-answers (10 documents)"),
        ([Task("mmlu", "mmlu")], None, "mmlu (all documents)"),
        ([Task("mmlu", "mmlu")], 20, "mmlu (at most 20 documents a task)"),
        ([], None, "none"),
    ],
)
def test_what_will_be_asked_is_said(tasks, limit, shown):
    assert str(Capability(tasks, limit)).endswith(f": {shown}")


def test_without_tasks_no_engine_is_needed(made):
    assert Capability().measure(None, made.plan(), print) == []


def test_conditions_are_known_by_what_they_ablate_and_one_that_cannot_be_is_never_left_out(made):
    for layers, alpha in (((4,), 0.5), ((4,), 1.0), ((1, 5), 1.0)):
        made.plain(layers, alpha)
    plan = identified(made.plan(), INFO)
    assert plan.conditions[0].source == INFO.fingerprint
    assert len({condition.source for condition in plan.conditions}) == 4
    edited = Condition(id="checkpoint:x", kind="checkpoint", label="x")
    with pytest.raises(KeyError):
        identified(replace(plan, conditions=(*plan.conditions, edited)), INFO)
