"""Safetensors files with one JSON header."""

import multiprocessing
import os
import signal

import torch

from surgery.files.artifacts import load_artifact, replacing, save_artifact
from surgery.files.folders import replacing_folder


def test_equal_contents_make_equal_bytes_every_time(tmp_path):
    tensors = {"b": torch.arange(6.0).view(2, 3), "a": torch.ones(3, dtype=torch.bfloat16)}
    header = {"note": "é", "n": 1}
    files = [save_artifact(tmp_path / f"{n}.safetensors", "kind", tensors, header).read_bytes() for n in range(8)]
    assert len(set(files)) == 1
    other = save_artifact(tmp_path / "other.safetensors", "kind", tensors, {**header, "n": 2}).read_bytes()
    assert other != files[0]
    found, loaded = load_artifact(tmp_path / "7.safetensors", ("kind",))
    assert (found["note"], found["n"]) == ("é", 1)
    assert all(
        torch.equal(loaded[name], tensors[name]) and loaded[name].dtype == tensors[name].dtype for name in tensors
    )


def write_and_be_killed(path):
    with replacing(path) as part:
        part.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


def fill_and_be_killed(path):
    with replacing_folder(path, kind="a note", is_kind=lambda folder: True) as folder:
        (folder / "half.txt").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


def killed(function, path):
    process = multiprocessing.get_context("fork").Process(target=function, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_what_a_killed_writer_left_is_gone_with_the_next_and_that_of_a_running_one_stays(tmp_path):
    path = tmp_path / "run.json"
    killed(write_and_be_killed, path)
    assert len(list(tmp_path.iterdir())) == 1
    with replacing(path) as part:
        part.write_text("whole")
        with replacing(path) as other:  # another writer at the same time
            assert part.exists() and set(tmp_path.iterdir()) == {part, other}
            other.write_text("other")
    assert [found.name for found in tmp_path.iterdir()] == ["run.json"] and path.read_text() == "whole"


def test_a_folder_that_a_killed_writer_left_is_gone_with_the_next_unless_it_holds_what_was_replaced(tmp_path):
    killed(fill_and_be_killed, tmp_path / "out")
    (left,) = tmp_path.iterdir()
    (left / "old").mkdir()
    with replacing_folder(tmp_path / "out", kind="a note", is_kind=lambda folder: True):
        assert left.exists()
        (left / "old").rmdir()
    with replacing_folder(tmp_path / "other", kind="a note", is_kind=lambda folder: True):
        pass
    with replacing_folder(tmp_path / "out", force=True, kind="a note", is_kind=lambda folder: True):
        assert not left.exists()
