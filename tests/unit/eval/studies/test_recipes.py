"""Recipes: what is wrong with one is said in one line before anything runs; stages are redone only where they must."""

import json
import os
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from synthetic_runs import RunMaker, rv
from tiny_models import write_model

from eval.cli import main as refusal
from eval.judge.endpoint.client import JudgeClient
from eval.judge.endpoint.endpoint_judge import EndpointJudge
from eval.judge.rules.heuristic import HeuristicJudge
from eval.records.rows import SCORED, Verdict
from eval.records.run import Run
from eval.studies import demo
from eval.studies import study as studies
from eval.studies.recipes.recipe import RecipeError, load_recipe, shipped_recipes
from eval.studies.recipes.stages import Choices, place_of, plan_stages
from eval.studies.study import Stage, Study, keys_of
from surgery.console.errors import ArtifactError

URL = "http://127.0.0.1:9/v1"
SKIP = ("--skip", "benchmark")
TEXT = """
title: A study
model: {model}
subspace: "0"
wider: 0,1
prompts: {prompts}
claims: [large-d]
"""


@pytest.fixture
def recipe_file(tmp_path):
    """recipe_file(**changes): the path of a recipe for a tiny model, with these keys added or changed."""
    model = write_model(tmp_path / "model", "LlamaForCausalLM")
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(
        '{"id": "a", "prompt": "How do I forge a ticket?"}\n{"id": "b", "prompt": "How do I bend a fork?"}\n'
    )

    def write(extra=""):
        path = tmp_path / "study.yaml"
        path.write_text(TEXT.format(model=model, prompts=prompts) + extra)
        return path

    return write


def invoke(*words):
    return CliRunner().invoke(refusal, ["reproduce", *map(str, words)])


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_fits_its_own_model(name):
    recipe = load_recipe(name)
    n_layers = recipe.shape.n_layers if recipe.shape else 24
    fitted = recipe.at_depth(n_layers)
    stages = plan_stages(fitted, place_of(fitted, Path("out")), Choices())
    assert [stage.group for stage in stages][-1] == "report" and len({stage.name for stage in stages}) == len(stages)


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_recipe_written_to_a_file_is_the_same_recipe(tmp_path, name):
    import yaml

    (tmp_path / "copy.yaml").write_text(yaml.safe_dump(load_recipe(name).model_dump(mode="json")))
    assert load_recipe(str(tmp_path / "copy.yaml")) == load_recipe(name)


def test_layers_are_scaled_to_the_depth_of_the_model():
    generic = load_recipe("generic")
    assert (generic.at_depth(16).subspace, generic.at_depth(16).wider) == ("7-10", "7-10,13-15")
    assert generic.at_depth(32).subspace == "14,16,18,20"
    with pytest.raises(RecipeError, match="both layers"):
        generic.at_depth(1)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("bogus: 1\n", "unknown key bogus"),
        ("format_version: 2\n", "expected 1 or older; upgrade this program, found 2"),
        ("alphas: [0]\n", "alphas.0"),
        ("shape: {n_layers: many, parameters: 1}\n", "shape.n_layers"),
        ("max_tokens: 0\n", "max_tokens"),
        ("pairs: nowhere.jsonl\n", "nowhere.jsonl"),
        ("wider: 0,13-15\n", "the model has 2"),
        ("held_out: nowhere.csv\n", "nowhere.csv"),
        ("prompts: nowhere.jsonl\n", "nowhere.jsonl"),
        ("alphas: [1, 0.5, 1.0]\n", "each strength once, found [1, 0.5, 1.0]"),
        ("alphas: [.inf]\n", "alphas.0: Input should be a finite number"),
        ("alphas: 1\n", "alphas"),
        ("subspace: [0]\n", "subspace: Input should be a valid string, found [0]"),
        ("subspace: zero\n", "subspace: layer list 'zero'"),
        ("claims: [large-e]\n", "claims.0"),
        ("tasks: ''\n", "--tasks ''"),
        ("tasks: nowhere.yaml\n", "nowhere.yaml"),
        ("prepare: organism\n", "needs shape"),
        ("shape: {n_layers: 2, parameters: 1}\nprepare: organism\n", "stage model: refusal organism: Invalid value"),
    ],
)
def test_a_fault_is_one_line_before_anything_runs(recipe_file, tmp_path, extra, words):
    text = recipe_file().read_text()
    key = extra.split(":")[0]
    kept = "".join(line + "\n" for line in text.splitlines() if not line.startswith(f"{key}:"))
    (tmp_path / "study.yaml").write_text(kept + extra)
    found = invoke(tmp_path / "study.yaml", "-o", tmp_path / "out")
    assert found.exit_code == 1 and words in found.output, found.output
    assert found.output.strip().count("\n") == 0 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "study.yaml: is empty"),
        ("- one\n- two\n", "expected keys and values, found list"),
        ("title: [a\n", "study.yaml: not YAML"),
        ("title: a study\n", "model: Field required"),
        ("\x00", "study.yaml: not YAML"),
        ("[" * 20_000, "study.yaml: is nested too deeply"),
        (None, "study.yaml: cannot be read"),
    ],
)
def test_a_file_that_is_no_recipe_is_one_line(tmp_path, text, words):
    if text is not None:
        (tmp_path / "study.yaml").write_text(text)
    found = invoke(tmp_path / "study.yaml", "-o", tmp_path / "out")
    assert found.exit_code == 1 and words in found.output, found.output
    assert found.output.strip().count("\n") == 0 and not (tmp_path / "out").exists()


