"""Which audit a folder holds, and what becomes of it when another is to take its place."""

import json
import shutil
from types import SimpleNamespace

import click
import pytest
from made_vectors import save_vectors
from synthetic_runs import RunMaker

from eval.judge.choice import JudgeChoice
from eval.records.run import Run
from eval.studies.audit.audit import Audit
from eval.studies.audit.preparation import begin, prepare, replacing_audit
from surgery.console.errors import ArtifactError, OutputExistsError
from surgery.files.artifacts import json_sha256
from surgery.model.models import describe_model
from surgery.organisms.release import write_organism
from surgery.weights.manifest import read_manifest

CHOSEN = {"rvs": None, "limit": None, "seed": 0, "max_rank": 2, "weights": False, "max_tokens": 8}
CHOSEN |= {"dtype": "float32", "eager": None, "tasks": "none", "task_limit": None, "revision": None}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_organism("single", tmp_path_factory.mktemp("single") / "model")


@pytest.fixture
def sources(model, tmp_path):
    """Pairs and prompts of the organism, which a test may edit."""
    for name in ("pairs", "prompts", "safe_prompts"):
        shutil.copy(model / f"{name}.jsonl", tmp_path)
    return tmp_path


@pytest.fixture
def request_of(model, sources):
    """request_of(**options): an audit that is asked for."""

    def make(**options):
        files = {name: str(sources / f"{name}.jsonl") for name in ("pairs", "prompts", "safe_prompts")}
        return prepare(str(model), (1.0,), CHOSEN | vars(JudgeChoice()) | files | options, ["audit"])

    return make


def leave_out_the_last(path):
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def test_the_same_audit_goes_on(request_of, tmp_path):
    begin(tmp_path / "audit", request_of())
    path = tmp_path / "audit" / "design.json"
    before = path.read_bytes()
    begin(tmp_path / "audit", request_of())
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["pairs", "prompts", "safe_prompts"])
def test_an_audit_does_not_go_on_when_the_prompts_in_a_file_of_the_same_name_are_others(request_of, tmp_path, name):
    begin(tmp_path / "audit", request_of())
    leave_out_the_last(tmp_path / f"{name}.jsonl")
    with pytest.raises(ArtifactError, match=f"holds another audit .*{name.replace('_', ' ')}.* differ"):
        begin(tmp_path / "audit", request_of())


def test_pairs_do_not_matter_to_an_audit_of_given_vectors(request_of, tmp_path):
    (tmp_path / "rvs.safetensors").write_bytes(b"vectors")
    asked = {"rvs": tmp_path / "rvs.safetensors", "pairs": "builtin"}
    begin(tmp_path / "audit", request_of(**asked))
    path = tmp_path / "audit" / "design.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pairs": "others.jsonl"}))  # taken before, and ignored
    begin(tmp_path / "audit", request_of(**asked))
    assert json.loads(path.read_text())["pairs"] == "others.jsonl"  # as it was begun


def test_pairs_beside_given_vectors_are_refused(request_of, tmp_path):
    with pytest.raises(click.UsageError, match="--pairs are to extract from; --rvs gives what was extracted"):
        request_of(rvs=tmp_path / "rvs.safetensors")


def test_an_audit_begun_before_its_pairs_were_recorded_goes_on(request_of, tmp_path):
    begin(tmp_path / "audit", request_of())
    path = tmp_path / "audit" / "design.json"
    design = json.loads(path.read_text())
    del design["extraction pairs"]
    path.write_text(json.dumps(design))
    begin(tmp_path / "audit", request_of())
    assert json.loads(path.read_text()) == design  # as it was begun


def test_a_checkpoint_of_other_layers_than_are_chosen_now_is_made_anew_and_one_of_these_is_kept(model, tmp_path):
    bench = SimpleNamespace(folder=tmp_path, info=describe_model(str(model)), rvs=save_vectors(tmp_path))
    audit = SimpleNamespace(bench=bench, alpha=1.0)
    digests = []
    for layers in ((2,), (4, 1), (1, 4)):
        manifest = read_manifest(Audit._checkpoint(audit, layers))
        assert set(manifest["basis"]["source_layers"]) == set(layers)
        digests.append(json_sha256(manifest))
    assert digests[0] != digests[1] == digests[2]


# ---------------------------------------------------------------- --force


def write_audit(folder, mark, n_stages=1, finished=True):
    """What an audit has written: its design, the responses of its stages, at the end its findings."""
    folder.mkdir()
    (folder / "design.json").write_text(json.dumps({"seed": mark}))
    for stage in range(n_stages):
        RunMaker(folder / "runs" / f"selection-{stage:02}").write()
    if finished:
        (folder / "audit.html").write_text("page")


def mark_of(folder):
    return json.loads((folder / "design.json").read_text())["seed"]


def test_an_audit_is_kept_until_its_replacement_is_finished(tmp_path):
    audit = tmp_path / "audit"
    write_audit(audit, "old")
    with pytest.raises(KeyboardInterrupt), replacing_audit(audit, force=True):
        assert not audit.exists()
        write_audit(audit, "new", finished=False)
        raise KeyboardInterrupt
    kept = tmp_path / ".audit.replaced"
    assert (mark_of(audit), mark_of(kept)) == ("new", "old")
    with replacing_audit(audit, force=False):  # the same command goes on with the new one
        assert mark_of(audit) == "new"
        (audit / "audit.html").write_text("page")
    assert mark_of(audit) == "new" and not kept.exists()


def test_a_replacement_without_a_response_gives_the_place_back(tmp_path):
    audit = tmp_path / "audit"
    write_audit(audit, "old")
    with pytest.raises(KeyboardInterrupt), replacing_audit(audit, force=True):
        write_audit(audit, "new", n_stages=0, finished=False)
        raise KeyboardInterrupt
    assert mark_of(audit) == "old" and [path.name for path in tmp_path.iterdir()] == ["audit"]


def test_a_second_replacement_leaves_the_finished_audit_and_not_the_first_replacement(tmp_path):
    audit = tmp_path / "audit"
    for mark in ("old", "new", "newer"):
        with replacing_audit(audit, force=True):
            write_audit(audit, mark, finished=mark == "old")
    assert (mark_of(audit), mark_of(tmp_path / ".audit.replaced")) == ("newer", "old")


def test_a_folder_that_is_no_audit_or_is_being_written_is_not_moved(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("kept")
    with pytest.raises(ArtifactError, match="is not an audit"), replacing_audit(tmp_path / "mine", force=True):
        pass
    write_audit(tmp_path / "audit", "old")
    with Run.open(tmp_path / "audit" / "runs" / "selection-00").writing():
        with pytest.raises(ArtifactError, match="another process"), replacing_audit(tmp_path / "audit", force=True):
            pass
    assert (tmp_path / "mine" / "thesis.txt").is_file() and mark_of(tmp_path / "audit") == "old"


@pytest.mark.parametrize("is_file", [True, False])
def test_something_else_in_the_place_of_an_audit_is_an_error_of_one_line(request_of, tmp_path, is_file):
    out = tmp_path / ("file" if is_file else "folder")
    out.write_text("mine") if is_file else (out.mkdir(), (out / "thesis.txt").write_text("mine"))
    with pytest.raises(OutputExistsError):
        begin(out, request_of())
