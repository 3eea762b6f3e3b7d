"""The engine that an audit keeps over its greedy steps: one start for several runs, none left behind."""

import pytest
from made_vectors import save_vectors

from eval.studies.audit import kept_engine
from eval.studies.audit.kept_engine import KeptEngine
from surgery.model.models import describe_model
from surgery.organisms.release import asset
from vllm_refusal.engine.engine import EngineOptions


@pytest.fixture
def engines(monkeypatch):
    """All engines that were started."""
    started = []

    class Recorder:
        def __init__(self, info, modules, options, room):
            self.modules, self.room, self.n_closed = [modules], room, 0
            started.append(self)

        def replace_modules(self, modules):
            self.modules.append(modules)

        def close(self):
            self.n_closed += 1

    monkeypatch.setattr(kept_engine, "Engine", Recorder)
    return started


@pytest.fixture
def run(tmp_path):
    """run(kept, layers, ...): one run under the spans of these layers' vectors; returns the modules asked for."""
    rvs = str(save_vectors(tmp_path))

    def start(kept, *layers, fault=None):
        modules = {spec: {"path": rvs, "source_layers": spec} for spec in layers}
        with kept.start(describe_model(asset("single")), modules, EngineOptions()):
            if fault:
                raise fault
        return modules

    return start


def test_runs_share_an_engine_while_their_ranks_have_room_in_it(engines, run):
    with KeptEngine(6, 9) as kept:
        asked = [run(kept, "0-1", "0,2"), run(kept, "0-2"), run(kept, "0-3", "1-4"), run(kept, "0-4")]
        assert [engine.modules for engine in engines] == [asked[:3], asked[3:]]  # room for rank 4 first
        assert [engine.room["max_rank"] for engine in engines] == [4, 6]
        assert [engine.n_closed for engine in engines] == [1, 0]  # never two at a time
        assert all(engine.room["max_modules"] == 9 for engine in engines)
    assert [engine.n_closed for engine in engines] == [1, 1]


def test_an_engine_that_a_run_left_with_its_requests_is_not_used_again(engines, run):
    with KeptEngine(4, 9) as kept:
        with pytest.raises(KeyboardInterrupt):
            run(kept, "0-1", fault=KeyboardInterrupt())
        run(kept, "0-1")
    assert [engine.n_closed for engine in engines] == [1, 1]


def test_no_engine_starts_where_nothing_is_missing(engines):
    with KeptEngine(4, 9):
        pass
    assert engines == []