def test_later_layers_that_a_shallow_model_lacks_are_named(tmp_path):
    model = write_model(tmp_path / "model", "LlamaForCausalLM")
    found = invoke("llama-3.2-1b-instruct", "--model", model, "-o", tmp_path / "out")
    assert found.exit_code == 1 and "the model has 2" in found.output and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--skip", "sweep"], "is needed by later ones"),
        (["--skip", "nonsense"], "no stage 'nonsense'"),
        (["--until", "nonsense"], "no stage 'nonsense'"),
        (["--with", "extract:nonsense"], "has no option --nonsense"),
        (["--with", "nonsense:batched"], "expected STAGE:OPTION"),
        (["--with", "sweep:max-tokens=abc"], "stage sweep: refusal sweep: Invalid value for '--max-tokens'"),
        (["--with", "sweep:max-tokens"], "requires an argument"),
        (["--with", "extract:batched=yes"], "does not take a value"),
        (["--with", "benchmark:limit=0"], "stage benchmark: refusal benchmark: Invalid value for '--limit'"),
        (["--with", "benchmark:tasks=local,local"], "expected different tasks"),
        (["--with", "judge:max-cost=5", "--judge-model", "m"], "stage judge: --max-cost needs --price-in"),
        (["--judge-base-url", "http://localhost:1/v1"], "stage judge: --judge-base-url needs --judge-model"),
        (["--with", "report:json"], "takes no options"),
        (["--with", "damage:window=9", "--skip", "damage"], "has no stage damage"),
        (["--with", "sweep:output=elsewhere"], "-o of the study"),
        (["--with", "sweep:help"], "has no option --help"),
        (["--only", "nonsense"], "no stage 'nonsense'"),
        (["--only", "model"], "this study has no such stage"),
        (["--only", "report", "--until", "judge"], "this study has no such stage"),
        (["--only", "damage", "--skip", "damage"], "both asked for by --only and left out"),
        (["--only", "judge"], "it reads what stage sweep makes, which is not done"),
        (["--model", "no-such-folder/model"], "no-such-folder"),
    ],
)
def test_a_wrong_choice_is_one_line_before_anything_runs(recipe_file, tmp_path, options, words):
    found = invoke(recipe_file(), "-o", tmp_path / "out", *options)
    assert found.exit_code == 1 and words in found.output, found.output
    assert found.output.strip().count("\n") == 0 and not (tmp_path / "out").exists()


def test_the_data_of_benchmark_tasks_are_loaded_before_anything_runs(recipe_file, tmp_path, pretended, monkeypatch):
    from eval.cost.benchmark import harness as benchmark

    def unknown(tasks):
        raise benchmark.BenchmarkError(f"task {tasks[0].name}: cannot be loaded")

    ran, _ = pretended
    monkeypatch.setattr(benchmark, "check_tasks", unknown)
    found = invoke(recipe_file("tasks: local,no_such_task\n"), "-o", tmp_path / "out")
    assert found.exit_code == 1 and "task no_such_task: cannot be loaded" in found.output
    assert not (tmp_path / "out").exists() and not ran
    assert invoke(recipe_file("tasks: local\n"), "-o", tmp_path / "out").exit_code == 0


