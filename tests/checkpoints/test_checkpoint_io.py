"""A checkpoint is complete or absent, and loading one executes no code."""

import contextlib
import errno
import os
import pickle
import random
import signal
import subprocess
import zipfile

import pytest
import torch

import warm
from lmrecipes.checkpoints import listing, sharded
from lmrecipes.checkpoints.checksum import is_intact
from lmrecipes.checkpoints.io import AtomicCheckpointIO, load_checkpoint, newest_readable
from lmrecipes.checkpoints.optimizer_state import states_of
from lmrecipes.commands.common.start_run import _checkpoint_to_resume
from lmrecipes.runs.checkpoint_choice import checkpoint_of


def content(step=1):
    return {"state_dict": {"w": torch.ones(3)}, "global_step": step}


def test_a_saved_checkpoint_loads_unchanged(tmp_path):
    AtomicCheckpointIO().save_checkpoint(content(), tmp_path / "a" / "last-step=1.ckpt")
    assert load_checkpoint(tmp_path / "a" / "last-step=1.ckpt")["global_step"] == 1
    assert {*os.listdir(tmp_path / "a")} == {"last-step=1.ckpt", listing.FILE}


KILLED = """
import os, signal, sys, torch
from pathlib import Path
from lmrecipes.checkpoints.checksum import is_intact
from lmrecipes.checkpoints.io import AtomicCheckpointIO
io, path = AtomicCheckpointIO(), Path(sys.argv[1])
io.save_checkpoint({"state_dict": {}, "global_step": 1}, path)
save = torch.save
def half(obj, file):
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
torch.save = half
io.save_checkpoint({"state_dict": {}, "global_step": 2}, path)
"""


@pytest.mark.slow
def test_a_kill_during_a_save_keeps_the_previous_checkpoint(tmp_path):
    path = tmp_path / "last-step=1.ckpt"
    killed = subprocess.run([warm.python(), "-c", KILLED, path])
    assert killed.returncode == -signal.SIGKILL
    assert load_checkpoint(path)["global_step"] == 1
    AtomicCheckpointIO().save_checkpoint(content(3), path)
    assert {p.name for p in tmp_path.iterdir()} == {path.name, listing.FILE}


def test_a_checkpoint_is_synced_before_it_is_renamed(tmp_path, monkeypatch):
    path, done = tmp_path / "last-step=1.ckpt", []
    sync, replace = os.fsync, os.replace

    def record_sync(handle):
        done.append(("synced", os.fstat(handle).st_ino))
        sync(handle)

    def record_rename(source, target):
        done.append(("replaced", os.stat(source).st_ino))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(os, "replace", record_rename)
    AtomicCheckpointIO().save_checkpoint(content(), path)
    file, folder = path.stat().st_ino, tmp_path.stat().st_ino
    # The entry before is the list of checkpoints.
    assert done[-3:] == [("synced", file), ("replaced", file), ("synced", folder)]


def test_a_full_disk_does_not_stop_training(tmp_path, monkeypatch, capsys):
    path = tmp_path / "last-step=1.ckpt"
    AtomicCheckpointIO().save_checkpoint(content(1), path)

    def raise_disk_full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", raise_disk_full)
    for _ in range(2):
        AtomicCheckpointIO().save_checkpoint(content(2), path)
        assert "last-step=1.ckpt could not be written to" in capsys.readouterr().err
    assert load_checkpoint(path)["global_step"] == 1


def test_the_newest_readable_checkpoint_is_used(tmp_path):
    for step in (5, 40, 300):
        AtomicCheckpointIO().save_checkpoint(content(step), tmp_path / f"last-step={step}.ckpt")
    assert newest_readable(tmp_path).name == "last-step=300.ckpt"
    broken = tmp_path / "last-step=300.ckpt"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.warns(UserWarning, match="it is cut short or damaged; taking an earlier one"):
        assert newest_readable(tmp_path).name == "last-step=40.ckpt"
    assert newest_readable(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("content_of_it", "fault"),
    [
        (b"", "it is empty"),
        (b"text", "it is a text file"),
        (b"PK\x03\x04\x00\xff", "it is cut short or damaged"),
        (pickle.dumps({}), "it is a pickle"),
        (b"version https://git-lfs.github.com/spec/v1", "it is a git-lfs pointer"),
    ],
)
@pytest.mark.parametrize("choose", [lambda run: checkpoint_of(run, "best"), _checkpoint_to_resume])
def test_a_run_without_a_readable_checkpoint_is_refused_in_one_line_about_the_newest(
    tmp_path, content_of_it, fault, choose, recwarn
):
    for name in ("best-step=2.ckpt", "last-step=3.ckpt"):
        (tmp_path / "checkpoints").mkdir(exist_ok=True)
        (tmp_path / "checkpoints" / name).write_bytes(content_of_it)
    with pytest.raises(
        ValueError, match=f"no readable checkpoint in checkpoints/: .*last-step=3.ckpt cannot be read: {fault}"
    ):
        choose(tmp_path)
    assert not recwarn


class Malicious:
    def __reduce__(self):
        return (os.system, ("touch /tmp/lmrecipes-was-here",))


@pytest.mark.parametrize("case", ["code", "empty", "absent", "other"])
def test_untrusted_checkpoints_are_rejected(tmp_path, case):
    path = tmp_path / "x.ckpt"
    if case == "code":
        torch.save({"state_dict": {}, "x": Malicious()}, path)
    elif case == "empty":
        path.touch()
    elif case == "other":
        torch.save([1], path)
    reasons = {
        "code": "contains pickled objects",
        "empty": "is empty",
        "absent": "does not exist",
        "other": "no state_dict",
    }
    with pytest.raises(ValueError, match=reasons[case]):
        load_checkpoint(path)


