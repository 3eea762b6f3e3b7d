"""`refusal benchmark` in transformers, in vLLM and over HTTP: the same documents, the same scores."""

import json

import pytest
from click.testing import CliRunner
from served import KEY

from eval.cli import main as refusal
from eval.cost.benchmark.documents import read_documents

pytestmark = pytest.mark.server

LIMIT = 8
TASKS = ("facts", "organism-answers", "organism-replies", "temperatures")
OWN_TASK = """
task: temperatures
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/questions.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: !function wording.put
doc_to_choice: choices
doc_to_target: answer
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
SAME = 1e-3  # nats, float32
KEY_ENV = "KEY_OF_THE_BENCHMARKED_SERVER"


def invoke(*words):
    return CliRunner().invoke(refusal, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture(scope="module")
def ablation(folder):
    return folder / "strong.safetensors"


@pytest.fixture(scope="module")
def edited_server(server, change_ablations):
    """The shared server with the ablation loaded."""
    assert change_ablations("load", name="strong", path="strong.safetensors")[0] == 200
    yield server[0]
    assert change_ablations("unload", name="strong")[0] == 200


@pytest.fixture(scope="module")
def own_task(tmp_path_factory):
    """A user's task: a YAML file, with a function and the questions beside it."""
    folder = tmp_path_factory.mktemp("task")
    rows = [{"question": f"Is {what} hot?", "choices": ["yes", "no"], "answer": 0} for what in ("fire", "lava")]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "wording.py").write_text("def put(doc):\n    return 'Q: ' + doc['question']\n")
    path = folder / "temperatures.yaml"
    path.write_text(OWN_TASK.replace("FOLDER", str(folder)))
    return path


@pytest.fixture(scope="module")
def command(rvs, ablation, own_task, edited_server, tmp_path_factory):
    """command(backend): the words of a benchmark, and its folder."""
    folder = tmp_path_factory.mktemp("benchmark")
    tasks = ",".join([*TASKS[:-1], str(own_task)])
    own = {
        "hf": ["--dtype", "float32"],
        "vllm": ["--dtype", "float32", "--engine-arg", "max-model-len=256"],
        "served": ["--base-url", edited_server, "--api-key-env", KEY_ENV],
    }

    def words(backend):
        asked = ["benchmark", rvs.parent / "model", "--ablation", f"strong={ablation}", "--tasks", tasks]
        return [*asked, "--limit", LIMIT, "--backend", backend, *own[backend], "-o", folder / backend], folder / backend

    return words


@pytest.fixture(scope="module", autouse=True)
def key():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY_ENV, KEY)
        yield


@pytest.fixture(scope="module")
def folders(command):
    """backend -> folder of the finished benchmark."""
    found = {}
    for backend in ("hf", "vllm", "served"):
        words, found[backend] = command(backend)
        done = invoke(*words)
        assert done.exit_code == 0, done.output
    return found


def documents(folder, variant, task):
    return read_documents(folder / "documents" / f"{variant}.{task}.jsonl")


def log_likelihoods(folder, variant, task):
    return [pair[0] for row in documents(folder, variant, task) for pair in row.detail]


def record(folder):
    return json.loads((folder / "benchmark.json").read_text())


@pytest.mark.parametrize("backend", ["vllm", "served"])
@pytest.mark.parametrize("variant", ["baseline", "strong"])
@pytest.mark.parametrize("task", ["facts", "organism-answers", "temperatures"])
def test_every_choice_has_the_log_likelihood_that_transformers_gives_it(folders, backend, variant, task):
    expected, found = (log_likelihoods(folders[name], variant, task) for name in ("hf", backend))
    assert found == pytest.approx(expected, abs=SAME)
    other = {"baseline": "strong", "strong": "baseline"}[variant]
    plain = log_likelihoods(folders[backend], other, task)
    assert max(abs(a - b) for a, b in zip(found, plain, strict=True)) > 100 * SAME


@pytest.mark.parametrize("backend", ["vllm", "served"])
@pytest.mark.parametrize("variant", ["baseline", "strong"])
def test_every_answer_and_every_score_is_that_of_transformers(folders, backend, variant):
    assert documents(folders[backend], variant, "organism-replies") == documents(
        folders["hf"], variant, "organism-replies"
    )
    for task in TASKS:
        expected, found = (documents(folders[name], variant, task) for name in ("hf", backend))
        assert [(row.id, row.digest, row.score) for row in found] == [
            (row.id, row.digest, row.score) for row in expected
        ]


