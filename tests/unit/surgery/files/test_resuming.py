"""An interrupted edit goes on where it was; nothing half-done can be taken for a checkpoint."""

import fcntl
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from tiny_models import write_model

from eval.cli import main
from surgery.console.errors import ArtifactError, DiskError, ModelError, OutputExistsError
from surgery.files.resuming import JOURNAL, scratch_of, unfinished_files
from surgery.model.models import describe_model
from surgery.residual.subspace import Subspace, random_subspace
from surgery.weights import checkpoint as module
from surgery.weights.checkpoint import orthogonalize
from surgery.weights.verify import verify

BASIS = random_subspace(32, 4, seed=4).basis
ROOT = Path(__file__).parents[4]
# Stops itself for good, as `kill -9` would, when it is about to edit the tensor of that number.
KILLED = """
import os, signal, sys
from surgery.weights import checkpoint as module
from surgery.model.models import describe_model
from surgery.residual.subspace import Subspace
source, basis, out, number = sys.argv[1:]
write, calls = module.write_edited, []
def dying(*arguments):
    calls.append(1)
    if len(calls) == int(number):
        os.kill(os.getpid(), signal.SIGKILL)
    return write(*arguments)
module.write_edited = dying
module.orthogonalize(describe_model(source), Subspace.load(basis).basis, 1.0, out)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """In many files; two of the eight edited tensors come in each of some."""
    return write_model(tmp_path_factory.mktemp("m") / "m", "Qwen2ForCausalLM", n_layers=4, shards=True)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def files_of(folder):
    """Every file's bytes, by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write(model, out, **options):
    return orthogonalize(describe_model(model), BASIS, out_dir=out, **{"alpha": 1.0, **options})


def interrupt(model, out, monkeypatch, at=5, error=KeyboardInterrupt, **options):
    """Begin an edit that is interrupted at the edited tensor of that number."""
    calls, real = [], module.write_edited

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == at:
            raise error
        return real(*arguments)

    with monkeypatch.context() as patch, pytest.raises(error if isinstance(error, type) else type(error)):
        patch.setattr(module, "write_edited", interrupted)
        write(model, out, **options)


def count_edits(monkeypatch):
    calls, real = [], module.write_edited
    monkeypatch.setattr(module, "write_edited", lambda *arguments: calls.append(1) or real(*arguments))
    return calls


def test_after_kill_9_finished_files_are_kept_and_the_result_is_that_of_one_run(model, tmp_path, out, monkeypatch):
    Subspace(BASIS).save(tmp_path / "basis.safetensors")
    arguments = [str(path) for path in (model, tmp_path / "basis.safetensors", out)]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments, "5"], cwd=ROOT, capture_output=True)
    assert killed.returncode == -signal.SIGKILL and not out.exists()
    finished = [scratch_of(out) / "new" / name for name in unfinished_files(out)]
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in finished}
    assert len(finished) >= 2
    calls = count_edits(monkeypatch)
    write(model, out)
    kept = {out / path.name: found for path, found in before.items()}
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in kept} == kept  # the very same files
    assert 0 < len(calls) < 8 and not scratch_of(out).exists() and verify(out).ok
    write(model, tmp_path / "whole")
    assert files_of(out) == files_of(tmp_path / "whole")


def test_a_half_done_folder_is_hidden_and_no_checkpoint(model, out, monkeypatch):
    interrupt(model, out, monkeypatch)
    assert [path.name for path in out.parent.iterdir()] == [".out.part"]
    for folder in (scratch_of(out), scratch_of(out) / "new"):
        with pytest.raises(ArtifactError, match="not an edited checkpoint"):
            verify(folder)


@pytest.mark.parametrize(
    "options", [{"alpha": 0.5}, {"layers": "0"}, {"embeddings": True}, {"keep_norms": True}, {"basis": 7}]
)
def test_another_job_starts_anew(model, tmp_path, out, monkeypatch, options):
    interrupt(model, out, monkeypatch)
    other = random_subspace(32, 4, seed=options.pop("basis", 4)).basis
    settings = {"alpha": 1.0, **options}
    orthogonalize(describe_model(model), other, out_dir=out, **settings)
    orthogonalize(describe_model(model), other, out_dir=tmp_path / "whole", **settings)
    assert files_of(out) == files_of(tmp_path / "whole")