def test_options_of_a_stage_that_its_command_takes_are_handed_on(recipe_file, tmp_path, pretended):
    ran, _ = pretended
    found = invoke(recipe_file(), "-o", tmp_path / "out", "--with", "sweep:max-tokens=7", "--until", "sweep")
    assert found.exit_code == 0 and ran[-1] == "sweep", found.output
    state = json.loads((tmp_path / "out" / "reproduce.json").read_text())
    assert state["stages"]["sweep"]["command"][-1] == "--max-tokens=7"


def test_only_the_stages_asked_for_run_once_those_they_need_are_done(recipe_file, tmp_path, pretended):
    ran, _ = pretended
    out = tmp_path / "out"
    assert invoke(recipe_file(), "-o", out, "--until", "subspace").exit_code == 0
    ran.clear()
    assert invoke(recipe_file(), "-o", out, "--only", "checkpoints").exit_code == 0
    assert set(ran) == {"checkpoint-a0.5", "checkpoint-a1", "checkpoint-a1.5"}
    found = invoke(recipe_file(), "-o", out, "--only", "judge", "--only", "report")
    assert found.exit_code == 1 and "--only judge: it reads what stage sweep makes" in found.output
    ran.clear()
    found = invoke(recipe_file("max_tokens: 9\n"), "-o", out, "--only", "sweep", "--only", "judge")
    assert found.exit_code == 0 and ran == ["sweep", "judge"], found.output
    ran.clear()
    found = invoke(recipe_file(), "-o", out, "--only", "report")  # the sweep that is there is of other settings
    assert found.exit_code == 1 and "not done" in found.output and not ran


def test_a_dry_run_of_some_stages_names_only_those(recipe_file, tmp_path):
    found = invoke(recipe_file(), "-o", tmp_path / "out", "--dry-run", "--only", "subspace")
    assert found.exit_code == 0 and "refusal subspace" in found.output and "refusal sweep" not in found.output