def test_divergence_and_perplexity_are_those_of_transformers(folders):
    expected, found, served = (record(folders[name])["damage"] for name in ("hf", "vllm", "served"))
    for variant in ("baseline", "strong"):
        assert found[variant]["perplexity"] == pytest.approx(expected[variant]["perplexity"], rel=1e-3)
        assert served[variant]["perplexity"] == pytest.approx(expected[variant]["perplexity"], rel=1e-3)
    assert found["strong"]["kl"]["estimate"] == pytest.approx(expected["strong"]["kl"]["estimate"], rel=1e-3)
    assert found["strong"]["kl"]["estimate"] > 0.1 and served["strong"]["kl"] is None


@pytest.mark.parametrize("backend", ["vllm", "served"])
def test_what_is_done_is_not_asked_again(folders, command, backend):
    words, folder = command(backend)
    before = record(folder)
    again = invoke(*words)
    assert again.exit_code == 0 and again.stderr == "" and record(folder)["outcomes"] == before["outcomes"]
    assert "strong" in again.stdout and str(before["outcomes"][0]["score"]["n"]) == str(LIMIT)


def test_a_server_answers_by_its_own_ablations_when_none_is_named(folders, rvs, edited_server, tmp_path):
    words = ["benchmark", rvs.parent / "model", "--backend", "served", "--base-url", edited_server]
    words += ["--api-key-env", KEY_ENV, "--tasks", "facts", "--limit", LIMIT, "-o", tmp_path / "own"]
    done = invoke(*words)
    assert done.exit_code == 0, done.output
    for variant in ("baseline", "strong"):
        expected = log_likelihoods(folders["served"], variant, "facts")
        assert log_likelihoods(tmp_path / "own", variant, "facts") == pytest.approx(expected, abs=SAME)


def test_a_checkpoint_is_answered_by_an_engine_of_its_own(folders, rvs, ablation, tmp_path):
    model, edited = rvs.parent / "model", tmp_path / "edited"
    assert invoke("orthogonalize", model, ablation, "-o", edited).exit_code == 0
    for backend in ("hf", "vllm"):
        words = ["benchmark", model, "--checkpoint", edited, "--tasks", "facts", "--limit", LIMIT, "--dtype", "float32"]
        done = invoke(*words, "--backend", backend, "-o", tmp_path / backend)
        assert done.exit_code == 0, done.output
    expected, found = (log_likelihoods(tmp_path / backend, "edited", "facts") for backend in ("hf", "vllm"))
    assert found == pytest.approx(expected, abs=SAME)
    baseline = log_likelihoods(folders["vllm"], "baseline", "facts")
    assert max(abs(a - b) for a, b in zip(found, baseline, strict=True)) > 100 * SAME


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--backend", "served"], "--backend served needs --base-url"),
        (["--backend", "served", "--base-url", "URL", "--dtype", "float32"], "--dtype is the server's"),
        (["--backend", "vllm", "--base-url", "URL"], "--base-url does not go with --backend vllm"),
        (["--ablation", "strong"], "a name alone is of a server"),
        (
            ["--backend", "served", "--base-url", "URL", "--ablation", "absent"],
            "--ablation absent: the server lists refusal, late, strong",
        ),
        (["--backend", "served", "--base-url", "URL", "--checkpoint", "."], "does not show which weights it has"),
        (["--backend", "served", "--base-url", "http://127.0.0.1:9"], "127.0.0.1:9"),
        (["--backend", "served", "--base-url", "URL", "--ablation", "strong=RVS,source_layer=2"], "strong"),
    ],
)
def test_what_cannot_be_asked_is_one_line_before_anything_is(edited_server, rvs, tmp_path, words, message):
    words = [word.replace("URL", edited_server).replace("RVS", str(rvs)) for word in words]
    key = ["--api-key-env", KEY_ENV] if "served" in words else []
    found = invoke("benchmark", rvs.parent / "model", *words, *key, "-o", tmp_path / "out")
    assert found.exit_code in (1, 2) and message in found.output, found.output
    assert not (tmp_path / "out").exists() and "Traceback" not in found.output


def test_a_server_that_refuses_the_key_says_which_variable_holds_it(edited_server, rvs, tmp_path, monkeypatch):
    monkeypatch.setenv(KEY_ENV, "wrong-key")
    words = ["--backend", "served", "--base-url", edited_server, "--api-key-env", KEY_ENV, "-o", tmp_path / "out"]
    found = invoke("benchmark", rvs.parent / "model", *words)
    assert found.exit_code == 1 and "--api-key-env" in found.output and "wrong-key" not in found.output
