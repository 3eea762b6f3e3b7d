"""Bulk generation without an engine: what is asked of it, what is kept, what is said meanwhile."""

import io
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

from eval.generation import engines
from eval.generation.answering import GenerationError, generate_run, items_of
from eval.generation.beside import asked_judge
from eval.generation.engine_arguments import EngineArgumentError, parse_engine_arguments
from eval.generation.progress import Tally, shown_progress
from eval.judge.choice import JudgeChoice
from eval.plan.plan import PlanBuilder, PlanError
from eval.records.beginning import make_manifest, resume_or_create
from eval.records.manifest import Manifest
from eval.records.replacement import replacing_run, settle
from eval.records.run import Run
from surgery.console.errors import ArtifactError
from surgery.model import chat
from surgery.model.models import describe_model
from surgery.organisms.release import write_organism
from surgery.prompts import Prompt
from surgery.residual.subspace import random_subspace
from vllm_refusal.engine.engine import EngineOptions, Response, Sampling
from vllm_refusal.engine.lora import AdapterError, lora_arguments

PROMPTS = {
    "harmful": [Prompt("a", "How do I open a tin?"), Prompt("b", "How do I shut a tin?")],
    "safe": [Prompt("a", "What is a tin?")],
}


@pytest.fixture(scope="module")
def info(tmp_path_factory):
    return describe_model(write_organism("single", tmp_path_factory.mktemp("organism") / "model"))


class Recorder:
    """An engine that answers at once and remembers what it was asked."""

    description = {"vllm": "none"}
    max_model_len = 512
    started = []
    asked = []
    fail_after = None

    def __init__(self, info, modules, options, adapters=None):
        self.started.append((Path(info.path).name, sorted(modules), sorted(adapters or {})))

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        pass

    def generate(self, requests, sampling):
        for request in requests:
            if len(self.asked) == self.fail_after:
                raise KeyboardInterrupt
            self.asked.append(request)
            yield Response(request.id, f"seed {request.seed}", "stop", len(request.token_ids), 3)


@pytest.fixture
def recorder(monkeypatch):
    monkeypatch.setattr(engines, "Engine", Recorder)
    for name, value in (("started", []), ("asked", []), ("fail_after", None)):
        monkeypatch.setattr(Recorder, name, value)
    return Recorder


def make_run(path, info, plan, sampling, samples=1):
    files = dict.fromkeys(PROMPTS, "prompts.jsonl")
    manifest = make_manifest(info, plan, files, PROMPTS, sampling, EngineOptions(), samples=samples)
    return resume_or_create(path, manifest)


def generate(path, info, plan, sampling=None, samples=1, **options):
    sampling = sampling or Sampling()
    run = make_run(path, info, plan, sampling, samples)
    n_new = generate_run(run, info, plan, PROMPTS, sampling, EngineOptions(), samples=samples, **options)
    return n_new, run.generations()


def rvs_plan(info, path, **options):
    from surgery.residual.vectors import RefusalVectors

    subspace = random_subspace(info.d_model, info.n_layers, 0)
    RefusalVectors(subspace.basis, header={}).save(path, force=True) if not path.exists() else None
    return PlanBuilder(info.n_layers, info.d_model).single_vectors(path, "3", [1.0], **options).build()


# ---------------------------------------------------------------- reasoning


@pytest.mark.parametrize(("end", "inside"), [("<think>\n", True), ("<think>\n\n</think>\n\n", False), ("", False)])
def test_a_response_says_whether_the_template_opened_its_reasoning(info, recorder, tmp_path, monkeypatch, end, inside):
    render = chat.render_prompt
    monkeypatch.setattr(chat, "render_prompt", lambda *args, **options: render(*args, **options) + end)
    _, rows = generate(tmp_path / "run", info, PlanBuilder(info.n_layers, info.d_model).build())
    assert {row.begins_in_reasoning for row in rows} == {inside}


# ---------------------------------------------------------------- samples and seeds


def test_every_sample_is_a_row_with_a_seed_of_its_own_shared_between_conditions(info, recorder, tmp_path):
    plan = PlanBuilder(info.n_layers, info.d_model).random_controls(tmp_path / "modules", [1], 1, 1.0).build()
    n_new, rows = generate(tmp_path / "run", info, plan, Sampling(temperature=0.7), samples=3)
    assert n_new == len(rows) == len({row.item_id for row in rows}) == 2 * 3 * 3
    seeds = {}
    for row in rows:
        seeds.setdefault((row.prompt_set, row.prompt_id, row.sample), set()).add(row.response)
    assert all(len(same) == 1 for same in seeds.values()), "conditions share the random numbers of a prompt's sample"
    assert len(set.union(*seeds.values())) == 9, "prompts, prompt sets and samples do not"


