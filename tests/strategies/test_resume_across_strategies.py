"""Runs resume under another strategy and world size; sharded checkpoints are complete and contain no code."""

import csv
import json
import os
import pickle
import shutil
import subprocess
import threading
import zlib
from pathlib import Path

import pytest
import torch
from small_runs import ADAMW, SENSITIVE, strategy_options, weights, with_accumulation

import warm
from conftest import environment
from lmrecipes.__main__ import main
from lmrecipes.checkpoints import listing
from lmrecipes.checkpoints import sharded as sharded_checkpoint
from lmrecipes.checkpoints.io import load_checkpoint, newest_readable
from lmrecipes.strategies.sharded import CheckpointWriter

WAYS = [
    ("1 process", "1x2 tensor parallel"),
    ("2x2 tensor parallel", "1 process"),
    ("2 fsdp2", "2 zero 1"),
    ("2 zero 2", "2 fsdp2"),
    ("2 zero 3", "2 ddp"),
    ("2 ddp", "2 zero 3"),
]
LAST = {"class_path": "lmrecipes.callbacks.LastCheckpoint"}
BEST = {"class_path": "lmrecipes.callbacks.BestCheckpoint"}
SIGNAL = {"class_path": "kill_callbacks.SignalAt", "init_args": {"step": 4, "name": "SIGTERM"}}


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, torch.Tensor]:
    """Weights of an uninterrupted run in one process, created on first use."""
    return {}


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), WAYS)
def test_a_run_resumes_under_another_strategy(before, after, command, small, undisturbed, tmp_path):
    options = [*small, *SENSITIVE, *ADAMW, f"--trainer.callbacks={json.dumps([LAST, SIGNAL])}"]
    if not undisturbed:
        done = command(
            "fit", *options, *strategy_options("1 process"), with_accumulation("1 process"), "--run_dir=undisturbed"
        )
        assert done.returncode == 0, done.stderr
        undisturbed.update(weights(tmp_path / "undisturbed"))
    done = command("fit", *options, *strategy_options(before), with_accumulation(before), "--run_dir=run", SEND="1")
    assert "stopped by SIGTERM at step 5; last-step=5 is saved" in done.stdout, done.stdout + done.stderr
    done = command("fit", "--resume=run", *strategy_options(after), with_accumulation(after))
    assert done.returncode == 0, done.stderr
    assert "done at step 10" in done.stdout
    again = weights(tmp_path / "run")
    assert again.keys() == undisturbed.keys()
    for name, value in undisturbed.items():
        torch.testing.assert_close(again[name], value, atol=4e-3, rtol=0, msg=name)


@pytest.fixture(scope="module")
def sharded(small, tmp_path_factory) -> Path:
    """A run of a few steps with sharded checkpoints."""
    folder = tmp_path_factory.mktemp("sharded")
    words = ["fit", *small, *strategy_options("2 fsdp2"), "--trainer.max_steps=4", "--run_dir=run"]
    words.append(f"--trainer.callbacks={json.dumps([{**LAST, 'init_args': {'every_n_steps': 2}}])}")
    subprocess.run([warm.python(), "-m", "lmrecipes", *words], cwd=folder, env=environment(), check=True, timeout=300)
    return folder / "run"


@pytest.fixture
def checkpoint(sharded, tmp_path) -> Path:
    """A copy of its checkpoint, to be damaged."""
    (path,) = (sharded / "checkpoints").glob("*.ckpt")
    return Path(shutil.copytree(path, tmp_path / "checkpoints" / path.name))


@pytest.fixture
def single_process_checkpoint(group, tmp_path) -> Path:
    """A sharded checkpoint of one process."""
    path = tmp_path / "saved" / "last-step=1.ckpt"
    sharded_checkpoint.write({"state_dict.w": torch.arange(3.0)}, {"global_step": 1}, path, group)
    return path


def test_a_file_left_by_a_kill_does_not_block_the_next_save(group, single_process_checkpoint):
    leftover = single_process_checkpoint.with_name(".last-step=2.ckpt.part")
    leftover.write_text("half")
    listing.note(leftover.parent, ["last-step=2.ckpt"])
    later = single_process_checkpoint.with_name("last-step=2.ckpt")
    sharded_checkpoint.write({"state_dict.w": torch.zeros(3)}, {"global_step": 2}, later, group)
    assert load_checkpoint(later)["global_step"] == 2
    assert not leftover.exists()


@pytest.mark.slow
def test_one_sharded_checkpoint_is_kept(sharded):
    (path,) = (sharded / "checkpoints").glob("*.ckpt")
    assert path.is_dir()
    assert path.name == "last-step=4.ckpt"
    assert load_checkpoint(path)["global_step"] == 4