def test_a_model_that_was_changed_meanwhile_starts_anew(model, tmp_path, out, monkeypatch):
    source = shutil.copytree(model, tmp_path / "m")
    interrupt(source, out, monkeypatch)
    first = source / unfinished_files(out)[0]
    tensors = load_file(first)
    save_file({name: value + 1 for name, value in tensors.items()}, first, metadata={"format": "pt"})
    calls = count_edits(monkeypatch)
    write(source, out)
    assert len(calls) == 8 and verify(out).ok


@pytest.mark.parametrize("damage", ["shorter", "other bytes", "gone", "journal", "zeros"])
def test_a_finished_file_that_is_not_what_it_was_is_written_again(model, tmp_path, out, monkeypatch, damage):
    interrupt(model, out, monkeypatch)
    journal = scratch_of(out) / JOURNAL
    file = scratch_of(out) / "new" / unfinished_files(out)[-1]
    data = file.read_bytes()
    if damage == "gone":
        file.unlink()
    elif damage == "journal":  # its last line was cut off by the kill
        journal.write_bytes(journal.read_bytes()[:-20])
    elif damage == "zeros":  # as a machine that lost power may leave it
        journal.write_bytes(bytes(100) + b"\n")
    else:
        file.write_bytes(data[:-1] if damage == "shorter" else data[:-1] + bytes([data[-1] ^ 1]))
    write(model, out)
    write(model, tmp_path / "whole")
    assert files_of(out) == files_of(tmp_path / "whole")


def test_ctrl_c_keeps_finished_files_and_says_so_in_one_line(model, tmp_path, out, monkeypatch):
    Subspace(BASIS).save(tmp_path / "basis.safetensors")
    real, calls = module.write_edited, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(*arguments)

    command = main.get_command(None, "orthogonalize")
    arguments = [str(model), str(tmp_path / "basis.safetensors"), "-o", str(out), "--no-verify"]
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_edited", interrupted)
        result = CliRunner().invoke(command, arguments)
    n_kept = len(unfinished_files(out))
    assert result.exit_code == 1 and n_kept >= 2
    assert result.stderr.splitlines()[-1].startswith(f"Error: interrupted; {n_kept} finished files are kept in ")
    again = CliRunner().invoke(command, arguments)
    assert again.exit_code == 0 and f"kept {n_kept} files of an interrupted run" in again.stdout and verify(out).ok


def test_ctrl_c_before_the_first_file_is_finished_leaves_nothing(tmp_path, monkeypatch):
    model, out = write_model(tmp_path / "m", "Qwen2ForCausalLM"), tmp_path / "made" / "out"
    out.parent.mkdir()
    interrupt(model, out, monkeypatch, at=1)
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "raised"), [(ModelError("bad values"), ModelError), (OSError(28, "No space left"), DiskError)]
)
def test_a_failure_of_the_job_itself_discards_everything(model, out, monkeypatch, error, raised):
    real, calls = module.write_edited, []

    def failing(*arguments):
        calls.append(1)
        if len(calls) == 5:
            raise error
        return real(*arguments)

    monkeypatch.setattr(module, "write_edited", failing)
    with pytest.raises(raised):
        write(model, out)
    assert list(out.parent.iterdir()) == []


def test_two_processes_at_once_are_refused(model, out, monkeypatch):
    interrupt(model, out, monkeypatch)
    with open(scratch_of(out) / "lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ArtifactError, match="another process is writing it"):
            write(model, out)
    assert len(unfinished_files(out)) >= 2  # the other's work is untouched
    write(model, out)  # the control: the lock is gone with the process
    assert verify(out).ok


def test_a_replacement_killed_between_its_renames_is_put_back(model, out, monkeypatch):
    write(model, out, alpha=0.5)
    interrupt(model, out, monkeypatch, force=True)
    out.rename(scratch_of(out) / "old")
    with pytest.raises(OutputExistsError):
        write(model, out)
    assert verify(out).alpha == 0.5
    write(model, out, force=True)
    assert verify(out).alpha == 1.0 and [path.name for path in out.parent.iterdir()] == ["out"]


def test_bytes_of_an_interrupted_run_count_as_free(model, out, monkeypatch):
    interrupt(model, out, monkeypatch)
    held = sum(path.stat().st_size for path in scratch_of(out).rglob("*") if path.is_file())
    needed = sum(path.stat().st_size for path in model.glob("*.safetensors")) + module._SPARE_BYTES
    usage = type("usage", (), {"free": needed - held})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _path: usage)
    write(model, out)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _path: type("usage", (), {"free": needed - 1}))
    with pytest.raises(DiskError, match="GB are free"):
        write(model, out.parent / "second")