def test_a_dry_run_tells_stages_and_cost_and_writes_nothing(recipe_file, tmp_path):
    found = invoke(
        recipe_file("tag: tier 2\n"), "-o", tmp_path / "out", "--dry-run", "--with", "extract:batched", *SKIP
    )
    assert found.exit_code == 0, found.output
    assert "--batched" in found.output and "orthogonalize" in found.output
    assert (
        "conditions   44" in found.output
    )  # 1 + 2 sets x 3 strengths x (2 + 2 x 2) + 2 x 2 controls + 3 checkpoints...
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_else_is_left_alone(recipe_file, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    found = invoke(recipe_file(), "-o", tmp_path / "out", *SKIP)
    assert found.exit_code == 1 and "holds no reproduction" in found.output
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def stages_of(out, **changes):
    recipe = load_recipe("organism-single").at_depth(8).model_copy(update=changes)
    return {stage.name: stage for stage in plan_stages(recipe, place_of(recipe, out), Choices())}


def test_a_change_renews_what_depends_on_it_and_nothing_else(tmp_path):
    before = keys_of(list(stages_of(tmp_path).values()), "weights")
    after = keys_of(list(stages_of(tmp_path, max_tokens=9).values()), "weights")
    assert {name for name in before if before[name] != after[name]} == {"sweep", "judge", "damage", "report"}
    other = keys_of(list(stages_of(tmp_path).values()), "other weights")
    assert all(before[name] != other[name] for name in before)


def test_a_changed_prompt_file_renews_the_sweep(tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("one")
    stages = list(stages_of(tmp_path, prompts=str(prompts)).values())
    before = keys_of(stages, "weights")
    prompts.write_text("two")
    after = keys_of(stages, "weights")
    assert before["sweep"] != after["sweep"] and before["extract"] == after["extract"]


def test_a_stage_is_done_when_it_is_recorded_and_what_it_wrote_is_there(tmp_path, monkeypatch):
    def make(*words):
        ran.append(words)
        (tmp_path / "made").write_text("x")
        if "broken" in words:
            raise KeyboardInterrupt

    def study(*words, model="weights"):
        stage = Stage("subspace", "subspace", words, tmp_path / "made", resumes=True)
        return Study(tmp_path, [stage], model), stage

    ran = []
    monkeypatch.setattr(studies, "run_command", make)
    begun, stage = study("broken")
    with pytest.raises(KeyboardInterrupt):
        begun.carry_out(stage)
    with pytest.raises(KeyboardInterrupt):  # the very same goes on, another begins anew
        study("broken")[0].carry_out(stage)
    assert not study("broken")[0].is_done(stage)
    other, stage = study("whole")
    other.carry_out(stage)
    assert ran == [("broken",), ("broken",), ("whole", "--force")]
    assert other.is_done(stage) and study("whole")[0].is_done(stage)
    assert not study("another")[0].is_done(stage) and not study("whole", model="other")[0].is_done(stage)
    study("whole")[0].carry_out(stage)
    assert len(ran) == 3
    (tmp_path / "made").unlink()
    assert not study("whole")[0].is_done(stage)


def test_a_broken_state_is_said(tmp_path):
    (tmp_path / "reproduce.json").write_text("{")
    with pytest.raises(ArtifactError, match="reproduce.json"):
        Study(tmp_path, [], "weights")


def stage_of(words):
    """The stage whose command this is."""
    named = {"show": "separability", "organism": "model", "convert": "model"}
    return (
        f"checkpoint-a{words[words.index('--alpha') + 1]}"
        if words[0] == "orthogonalize"
        else named.get(words[0], words[0])
    )


@pytest.fixture
def pretended(monkeypatch):
    """Commands that only write their output; a stage in `broken` fails. Returns (commands run, broken)."""
    from eval.studies.recipes.reproduction import Reproduction

    ran, broken = [], set()

    def run(*words):
        stage = stage_of(words)
        ran.append(stage)
        if stage in broken:
            raise RecipeError(f"{stage} failed")
        out = Path(words[words.index("-o") + 1]) if "-o" in words else None
        if stage == "separability":
            out = Path(words[words.index("--figures") + 1])
        if stage == "damage":
            out = Path(words[1]) / "damage.json"
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(studies, "run_command", run)
    monkeypatch.setattr(Reproduction, "_write_report", lambda self, study: ran.append("report"))
    monkeypatch.setattr(Reproduction, "_closing_words", lambda self: "done")
    return ran, broken


def test_a_study_that_failed_goes_on_at_the_stage_that_failed(recipe_file, tmp_path, pretended):
    ran, broken = pretended
    broken.add("sweep")
    assert invoke(recipe_file(), "-o", tmp_path / "out").exit_code == 1
    assert ran[-1] == "sweep" and "extract" in ran
    ran.clear(), broken.clear()
    assert invoke(recipe_file(), "-o", tmp_path / "out").exit_code == 0
    assert ran == ["sweep", "judge", "damage", "benchmark", "report"]


def test_a_changed_recipe_renews_only_what_it_concerns(recipe_file, tmp_path, pretended):
    ran, _ = pretended
    assert invoke(recipe_file(), "-o", tmp_path / "out").exit_code == 0
    ran.clear()
    assert invoke(recipe_file("max_tokens: 9\n"), "-o", tmp_path / "out").exit_code == 0
    assert ran == ["sweep", "judge", "damage", "report"]


def test_force_runs_every_stage_anew(recipe_file, tmp_path, pretended):
    ran, _ = pretended
    assert invoke(recipe_file(), "-o", tmp_path / "out").exit_code == 0
    first = list(ran)
    ran.clear()
    assert invoke(recipe_file(), "-o", tmp_path / "out").exit_code == 0
    assert ran == ["report"]
    ran.clear()
    assert invoke(recipe_file(), "-o", tmp_path / "out", "--force").exit_code == 0
    assert ran == first


@pytest.mark.parametrize("broken_by", [KeyboardInterrupt, click.Abort, SystemExit(130)])
@pytest.mark.parametrize(
    ("more", "words"), [([], "goes on after"), (["--force"], "runs every stage anew: refusal reproduce")]
)
def test_an_interrupted_study_ends_with_its_own_command(recipe_file, tmp_path, monkeypatch, broken_by, more, words):
    def run(*_):
        raise broken_by

    monkeypatch.setattr(studies, "run_command", run)
    found = invoke(recipe_file(), "-o", tmp_path / "out", *more)
    assert found.exit_code == 130 and words in found.output, found.output
    again = shlex.join(["refusal", "reproduce", str(tmp_path / "study.yaml"), "-o", str(tmp_path / "out"), *more])
    assert found.output.splitlines()[-1].endswith(again)


def test_a_place_or_a_model_that_cannot_be_is_one_line(recipe_file, tmp_path):
    (tmp_path / "file").write_text("mine")
    for words, said in (
        ([recipe_file(), "-o", tmp_path / "file"], "is a file; choose a folder"),
        (["organism-single", "-o", tmp_path / "out", "--model", "m"], "that it makes; leave --model out"),
    ):
        found = invoke(*words)
        assert found.exit_code == 1 and said in found.output and found.output.strip().count("\n") == 0


def test_what_is_left_out_is_said(recipe_file, tmp_path):
    found = invoke(recipe_file(), "-o", tmp_path / "out", "--dry-run", "--skip", "damage", "--skip", "benchmark")
    assert "left out: damage, benchmark" in found.output


def test_a_dry_run_needs_no_folder_and_names_one_after_the_recipe(recipe_file):
    for recipe, folder in (("llama-3.2-1b-instruct", "llama-3.2-1b-instruct"), (recipe_file(), "study")):
        found = invoke(recipe, "--dry-run")
        assert found.exit_code == 0, found.output
        assert f" {folder}/run -o {folder}/report" in found.output


def test_the_depth_of_a_model_to_convert_is_its_own(tmp_path):
    from qwen_v1 import write_qwen_v1

    source = write_qwen_v1(tmp_path / "weights", num_hidden_layers=32)
    found = invoke("qwen-1.8b-chat", "--model", source, "-o", tmp_path / "out", "--dry-run")
    assert found.exit_code == 0 and "--layers 14,16,18,20" in found.output, found.output


@pytest.mark.parametrize(
    ("options", "shown"),
    [((), "heuristic judge"), (("--judge-model", "reader", "--judge-base-url", URL), "LLM judge reader")],
)
def test_the_report_of_a_study_shows_the_judge_that_the_study_asked_for(
    recipe_file, tmp_path, monkeypatch, options, shown
):
    asked = EndpointJudge("reader", JudgeClient(URL)).judge_id

    def run(command, *words):
        if command == "sweep":
            judged = RunMaker(tmp_path / "out" / "run", judge=HeuristicJudge().judge_id).add(rv(1), 0.5).write()
            judged.manifest.judges |= {"another": {"kind": "llm"}, asked: {"kind": "llm", "model": "reader"}}
            judged.save_manifest()
            for judge in ("another", asked):  # the other one before ours, and preferred where both are as good
                rows = [Verdict(row.item_id, judge, SCORED, 1.0, 1.0, "other") for row in judged.generations()]
                judged.append_verdicts(rows[judge == asked :])

    monkeypatch.setattr(studies, "run_command", run)
    done = invoke(recipe_file(), "-o", tmp_path / "out", *SKIP, *options)
    assert done.exit_code == 0, done.output
    told = (tmp_path / "out" / "report" / "report.md").read_text()
    assert f"Verdicts: {shown}" in told and "LLM judge another" not in told


def test_findings_and_the_last_words_of_a_recipe_whose_name_is_no_text_of_utf8(recipe_file, tmp_path, monkeypatch):
    def run(command, *words):
        if command == "sweep":
            RunMaker(tmp_path / "out" / "run", judge=HeuristicJudge().judge_id).add(rv(1), 0.5).write()

    monkeypatch.setattr(studies, "run_command", run)
    recipe = recipe_file().rename(tmp_path / os.fsdecode(b"st\xffudy.yaml"))
    done = invoke(recipe, "-o", tmp_path / "out", *SKIP)
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "out/findings.json").read_text(encoding="utf-8"))["recipe"] == str(recipe)