@pytest.mark.slow
def test_a_sharded_checkpoint_is_exported_to_a_single_file(command, sharded, tmp_path):
    (path,) = (sharded / "checkpoints").glob("*.ckpt")
    words = ["export", f"--run={sharded}", f"--checkpoint={path}", "--format=state_dict", f"--output={tmp_path}"]
    done = command(*words)
    assert done.returncode == 0, done.stderr
    plain = torch.load(tmp_path / "weights.pt", weights_only=True)
    saved = weights(sharded)
    assert {f"network.{name}" for name in plain} == saved.keys()
    assert all(torch.equal(saved[f"network.{name}"], value) for name, value in plain.items())


def _flip_a_bit(checkpoint: Path) -> None:
    part = next(checkpoint.glob("*.distcp"))
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["a flipped bit", "a missing part", "a short part", "no manifest"])
def test_a_damaged_shard_is_detected_and_the_previous_checkpoint_used(harm, checkpoint):
    earlier = checkpoint.with_name("last-step=2.ckpt")
    shutil.copytree(checkpoint, earlier)
    part = next(checkpoint.glob("*.distcp"))
    if harm == "a flipped bit":
        _flip_a_bit(checkpoint)
    elif harm == "a missing part":
        part.unlink()
    elif harm == "a short part":
        part.write_bytes(part.read_bytes()[:-1])
    else:
        (checkpoint / "manifest.json").unlink()
    with pytest.warns(UserWarning, match="cannot be read.*taking an earlier one"):
        assert newest_readable(checkpoint.parent) == earlier


