"""What a benchmark keeps, scores again and holds in memory: the real harness and transformers on a model organism."""

import gc
import json
import shutil
import weakref
from dataclasses import replace

import pytest

from eval.cost.benchmark import hf_backend
from eval.cost.benchmark.benchmark import Benchmark
from eval.cost.benchmark.compared import named_edits
from eval.cost.benchmark.hf_backend import TransformersBackend, TransformersModel
from eval.cost.benchmark.settings import Settings
from eval.cost.benchmark.tasks import parse_tasks
from eval.plan.conditions import Condition
from surgery.model.models import describe_model
from surgery.organisms.release import asset
from surgery.residual.subspace import random_subspace

BOTH = parse_tasks("facts,short-answers")
FACTS = BOTH[:1]


@pytest.fixture(scope="module")
def info():
    return describe_model(asset("single"))


@pytest.fixture(scope="module")
def plan(info, tmp_path_factory):
    """The baseline, an edited copy, and two ablations."""
    folder = tmp_path_factory.mktemp("variants")
    random_subspace(info.d_model, 2, seed=0).save(folder / "a.safetensors")
    settings = {"path": str(folder / "a.safetensors"), "allow_other_model": True}
    found = named_edits(info, (), (), {"half": settings | {"alpha": 0.5}, "whole": settings})
    weights = shutil.copytree(info.path, folder / "copy")
    copy = Condition("copy", "checkpoint", "copy", source="of a copy", folder=weights)
    return replace(found, conditions=(found.conditions[0], copy, *found.conditions[1:]))


@pytest.fixture
def variants(plan):
    return plan.conditions


@pytest.fixture
def score(info, plan, tmp_path):
    """score(tasks) scores the baseline; returns the lines of progress."""

    def run(tasks=FACTS, force=False, limit=2, chosen=plan.conditions[:1], tell=None):
        told = []
        backend = TransformersBackend(info, plan, "float32")
        study = Benchmark(tmp_path / "bench", info, chosen, Settings(limit), backend, with_damage=False)
        study.run(tasks, tell or told.append, force=force)
        return told

    return run


@pytest.fixture
def record(tmp_path):
    """record(): what benchmark.json holds."""
    return lambda: json.loads((tmp_path / "bench" / "benchmark.json").read_text())


def test_scoring_a_task_anew_keeps_the_others(score, record):
    score(BOTH)
    before = record()["done"]
    assert score(FACTS) == [] and score(FACTS, force=True) == ["baseline: facts"]
    assert record()["done"] == before and set(before) == {"baseline.facts", "baseline.short-answers"}
    assert score(BOTH) == []


def test_scoring_anew_that_is_interrupted_loses_nothing(score, record):
    score(BOTH)
    before = record()

    def interrupt(line):
        if "short-answers" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(BOTH, force=True, tell=interrupt)
    assert record() == before and score(BOTH) == []


def test_documents_of_another_call_are_not_taken_for_those_that_were_recorded(score, record, tmp_path):
    score(limit=2)
    kept = (tmp_path / "bench" / "benchmark.json").read_bytes()
    score(limit=3)
    (tmp_path / "bench" / "benchmark.json").write_bytes(kept)  # as where a kill came between the two files
    assert score(limit=2) == ["baseline: facts"] and score(limit=2) == []


@pytest.fixture
def loads(monkeypatch):
    """Every load of weights: (folder, how many models are alive then, this one included)."""
    found, alive = [], weakref.WeakSet()

    class Watched(TransformersModel):
        def __init__(self, pretrained, **options):
            gc.collect()
            found.append((pretrained, len(alive) + 1))
            super().__init__(pretrained=pretrained, **options)
            alive.add(self.model)

    monkeypatch.setattr(hf_backend, "TransformersModel", Watched)
    return found


def test_variants_of_the_same_weights_share_one_load_and_two_models_are_never_held(score, variants, info, loads):
    told = score(chosen=variants)
    assert [line.split(":")[0] for line in told] == ["baseline", "half", "whole", "copy"]
    assert loads == [(str(info.path), 1), (str(variants[1].folder), 1)]


def test_an_ablation_leaves_the_shared_weights_as_they_were(info, plan, variants):
    backend, texts = TransformersBackend(info, plan, "float32"), {"t": list(range(1, 9))}

    def logprobs(variant):
        with backend.loaded(variant) as model:
            return dict(model.text_logprobs(texts))["t"].tolist()

    plain, half, whole, again = (logprobs(variants[index]) for index in (0, 2, 3, 0))
    assert again == plain and len({tuple(found) for found in (plain, half, whole)}) == 3