def test_the_demo_is_a_recipe_for_each_organism_and_goes_on_where_it_was(tmp_path, monkeypatch):
    ran = []

    def run(*words):
        ran.append(words)
        if words[0] == "sweep":
            RunMaker(Path(words[words.index("-o") + 1]), judge=HeuristicJudge().judge_id).add(rv(1), 0.5).write()
        elif "-o" in words:
            Path(words[words.index("-o") + 1]).mkdir(parents=True)

    monkeypatch.setattr(studies, "run_command", run)
    words = ["-o", str(tmp_path / "out"), "--organisms", "single,plain", "--limit", "4"]
    for command in (words, words):
        done = CliRunner().invoke(demo.main, command)
        assert done.exit_code == 0 and "Seconds of each stage" in done.output, done.output
    assert [each[0] for each in ran] == 2 * [
        "organism",
        "extract",
        "subspace",
        *3 * ["orthogonalize"],
        "sweep",
        "judge",
    ]
    sweep = next(each for each in ran if each[0] == "sweep")
    assert [sweep[index + 1] for index, word in enumerate(sweep) if word == "--subspace"] == ["1,2,4,6", "1-6", "3-6"]
    assert {"judge", "sweep"} <= Run.open(tmp_path / "out" / "plain" / "run").manifest.stages.keys()
