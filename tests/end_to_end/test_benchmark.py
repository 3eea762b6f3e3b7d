"""`refusal benchmark` on an organism: equal edits score equally, a destructive one worse, finished tasks are kept."""

import json

import pytest
from click.testing import CliRunner

from eval.cli import main as refusal
from eval.cost.benchmark.documents import read_documents
from surgery.residual.subspace import random_subspace

LIMIT = 12
TASKS = ("facts", "organism-answers", "organism-replies")
SAME = 1e-3  # nats, float32


def run(*words):
    found = CliRunner().invoke(refusal, [str(word) for word in words], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found


def in_float32(model):
    """Store the weights in float32, so that an edit of them is not rounded to bfloat16."""
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(model, dtype="float32").save_pretrained(model)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """(folder, command, what it printed) of a model and five edited variants."""
    folder = tmp_path_factory.mktemp("benchmark")
    model, subspace = folder / "model", folder / "sub.safetensors"
    run("organism", "distributed", "-o", model)
    in_float32(model)
    run("extract", model, "--pairs", model / "pairs.jsonl", "--dtype", "float32", "-o", folder / "rvs.safetensors")
    run("subspace", folder / "rvs.safetensors", "--layers", "1,2,4,6", "-o", subspace)
    random_subspace(128, 120, seed=0).save(folder / "broken.safetensors")
    run("orthogonalize", model, subspace, "-o", folder / "checkpoint")
    run("adapter", model, subspace, "-o", folder / "adapter")
    command = ["benchmark", model, "--checkpoint", folder / "checkpoint", "--adapter", folder / "adapter"]
    command += ["--ablation", f"writes={subspace},site=writes", "--ablation", f"stream={subspace}"]
    command += ["--ablation", f"broken={folder / 'broken.safetensors'},allow_other_model=true"]
    command += ["--limit", LIMIT, "--dtype", "float32", "-o", folder / "bench"]
    return folder, command, run(*command)


def documents(folder, variant, task):
    return read_documents(folder / "bench" / "documents" / f"{variant}.{task}.jsonl")


def log_likelihoods(folder, variant, task):
    return [pair[0] for row in documents(folder, variant, task) for pair in row.detail]


def outcome(folder, variant, task):
    record = json.loads((folder / "bench" / "benchmark.json").read_text())
    return next(row for row in record["outcomes"] if (row["variant"], row["task"]) == (variant, task))


@pytest.mark.parametrize("variant", ["checkpoint", "adapter", "writes"])
@pytest.mark.parametrize("task", ["facts", "organism-answers"])
def test_the_same_edit_in_weights_adapter_and_at_run_time_gives_every_document_the_same(study, variant, task):
    folder, _, _ = study
    ours, reference = (log_likelihoods(folder, name, task) for name in (variant, "checkpoint"))
    assert ours == pytest.approx(reference, abs=SAME)
    plain = log_likelihoods(folder, "baseline", task)
    assert max(abs(a - b) for a, b in zip(ours, plain, strict=True)) > 100 * SAME


def test_an_ablation_of_the_stream_is_another_edit_than_one_of_the_writes(study):
    folder, _, _ = study
    pairs = zip(*(log_likelihoods(folder, name, "facts") for name in ("stream", "writes")), strict=True)
    assert max(abs(a - b) for a, b in pairs) > SAME


@pytest.mark.parametrize("task", ["organism-answers", "organism-replies"])
def test_the_subspace_costs_nothing_that_shows_and_a_destructive_edit_does(study, task):
    folder, _, _ = study
    assert outcome(folder, "baseline", task)["score"]["estimate"] == 1.0
    assert outcome(folder, "checkpoint", task)["change"]["estimate"] == 0.0
    broken = outcome(folder, "broken", task)["change"]
    assert broken["high"] < 0 and broken["n"] == LIMIT


def test_the_table_names_every_variant_and_the_record_how_it_was_made(study):
    folder, _, printed = study
    assert all(name in printed.stdout for name in ("baseline", "checkpoint", "adapter", "writes", "stream", "broken"))
    record = json.loads((folder / "bench" / "benchmark.json").read_text())
    assert record["done"]["baseline.facts"]["versions"] == {"facts": 1}
    assert record["settings"]["limit"] == LIMIT and record["command"][1] == "benchmark"


def damage(folder):
    return json.loads((folder / "bench" / "benchmark.json").read_text())["damage"]


def test_divergence_and_perplexity_stand_beside_and_grow_with_what_an_edit_breaks(study):
    folder, _, printed = study
    found = damage(folder)
    same = [found[variant] for variant in ("checkpoint", "adapter", "writes")]
    assert [each["kl"]["estimate"] for each in same] == pytest.approx([same[0]["kl"]["estimate"]] * 3, abs=SAME)
    assert [each["nats"]["estimate"] for each in same] == pytest.approx([same[0]["nats"]["estimate"]] * 3, abs=SAME)
    assert found["baseline"]["kl"] is None and same[0]["kl"]["n"] == 65
    assert found["broken"]["kl"]["low"] > 10 * same[0]["kl"]["high"]
    header = next(number for number, line in enumerate(printed.stdout.splitlines()) if "KL (nats)" in line)
    below = [line.split()[0] for line in printed.stdout.splitlines()[header + 1 :]]
    assert below == ["baseline", "checkpoint", "adapter", "writes", "stream", "broken"]


def test_progress_is_a_line_for_each_task_of_each_variant_and_nothing_else(study):
    _, _, printed = study
    tasks = ("facts", "short-answers", "organism-answers", "organism-replies", "divergence and perplexity")
    variants = ("baseline", "writes", "stream", "broken", "checkpoint", "adapter")
    assert printed.stderr.splitlines() == [f"{variant}: {task}" for variant in variants for task in tasks]


def test_lost_damage_is_measured_again_and_no_task_is_scored_for_it(study):
    folder, command, _ = study
    path = folder / "bench" / "benchmark.json"
    content = json.loads(path.read_text())
    lost = content["damage"].pop("stream")
    path.write_text(json.dumps(content))
    again = run(*command)
    assert again.stderr.splitlines() == ["baseline: divergence and perplexity", "stream: divergence and perplexity"]
    assert damage(folder)["stream"] == lost


FUNCTIONS = """
EXPECTED = {expected!r}

def put(doc):
    return doc["question"]

def score(doc, results):
    return {{"exact_match": float(EXPECTED in doc["question"])}}
"""
TASK = """
task: with-functions
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/data.jsonl}}}}
test_split: test
output_type: generate_until
doc_to_text: !function words.put
doc_to_target: ""
generation_kwargs: {{until: ["\\n"], max_gen_toks: 2}}
process_results: !function words.score
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


def test_a_file_with_functions_of_its_own_is_scored_by_them_and_again_when_they_change(study, tmp_path):
    folder, _, _ = study
    questions = ["red or blue?", "red or green?", "blue or green?"]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps({"question": each}) + "\n" for each in questions))
    (tmp_path / "task.yaml").write_text(TASK.format(folder=tmp_path))
    command = ["benchmark", folder / "model", "--tasks", tmp_path / "task.yaml", "-o", tmp_path / "bench"]
    for expected, scores in (("red", [1.0, 1.0, 0.0]), ("blue or", [0.0, 0.0, 1.0])):
        (tmp_path / "words.py").write_text(FUNCTIONS.format(expected=expected))
        assert "baseline: with-functions" in run(*command).stderr
        found = read_documents(tmp_path / "bench" / "documents" / "baseline.with-functions.jsonl")
        assert [row.score for row in found] == scores
    assert run(*command).stderr == ""


def test_a_task_whose_data_are_not_here_is_one_line_without_a_network(study, tmp_path, monkeypatch):
    folder, _, _ = study
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    words = ["benchmark", folder / "model", "--tasks", "facts,gsm8k", "-o", tmp_path / "out"]
    found = CliRunner().invoke(refusal, [str(word) for word in words])
    (line,) = found.output.strip().splitlines()
    assert found.exit_code == 1 and "task gsm8k: cannot be loaded" in line and "--tasks local" in line
    assert not (tmp_path / "out").exists()


def test_what_is_done_is_not_run_again_and_a_lost_task_is(study):
    folder, command, _ = study
    lost = folder / "bench" / "documents" / "stream.facts.jsonl"
    before = lost.read_text()
    lost.unlink()
    again = run(*command)
    assert again.stderr.splitlines().count("stream: facts") == 1 and "baseline:" not in again.stderr
    assert lost.read_text() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tasks", "no_such_task"], "no_such_task: cannot be loaded"),
        (["--checkpoint", "CHECKPOINT", "--checkpoint", "CHECKPOINT"], "two variants are called"),
        (["--ablation", "x=missing.safetensors"], "missing.safetensors"),
    ],
)
def test_a_fault_is_one_line_before_anything_is_scored(study, tmp_path, words, message):
    folder, _, _ = study
    words = [str(folder / "checkpoint") if word == "CHECKPOINT" else word for word in words]
    found = CliRunner().invoke(refusal, ["benchmark", str(folder / "model"), "-o", str(tmp_path / "out"), *words])
    assert found.exit_code == 1 and message in found.output, found.output
    assert not (tmp_path / "out" / "documents").exists()


def test_a_folder_of_something_else_is_left_alone(study, tmp_path):
    folder, _, _ = study
    (tmp_path / "thesis.txt").write_text("mine")
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "other.jsonl").write_text("mine")
    for force in ([], ["--force"]):
        found = CliRunner().invoke(refusal, ["benchmark", str(folder / "model"), "-o", str(tmp_path), *force])
        assert found.exit_code == 1 and found.output.strip().endswith("holds no benchmark; choose another folder")
    assert {path.name for path in tmp_path.rglob("*")} == {"thesis.txt", "documents", "other.jsonl"}


def test_a_mistyped_task_with_force_costs_no_results(study):
    folder, command, _ = study
    before = {path.name for path in (folder / "bench" / "documents").iterdir()}
    found = CliRunner().invoke(refusal, [str(word) for word in [*command, "--tasks", "no_such", "--force"]])
    assert found.exit_code == 1 and {path.name for path in (folder / "bench" / "documents").iterdir()} == before


def test_changed_weights_under_the_same_manifest_are_scored_again(study, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    folder, _, _ = study
    checkpoint = shutil.copytree(folder / "checkpoint", tmp_path / "checkpoint")
    command = ["benchmark", folder / "model", "--checkpoint", checkpoint, "--tasks", "organism-answers", "--limit", 4]
    command += ["--dtype", "float32", "-o", tmp_path / "bench"]
    run(*command)
    weights = checkpoint / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.layers.3.mlp.down_proj.weight"].zero_()
    save_file(tensors, weights, {"format": "pt"})
    again = run(*command)
    assert "checkpoint: organism-answers" in again.stderr and "baseline: organism-answers" not in again.stderr
