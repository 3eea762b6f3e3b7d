"""Folders are replaced whole or not at all, and only by what they were."""

from pathlib import Path

import pytest

from surgery.console.errors import ArtifactError, DiskError, OutputExistsError
from surgery.files.folders import replacing_folder


def is_note(folder):
    return (folder / "note.txt").is_file()


def write(target, text="new", force=False, fail=False):
    with replacing_folder(target, force, kind="a note", is_kind=is_note) as folder:
        (folder / "note.txt").write_text(text)
        if fail:
            raise RuntimeError("in the middle")


def test_a_folder_appears_whole_with_its_parents(tmp_path):
    write(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b" / "note.txt").read_text() == "new"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path):
    with pytest.raises(RuntimeError):
        write(tmp_path / "out", fail=True)
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / "out", "old")
    with pytest.raises(RuntimeError):
        write(tmp_path / "out", force=True, fail=True)
    assert (tmp_path / "out" / "note.txt").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_failed_rename_puts_the_old_folder_back(tmp_path, monkeypatch):
    write(tmp_path / "out", "old")
    rename = Path.rename

    def failing(path, target):
        if path.name == "new":
            raise PermissionError(13, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(DiskError, match="Permission denied"):
        write(tmp_path / "out", force=True)
    assert (tmp_path / "out" / "note.txt").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_force_replaces_the_same_kind_and_empty_folders_only(tmp_path):
    write(tmp_path / "out", "old")
    with pytest.raises(OutputExistsError):
        write(tmp_path / "out")
    write(tmp_path / "out", force=True)
    assert (tmp_path / "out" / "note.txt").read_text() == "new"
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", force=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years")
    (tmp_path / "file").write_text("years")
    for name in ("other", "file"):
        with pytest.raises(ArtifactError, match=f"{name}: is not a note"):
            write(tmp_path / name, force=True)
    assert (tmp_path / "other" / "thesis.tex").read_text() == "years"


def test_a_place_inside_a_file_is_a_fault(tmp_path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(ArtifactError, match="not a folder"):
        write(tmp_path / "file" / "out")