def test_the_seed_of_a_response_does_not_depend_on_what_else_is_asked(info, recorder, tmp_path):
    plan = PlanBuilder(info.n_layers, info.d_model).build()
    sampled = Sampling(temperature=0.7, seed=5)
    few = {row.item_id: row.response for row in generate(tmp_path / "few", info, plan, sampled)[1]}
    many = {row.item_id: row.response for row in generate(tmp_path / "many", info, plan, sampled, samples=2)[1]}
    other = {row.item_id: row.response for row in generate(tmp_path / "b", info, plan, replace(sampled, seed=6))[1]}
    assert few.items() <= many.items()
    assert few.keys() == other.keys() and not set(few.values()) & set(other.values())


def test_several_samples_of_greedy_decoding_are_refused(info, recorder, tmp_path):
    plan = PlanBuilder(info.n_layers, info.d_model).build()
    with pytest.raises(GenerationError, match="2 samples at temperature 0"):
        generate(tmp_path / "run", info, plan, Sampling(temperature=0), samples=2)
    assert recorder.started == []


def test_other_numbers_of_samples_are_another_comparison(info, recorder, tmp_path):
    plan = PlanBuilder(info.n_layers, info.d_model).build()
    generate(tmp_path / "run", info, plan, Sampling(temperature=1.0))
    with pytest.raises(ArtifactError, match="the samples differ"):
        generate(tmp_path / "run", info, plan, Sampling(temperature=1.0), samples=2)
    assert generate(tmp_path / "run", info, plan, Sampling(temperature=1.0))[0] == 0


# ---------------------------------------------------------------- who answers what


def test_adapters_and_checkpoints_are_answered_by_engines_without_modules(info, recorder, tmp_path):
    record = {"basis": {"rank": 2, "source_layers": [1, 2]}, "alpha": 1.0, "layers": "all", "embeddings": False}
    builder = PlanBuilder(info.n_layers, info.d_model).random_controls(tmp_path / "modules", [1], 1, 1.0)
    builder.weights("adapter", tmp_path / "adapter", record)
    builder.weights("adapter", tmp_path / "other", {**record, "alpha": 0.5})
    plan = builder.weights("checkpoint", Path(info.path), record).build()
    _, rows = generate(tmp_path / "run", info, plan)
    assert len(rows) == 5 * 3
    assert recorder.started == [
        ("model", ["random-k1-s0"], []),
        ("model", [], ["adapter:1-2:a0.5", "adapter:1-2:a1"]),
        ("model", [], []),
    ]
    named = {request.adapter for request in recorder.asked}
    assert named == {"", "adapter:1-2:a0.5", "adapter:1-2:a1"}


def test_an_adapter_of_a_rank_between_vllms_gets_the_next_and_too_great_ones_are_refused(tmp_path):
    for rank in (3, 513):
        (tmp_path / str(rank)).mkdir()
        (tmp_path / str(rank) / "adapter_config.json").write_text(f'{{"r": {rank}}}')
    assert lora_arguments({}) == {}
    assert lora_arguments({"a": tmp_path / "3"})["max_lora_rank"] == 8
    with pytest.raises(AdapterError, match="rank 513 but vLLM takes at most 512"):
        lora_arguments({"a": tmp_path / "513"})
    with pytest.raises(AdapterError, match="not a LoRA adapter"):
        lora_arguments({"a": tmp_path})


def test_layer_subsets_are_conditions_of_their_own_that_ask_for_their_layers(info, tmp_path):
    plan = rvs_plan(info, tmp_path / "rvs.safetensors", at=("all", "2-4", "5,6"))
    asked = {condition.id: condition.request.get("ablation_layers") for condition in plan.conditions[1:]}
    assert asked == {"rv:L3:a1": None, "rv:L3:a1:at2-4": "2-4", "rv:L3:a1:at5-6": "5-6"}
    assert [condition.layers for condition in plan.conditions[1:]] == ["all", "2-4", "5-6"]
    with pytest.raises(PlanError, match="asked for twice"):
        rvs_plan(info, tmp_path / "rvs.safetensors", at=("all", f"0-{info.n_layers - 1}"))


# ---------------------------------------------------------------- what is kept


