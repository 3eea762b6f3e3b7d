"""Safetensors files with one JSON header."""

import torch

from surgery.artifacts import load_artifact, save_artifact


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