@pytest.mark.parametrize("name", ["rest.pt", ".metadata"])
def test_damage_of_the_other_files_is_detected_too(name, single_process_checkpoint):
    content = bytearray((single_process_checkpoint / name).read_bytes())
    content[len(content) // 2] ^= 1
    (single_process_checkpoint / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        load_checkpoint(single_process_checkpoint)


def test_every_file_is_synced_before_the_folder_is_renamed(group, tmp_path, monkeypatch):
    path, done = tmp_path / "last-step=1.ckpt", []
    sync, replace = os.fsync, os.replace

    def record_sync(handle):
        sync(handle if isinstance(handle, int) else handle.fileno())
        done.append(os.fstat(handle if isinstance(handle, int) else handle.fileno()).st_ino)

    def record_rename(source, target):
        replace(source, target)
        done.append(target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(os, "replace", record_rename)
    sharded_checkpoint.write({"state_dict.w": torch.arange(3.0)}, {"global_step": 1}, path, group)
    before = done[: done.index(path)]
    assert [file.name for file in (path, *path.iterdir()) if file.stat().st_ino not in before] == []
    assert done[-1] == tmp_path.stat().st_ino


@pytest.mark.filterwarnings("ignore:.*is now last-step")
def test_a_sharded_checkpoint_replaces_one_of_the_same_name(group, tmp_path):
    path = tmp_path / "last-step=1.ckpt"
    path.write_bytes(b"somebody's")
    for value in (1.0, 2.0):
        sharded_checkpoint.write({"state_dict.w": torch.tensor([value])}, {"global_step": 1}, path, group)
        assert load_checkpoint(path)["state_dict"]["w"].item() == value
    assert {file.name for file in tmp_path.iterdir()} == {path.name, f"{path.name}.kept", listing.FILE}
    assert path.with_name(f"{path.name}.kept").read_bytes() == b"somebody's"


@pytest.mark.slow
def test_a_sharded_checkpoint_can_be_given_by_path(sharded, small, tmp_path, capsys):
    (path,) = (sharded / "checkpoints").glob("*.ckpt")
    assert main(["validate", f"--run={sharded}", f"--checkpoint={path}", *strategy_options("1 process")]) == 0
    still = ["--model.optimizer.lr=1e-9", "--trainer.max_steps=3", "--trainer.val_check_interval=3"]
    assert main(["fit", *small, *still, f"--init_from={path}", f"--run_dir={tmp_path / 'run'}"]) == 0
    (shown,) = {line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("val/loss")}
    with (tmp_path / "run" / "metrics.csv").open() as file:
        (resumed,) = (row["val/loss"] for row in csv.DictReader(file) if row["val/loss"])
    assert float(resumed) == pytest.approx(float(shown), abs=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [[], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]])
def test_all_ranks_load_the_checkpoint_that_rank_0_chose(launcher, sharded, tmp_path):
    run = Path(shutil.copytree(sharded, tmp_path / "run"))
    (damaged,) = (run / "checkpoints").glob("*.ckpt")
    shutil.copytree(damaged, damaged.with_name("best-step=2.ckpt"))
    _flip_a_bit(damaged)
    words = ["fit", "--resume=run", *strategy_options("2 ddp"), "--trainer.max_steps=5"]
    done = subprocess.run(
        [warm.python(), *launcher, "-m", "lmrecipes", *words],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("is damaged; taking an earlier one") == 1
    assert "done at step 5" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("part", "rank", "background"), [("rest", 0, True), ("shards", 1, False)])
def test_a_full_disk_stops_no_run_and_its_checkpoint_does_not_count(part, rank, background, command, small, tmp_path):
    every = {**LAST, "init_args": {"every_n_steps": 1}}
    full = {"class_path": "fault_callbacks.FullDisk", "init_args": {"part": part, "step": 4, "rank": rank}}
    done = command(
        *("fit", *small, "--trainer.devices=2", "--trainer.strategy=FSDP2Strategy", "--run_dir=run"),
        *(f"--trainer.strategy.async_checkpoints={str(background).lower()}", "--trainer.max_steps=6"),
        *("--trainer.val_check_interval=2", "--group_timeout_minutes=1"),
        f"--trainer.callbacks={json.dumps([every, BEST, full])}",
    )
    assert done.returncode == 5, done.stdout + done.stderr
    warnings = done.stderr.splitlines()
    assert all("could not be written to run/checkpoints: No space left on device" in line for line in warnings)
    # At steps 4, 5 and 6 and at the end, and the best one's at 4 and 6.
    assert len(warnings) >= 5
    kept = {path.name: load_checkpoint(path) for path in (tmp_path / "run" / "checkpoints").glob("*.ckpt")}
    assert kept.keys() == {"best-step=2.ckpt", "last-step=3.ckpt"}
    assert all(f"step={content['global_step']}.ckpt" in name for name, content in kept.items())
    for number in (0, 1):
        seen, saved = json.loads((tmp_path / "run" / f"rank{number}.json").read_text())
        assert saved == {"LastCheckpoint": ["last-step=3.ckpt", 3], "BestCheckpoint": ["best-step=2.ckpt", 2]}
        # Every step has exactly the checkpoints that are kept, never fewer.
        assert seen[1:3] == [["last-step=1.ckpt"], ["best-step=2.ckpt", "last-step=2.ckpt"]]
        assert seen[3:] == [["best-step=2.ckpt", "last-step=3.ckpt"]] * 3


def test_the_replaced_checkpoint_stays_until_the_new_one_is_complete(group, tmp_path, monkeypatch):
    go_on, done = threading.Event(), []
    monkeypatch.setattr(sharded_checkpoint, "write", lambda *_: go_on.wait(10))
    writer = CheckpointWriter(True)
    writer.write({}, {}, tmp_path / "last-step=1.ckpt")
    writer.after_saving(lambda: done.append("arrived"), lambda: done.append("failed"))
    writer.settle()
    assert done == []
    go_on.set()
    writer._thread.join()
    writer.settle()
    assert done == ["arrived"]


class Malicious:
    def __reduce__(self):
        return (print, ("code was run",))


def _push_string(value: str) -> bytes:
    return pickle.SHORT_BINUNICODE + bytes([len(value)]) + value.encode()


def _push_global(module: str, name: str) -> bytes:
    return _push_string(module) + _push_string(name) + pickle.STACK_GLOBAL


# Pickle opcodes before an intact index: they would run when it is loaded. Dotted names walk through modules.
TOUCH = _push_string("touch code-was-run") + pickle.TUPLE1 + pickle.REDUCE + pickle.POP
MODULE = _push_global("torch.distributed.checkpoint.filesystem", "os")
CODE = {
    "a dotted name": _push_global("pathlib", "os.system") + TOUCH,
    "a module's neighbour": _push_global("torch.distributed.checkpoint.filesystem", "os.system") + TOUCH,
    "getattr": _push_global("builtins", "getattr")
    + MODULE
    + _push_string("system")
    + pickle.TUPLE2
    + pickle.REDUCE
    + TOUCH,
    "getattr of a class": _push_global("builtins", "getattr")
    + _push_global("torch.distributed.checkpoint.metadata", "Metadata")
    + _push_string("__init__")
    + pickle.TUPLE2
    + pickle.REDUCE
    + pickle.POP,
}


@pytest.mark.parametrize("where", [".metadata", "rest.pt", *CODE])
def test_a_sharded_checkpoint_with_code_is_rejected(where, single_process_checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    checkpoint = Path(shutil.copytree(single_process_checkpoint, tmp_path / "last-step=1.ckpt"))
    file = checkpoint / ("rest.pt" if where == "rest.pt" else ".metadata")
    if where == ".metadata":
        file.write_bytes(pickle.dumps(Malicious()))
    elif where == "rest.pt":
        torch.save({"state": Malicious()}, file)
    else:
        sound = file.read_bytes()
        file.write_bytes(sound[:2] + CODE[where] + sound[2:])
    manifest = checkpoint / "manifest.json"
    listed = json.loads(manifest.read_text())
    listed[file.name] = [file.stat().st_size, zlib.crc32(file.read_bytes())]
    manifest.write_text(json.dumps(listed))
    with pytest.raises(ValueError, match="refusing to unpickle"):
        load_checkpoint(checkpoint)
    assert "code was run" not in capsys.readouterr().out
    assert not (tmp_path / "code-was-run").exists()