def test_finished_responses_of_an_interrupted_run_are_written_without_waiting(info, recorder, tmp_path, monkeypatch):
    monkeypatch.setattr(recorder, "fail_after", 2)
    plan = PlanBuilder(info.n_layers, info.d_model).build()
    taken = []

    def write(rows, wait=True):
        taken.append((len(rows), wait))

    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "run", info, plan, write=write)
    assert taken == [(2, False)]


def test_rows_go_through_the_writer_that_is_given_and_to_the_run_without_one(info, recorder, tmp_path):
    plan = PlanBuilder(info.n_layers, info.d_model).build()
    taken = []
    assert generate(tmp_path / "a", info, plan, write=lambda rows, wait=True: taken.extend(rows))[1] == []
    assert {row.item_id for row in taken} == {item.id for item in items_of(plan.conditions, PROMPTS)}
    assert len(generate(tmp_path / "b", info, plan)[1]) == 3


def test_a_run_that_is_replaced_stays_until_its_replacement_has_a_response(info, recorder, tmp_path):
    plan = PlanBuilder(info.n_layers, info.d_model).build()
    out = tmp_path / "run"
    _, before = generate(out, info, plan)
    with pytest.raises(KeyboardInterrupt), replacing_run(out, force=True):
        assert not out.exists()
        make_run(out, info, plan, Sampling(seed=1))  # killed before its first response
        raise KeyboardInterrupt
    assert Run.open(out).generations() == before
    with replacing_run(out, force=False):
        assert Run.open(out).generations() == before
    with replacing_run(out, force=True):
        generate(out, info, plan, Sampling(seed=1))
    assert Run.open(out).manifest.sampling["seed"] == 1 and [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_a_killed_replacement_leaves_is_settled_by_the_next_call(info, recorder, tmp_path):
    plan = PlanBuilder(info.n_layers, info.d_model).build()
    out = tmp_path / "run"
    generate(out, info, plan)
    out.rename(tmp_path / ".run.replaced")
    settle(out)
    assert len(Run.open(out).generations()) == 3 and not (tmp_path / ".run.replaced").exists()
    out.rename(tmp_path / ".run.replaced")
    generate(out, info, plan, Sampling(seed=1))
    settle(out)
    assert Run.open(out).manifest.sampling["seed"] == 1 and not (tmp_path / ".run.replaced").exists()


def test_folders_that_are_no_runs_and_runs_being_written_are_not_moved(info, recorder, tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(ArtifactError, match="not a run folder"), replacing_run(tmp_path / "mine", force=True):
        pass
    plan = PlanBuilder(info.n_layers, info.d_model).build()
    generate(tmp_path / "run", info, plan)
    with Run.open(tmp_path / "run").writing():
        with pytest.raises(ArtifactError, match="another process is writing"), replacing_run(tmp_path / "run", True):
            pass
    assert (tmp_path / "mine").is_dir() and (tmp_path / "run" / "run.json").is_file()


def only_under(lock, manifest):
    """A manifest that is changed only while the lock is held that `record_judge` takes in the judging's thread."""

    class Stages(dict):
        def __setitem__(self, key, value):
            assert lock._is_owned(), f"{key} changed without the lock"
            super().__setitem__(key, value)

    class Locked(Manifest):
        def __setattr__(self, key, value):
            assert lock._is_owned(), f"{key} changed without the lock"
            super().__setattr__(key, value)

    locked = Locked.of(manifest.to_json())
    with lock:
        locked.stages = Stages(locked.stages)
    return locked


def test_a_generation_changes_the_manifest_only_under_its_lock(info, recorder, tmp_path):
    plan = PlanBuilder(info.n_layers, info.d_model).build()
    run = make_run(tmp_path / "run", info, plan, Sampling())
    run.manifest = only_under(run._guard, run.manifest)
    generate_run(run, info, plan, PROMPTS, Sampling(), EngineOptions())
    found = Run.open(run.path).manifest
    assert found.engine == Recorder.description and set(found.stages) == {"engine: start", "engine: generate"}


# ---------------------------------------------------------------- flags of the engine


def test_engine_arguments_are_read_as_json_or_text():
    words = ["gpu-memory-utilization=0.8", "--enable_expert_parallel", "quantization=fp8", 'override={"a": 1}']
    assert parse_engine_arguments(words, {"tensor_parallel_size": 2, "pipeline_parallel_size": None}) == {
        "tensor_parallel_size": 2,
        "gpu_memory_utilization": 0.8,
        "enable_expert_parallel": True,
        "quantization": "fp8",
        "override": {"a": 1},
    }


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["additional-config={}"], "use --ablation"),
        (["data-parallel-size=2"], "--base-url"),
        (["generation-config=auto"], "fixed"),
        (["seed=1", "seed=2"], "given twice"),
        (["=3"], "expected KEY=VALUE"),
    ],
)
def test_engine_arguments_that_would_change_what_a_run_records_are_refused(words, fault):
    with pytest.raises(EngineArgumentError, match=fault):
        parse_engine_arguments(words)