def test_a_damaged_byte_is_detected(tmp_path):
    path = tmp_path / "last-step=1.ckpt"
    AtomicCheckpointIO().save_checkpoint({"state_dict": {"w": torch.ones(10_000)}, "global_step": 1}, path)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="it is cut short or damaged"):
        load_checkpoint(path)


def is_noticed(path, data):
    """Whether a checkpoint with this content is refused; loading other tensors would be neither."""
    path.write_bytes(data)
    try:
        loaded = load_checkpoint(path)
    except ValueError:
        return True
    assert torch.equal(loaded["state_dict"]["w"], torch.arange(300.0))
    assert loaded["global_step"] == 1
    return False


def saved_here_and_earlier(tmp_path):
    """The same checkpoint as it is written, and as earlier versions wrote it."""
    saved = {"state_dict": {"w": torch.arange(300.0)}, "global_step": 1}
    AtomicCheckpointIO().save_checkpoint(saved, tmp_path / "last-step=1.ckpt")
    torch.save(saved, tmp_path / "earlier.ckpt")
    return (tmp_path / "last-step=1.ckpt").read_bytes(), (tmp_path / "earlier.ckpt").read_bytes()


def test_damage_of_any_byte_is_noticed(tmp_path):
    """Every bit of the archive's directory, and one of every other byte."""
    content, _ = saved_here_and_earlier(tmp_path)
    directory, path = content.index(b"PK\x01\x02"), tmp_path / "damaged.ckpt"
    bits = [(i, random.randrange(8)) for i in range(directory)]
    path.write_bytes(content)
    with path.open("r+b", buffering=0) as file:
        for i, bit in [*bits, *((i, bit) for i in range(directory, len(content)) for bit in range(8))]:
            os.pwrite(file.fileno(), bytes([content[i] ^ 1 << bit]), i)
            with contextlib.suppress(zipfile.BadZipFile):
                assert not is_intact(path), f"byte {i} of {len(content)}, bit {bit}"
            os.pwrite(file.fileno(), content[i : i + 1], i)
    assert is_intact(path)


def test_a_checkpoint_that_is_cut_or_has_bytes_added_is_noticed(tmp_path):
    content, _ = saved_here_and_earlier(tmp_path)
    for other in (content + b"\0", b"\0" + content, *(content[:i] for i in range(0, len(content), 7))):
        assert is_noticed(tmp_path / "damaged.ckpt", other)


def test_checkpoints_without_a_checksum_open_and_damage_of_theirs_changes_no_tensor(tmp_path):
    _, earlier = saved_here_and_earlier(tmp_path)
    assert not is_noticed(tmp_path / "copy.ckpt", earlier)
    for i in random.sample(range(len(earlier)), 500):
        damaged = bytearray(earlier)
        damaged[i] ^= 1 << random.randrange(8)
        is_noticed(tmp_path / "damaged.ckpt", damaged)


def test_a_tensor_marked_as_a_folder_in_the_archives_directory_is_noticed(tmp_path):
    """No checksum of zip covers the mark, with which torch reads nothing."""
    _, earlier = saved_here_and_earlier(tmp_path)
    damaged = bytearray(earlier)
    entry = earlier.index(b"PK\x01\x02")
    while not earlier[entry + 46 :].startswith(b"earlier/data/0"):
        entry = earlier.index(b"PK\x01\x02", entry + 1)
    damaged[entry + 38] ^= 0x10
    assert is_noticed(tmp_path / "damaged.ckpt", damaged)


def test_a_checkpoint_with_a_checksum_is_one_that_torch_reads(tmp_path):
    saved_here_and_earlier(tmp_path)
    for memory_mapped in (True, False):
        loaded = torch.load(tmp_path / "last-step=1.ckpt", weights_only=True, mmap=memory_mapped)
        assert torch.equal(loaded["state_dict"]["w"], torch.arange(300.0))


def test_damage_of_any_byte_of_a_sharded_checkpoint_is_noticed(group, tmp_path):
    path, w = tmp_path / "last-step=1.ckpt", torch.arange(30.0)
    sharded.write({"state_dict.w": w}, {"global_step": 1}, path, group)
    for file in sorted(path.iterdir()):
        content = file.read_bytes()
        for i in range(0, len(content), 1 if file.name == sharded.MANIFEST else 5):
            damaged = bytearray(content)
            damaged[i] ^= 1 << random.randrange(8)
            file.write_bytes(damaged)
            with contextlib.suppress(ValueError):
                sharded.verify(path)
                # White space in the list of checksums.
                assert file.name == sharded.MANIFEST, f"byte {i} of {file.name}"
                assert torch.equal(load_checkpoint(path)["state_dict"]["w"], w)
        file.write_bytes(content)
    assert torch.equal(load_checkpoint(path)["state_dict"]["w"], w)


def test_a_sharded_checkpoint_of_the_same_step_is_replaced(group, tmp_path):
    path = tmp_path / "last-step=1.ckpt"
    sharded.write({"w": torch.ones(3)}, {}, path, group)
    AtomicCheckpointIO().save_checkpoint(content(1), path)
    assert load_checkpoint(path)["global_step"] == 1
    assert {p.name for p in tmp_path.iterdir()} == {path.name, listing.FILE}


def test_optimizer_state_without_parameter_names_is_rejected_instead_of_dropped():
    state = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"params": [0]}]}
    with pytest.raises(ValueError, match="optimizer state lacks the names of its parameters"):
        states_of({"optimizer_states": [state]}, by_name=False)
    assert states_of({}, by_name=False) == {}
