"""Benchmarks of an audit in the real engine: documents are scored under what each condition ablates, as by hooks."""

import numpy as np
import pytest

from eval.cost.benchmark.benchmark import Benchmark
from eval.cost.benchmark.compared import identified
from eval.cost.benchmark.documents import read_documents
from eval.cost.benchmark.hf_backend import TransformersBackend
from eval.cost.benchmark.settings import Settings
from eval.cost.benchmark.tasks import parse_tasks
from eval.judge.rules.heuristic import HeuristicJudge
from eval.studies.audit.bench import Bench
from eval.studies.audit.capability import Capability
from eval.studies.audit.interventions import Interventions
from surgery.model.models import describe_model
from vllm_refusal.engine.engine import EngineOptions, Sampling

pytestmark = pytest.mark.engine

N = 12


def log_likelihoods(folder, variant):
    """[n_documents x n_choices] nats."""
    documents = read_documents(folder / "documents" / f"{variant}.organism-answers.jsonl")
    return np.concatenate([np.asarray(each.detail, float) for each in documents])


def test_documents_are_scored_under_each_conditions_own_ablation_as_by_hooks(rvs, tmp_path):
    info = describe_model(str(rvs.parent / "model"))
    made = Interventions(info, rvs, tmp_path / "modules")
    for layers, alpha in (((2,), 0.5), ((2,), 1.0), ((1, 2, 4), 1.0)):
        made.plain(layers, alpha)
    made.affine((1, 2), 3)
    made.projected((2, 3))
    plan = made.plan()
    bench = Bench(tmp_path, info, rvs, Sampling(8), EngineOptions("float32", True), HeuristicJudge)
    tasks = parse_tasks("organism-answers", is_organism=True)
    outcomes = Capability(tasks, N).measure(bench, plan, lambda line: None)
    names = [condition.id for condition in plan.conditions]
    assert [each.variant for each in outcomes] == names and all(each.score.n == N for each in outcomes)

    plan = identified(plan, info)
    backend = TransformersBackend(info, plan, "float32")
    Benchmark(tmp_path / "hooks", info, plan.conditions, Settings(N, dtype="float32"), backend).run(
        tasks, lambda line: None
    )
    found, hooks = ({name: log_likelihoods(tmp_path / of, name) for name in names} for of in ("capability", "hooks"))
    for name in names:
        assert np.abs(found[name] - hooks[name]).max() < 1e-3, name
        others = [found[other] for other in names if other != name]
        assert all(np.abs(found[name] - other).max() > 0.05 for other in others), name  # no two are one ablation
