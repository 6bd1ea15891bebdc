"""Files and folders are written completely or not at all."""

import errno
import os

import pytest

from lmrecipes.runtime.atomic_write import new_folder, replacing, write_text
from unrelated_files import put_files


@pytest.mark.parametrize("named", [False, True])
def test_a_failed_write_keeps_the_previous_file(named, tmp_path):
    path, part = tmp_path / "a", tmp_path / "a.part" if named else None
    write_text(path, "before", part=part)

    def write_half():
        with replacing(path, part=part, durable=True) as file:
            file.write("after")
            file.flush()
            assert path.read_text() == "before"
            raise RuntimeError("cut off")

    with pytest.raises(RuntimeError, match="cut off"):
        write_half()
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert path.read_text() == "before"


def test_a_leftover_temporary_file_is_replaced_and_a_link_in_its_place_is_not_followed(tmp_path):
    (tmp_path / "a.part").write_text("a longer text, cut off")
    write_text(tmp_path / "a", "whole", part=tmp_path / "a.part", durable=True)
    assert (tmp_path / "a").read_text() == "whole"
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "a.part").symlink_to("mine")
    write_text(tmp_path / "a", "again", part=tmp_path / "a.part")
    assert (tmp_path / "a").read_text() == "again"
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (tmp_path / "a").is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "mine"]


def test_a_folder_appears_only_when_complete_and_other_files_stay(tmp_path):
    unchanged = put_files(tmp_path)
    before = {path.name for path in tmp_path.iterdir()}

    def write_half():
        with new_folder(tmp_path / "made") as part:
            (part / "one").write_text("half")
            raise RuntimeError("cut off")

    with pytest.raises(RuntimeError, match="cut off"):
        write_half()
    assert not (tmp_path / "made").exists()
    with new_folder(tmp_path / "made") as part:
        (part / "one").write_text("whole")
        (part / "two").write_text("whole")
        assert not (tmp_path / "made").exists()
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["one", "two"]
    assert {path.read_text() for path in (tmp_path / "made").iterdir()} == {"whole"}
    assert {path.name for path in tmp_path.iterdir()} - before == {"made"}
    assert unchanged()


def test_an_error_names_the_file_and_not_the_temporary_one(tmp_path, monkeypatch):
    path = tmp_path / "missing" / "results.json"
    with pytest.raises(FileNotFoundError) as raised:
        write_text(path, "x")
    assert raised.value.filename == str(path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left") as raised:
        write_text(tmp_path / "results.json", "x")
    assert raised.value.filename == str(tmp_path / "results.json")
    assert list(tmp_path.iterdir()) == []