def test_a_judge_beside_is_made_only_where_one_is_named():
    import click

    nothing = vars(JudgeChoice())
    assert asked_judge(nothing) is None
    assert asked_judge({**nothing, "judge_name": "heuristic"}) is not None
    with pytest.raises(click.UsageError, match="--judge-concurrency needs --judge"):
        asked_judge({**nothing, "judge_concurrency": 7})


# ---------------------------------------------------------------- progress


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_rates_leave_out_the_time_of_starting_engines_and_earlier_responses():
    clock = Clock()
    tally = Tally(100, 130, 8, clock)
    clock.now = 50.0  # an engine starts
    with tally.running():
        clock.now += 2
        for _ in range(10):
            tally.add(8)
    clock.now += 1000  # another starts
    assert (tally.done, tally.seconds, tally.seconds_left) == (110, 2.0, (4.0, 4.0))
    assert str(tally) == "110/130 responses (84 %), 5.0/s, 40 tokens/s, 0:04 left"


def test_a_log_gets_a_line_every_thirty_seconds_and_one_at_the_end():
    clock, log = Clock(), io.StringIO()
    with shown_progress("generating", log, lambda: "; 2 judged", clock) as show:
        tally = Tally(0, 100, 1, clock)
        with tally.running():
            for _ in range(100):
                clock.now += 0.75
                tally.add(1)
                show(tally)
    lines = log.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["40/100", "80/100", "100/100"]
    assert lines[0] == "generating: 40/100 responses (40 %), 1.3/s, 1 tokens/s, 0:45 left; 2 judged"


def test_nothing_is_said_while_an_engine_starts():
    clock, log = Clock(), io.StringIO()
    with shown_progress("generating", log, clock=clock) as show:
        clock.now += 60
        show(Tally(5, 10, 8, clock))
    assert log.getvalue() == ""


def test_tokens_are_counted_from_the_first_step_and_shown_within_it(monkeypatch):
    monkeypatch.setattr("eval.generation.progress.LOG_SECONDS", 0.02)
    log, n_tokens, tally = io.StringIO(), iter(range(7, 10_000)), Tally(0, 8, 64)
    with shown_progress("generating", log) as show:
        show(tally)
        with tally.running(lambda: next(n_tokens)):
            time.sleep(0.5)  # one long step: nothing finishes, and nothing calls
    lines = log.getvalue().splitlines()
    assert len(lines) >= 3 and len(lines) == len(set(lines))
    assert re.fullmatch(r"generating: 0/8 responses \(0 %\), 7 tokens, \d+ tokens/s, 0:0[01] so far", lines[0])


def test_an_estimate_is_given_once_a_tenth_of_the_responses_stand_for_the_rest():
    clock = Clock()
    tally = Tally(50, 250, 64, clock)
    with tally.running(lambda: 4000):
        clock.now += 100
        for n in range(20):
            assert tally.seconds_left is None and "left" not in str(tally) and "1:40 so far" in str(tally), n
            tally.add(50)
        # 180 responses of 50 to 64 tokens, 4000 tokens of which are there, at 5000 tokens in 100 s
        assert tally.seconds_left == (100, 150.4) and str(tally).endswith("50 tokens/s, 1:40 to 2:30 left")
    assert (Tally(0, 3, 64, clock).seconds_left, tally.n_to_do) == (None, 200)


def test_short_responses_that_finish_first_do_not_end_the_estimate():
    clock = Clock()
    tally = Tally(0, 20, 64, clock)
    with tally.running(lambda: 18 * 40):  # the others are longer already
        clock.now += 76
        tally.add(20)
        tally.add(20)
        assert tally.seconds_left == (0, 43.2) and str(tally).endswith("0:00 to 0:43 left")


def test_a_slow_machine_has_a_rate_that_is_not_zero():
    clock = Clock()
    tally = Tally(0, 10, 512, clock)
    with tally.running():
        clock.now += 120
        tally.add(240)
        assert "0.5/min, 2 tokens/s" in str(tally)
