"""A disk that takes no more costs no training: saves are tried again, and a run that ends unsaved says so."""

import errno
import os
import resource
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from lightning.pytorch import Callback

from lmrecipes.__main__ import main
from lmrecipes.callbacks import LastCheckpoint
from lmrecipes.checkpoints import io
from lmrecipes.data.prepared.cache import writing_to
from lmrecipes.loggers import RunCSVLogger, TensorBoardLogger
from lmrecipes.runtime.disk_space import refusal

pytestmark = pytest.mark.filterwarnings("ignore")
COMMANDS = pytest.mark.parametrize("fit", [["fit"], ["fabric", "fit"]], ids=" ".join)
EVERY_3_STEPS = [
    '--trainer.callbacks=[{"class_path": "lmrecipes.callbacks.LastCheckpoint", "init_args": {"every_n_steps": 3}}, '
    '{"class_path": "lmrecipes.callbacks.BestCheckpoint"}]',
    "--trainer.val_check_interval=3",
]


def set_largest_file(n_bytes):
    """The kernel refuses larger files with EFBIG, as file systems and quotas do."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, resource.RLIM_INFINITY))


@contextmanager
def files_up_to(n_bytes):
    set_largest_file(n_bytes)
    try:
        yield
    finally:
        set_largest_file(resource.RLIM_INFINITY)


class FullAfter(Callback):
    """From a step on files may not be larger than some bytes."""

    def __init__(self, step: int = 7) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, *_) -> None:
        if trainer.global_step == self.step:
            set_largest_file(10_000)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    set_largest_file(resource.RLIM_INFINITY)


def weights(run, step):
    return io.load_checkpoint(run / "checkpoints" / f"last-step={step}.ckpt")["state_dict"]


@COMMANDS
def test_a_run_that_ends_unsaved_says_so_and_continues_once_there_is_room(fit, small, here, capsys):
    full = '--trainer.callbacks+={"class_path": "test_full_disk.FullAfter"}'
    assert main([*fit, *small, *EVERY_3_STEPS, "--run_dir=whole"]) == 0
    assert main([*fit, *small, *EVERY_3_STEPS, full, "--run_dir=run"]) == 5
    set_largest_file(resource.RLIM_INFINITY)
    printed = capsys.readouterr()
    assert "done at step 12, but its last weights could not be written: make room for run; then" in printed.out
    # At steps 9 and 12, of both kinds, and at the end.
    failures = [line for line in printed.err.splitlines() if "could not be written to run/checkpoints" in line]
    assert len(failures) >= 4
    assert all("File too large" in line and "needed" in line and "free" in line for line in failures)
    left = sorted(path.name for path in (here / "run/checkpoints").iterdir())
    assert left == [".written.json", "best-step=6.ckpt", "last-step=6.ckpt"]
    assert main([*fit, "--resume=run", f"--trainer.callbacks={here}/none.yaml"]) == 2
    (here / "none.yaml").write_text("[{class_path: lmrecipes.callbacks.LastCheckpoint}]")
    assert main([*fit, "--resume=run", f"--trainer.callbacks={here}/none.yaml"]) == 0
    whole, resumed = (weights(here / name, 12) for name in ("whole", "run"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@COMMANDS
def test_room_is_made_by_what_a_checkpoint_replaces_while_a_whole_one_stays(fit, small, here, monkeypatch, capsys):
    save = torch.save

    def onto_a_small_disk(content, file):
        # Room for two checkpoints.
        if len(list((here / "run/checkpoints").glob("*.ckpt"))) >= 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(content, file)

    monkeypatch.setattr(io.torch, "save", onto_a_small_disk)
    monkeypatch.setattr(io.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    # The best one stays at step 3.
    assert main([*fit, *small, *EVERY_3_STEPS, "--model.optimizer.lr=5.0", "--run_dir=run"]) == 0
    assert sorted(path.name for path in (here / "run/checkpoints").glob("*.ckpt"))[1] == "last-step=12.ckpt"
    assert "No space left on device" in capsys.readouterr().err


def test_a_checkpoint_is_only_removed_for_a_newer_one_if_a_whole_one_stays_and_room_is_what_lacks(
    tmp_path, monkeypatch
):
    path, before = tmp_path / "last-step=2.ckpt", tmp_path / "last-step=1.ckpt"
    monkeypatch.setattr(io.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    plugin = io.AtomicCheckpointIO()
    plugin.save_checkpoint({"state_dict": {}}, before)
    fits = 1000 + before.stat().st_size
    io.warn_unwritten(path, OSError(errno.ENOSPC, "full"), fits)
    assert not io.make_room(path)
    plugin.save_checkpoint({"state_dict": {}}, tmp_path / "best-step=1.ckpt")
    hopeless = ((errno.EROFS, fits), (errno.EFBIG, fits), (errno.ENOSPC, 999), (errno.ENOSPC, fits + 1))
    for number, needed in hopeless:
        io.warn_unwritten(path, OSError(number, "full"), needed)
        assert not io.make_room(path)
    for number in (errno.ENOSPC, errno.EDQUOT):
        plugin.save_checkpoint({"state_dict": {}}, before)
        io.warn_unwritten(path, OSError(number, "full"), fits)
        assert io.make_room(path)
        assert [p.name for p in tmp_path.glob("*.ckpt")] == ["best-step=1.ckpt"]


def test_rows_of_metrics_wait_in_memory_until_they_fit(tmp_path, capsys):
    def log(logger):
        for step in range(30):
            logger.log_metrics({"a": step, **({"b": 2} if step > 20 else {})}, step)

    whole = RunCSVLogger(tmp_path / "whole")
    log(whole)
    whole.save()
    logger = RunCSVLogger(tmp_path / "run")
    with files_up_to(40):
        log(logger)
        logger.save()
    logger.finalize("success")
    assert (tmp_path / "run/metrics.csv").read_bytes() == (tmp_path / "whole/metrics.csv").read_bytes()
    assert capsys.readouterr().err.count("its rows wait in memory") == 1


def test_the_number_in_an_error_of_safetensors_is_read(tmp_path):
    with pytest.raises(safetensors.SafetensorError) as raised, files_up_to(1000):
        safetensors.torch.save_file({"a": torch.zeros(1000)}, tmp_path / "a.safetensors")
    assert refusal(raised.value).errno == errno.EFBIG


def test_tensorboard_gives_its_file_up_and_training_goes_on(tmp_path, capsys):
    logger = TensorBoardLogger()
    logger.begin(tmp_path, "")
    logger.experiment.flush()
    with files_up_to(200):
        for step in range(100):
            logger.log_metrics({"a": step}, step)
            logger.save()
        logger.finalize("success")
    assert capsys.readouterr().err.count("TensorBoard's file is not continued: File too large") == 1


@pytest.mark.parametrize("form", ["state_dict", "torch_export"])
def test_an_export_without_room_leaves_no_file_and_names_the_folder(form, small, here, capsys):
    assert main(["fit", *small, "--run_dir=run", "--trainer.max_steps=3"]) == 0
    with files_up_to(5000):
        assert main(["export", "--run=run", f"--format={form}", "--output=out"]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(lines) == 1
    assert lines[0].startswith("error: out was not written: File too large; ")
    assert not (here / "out").exists()


def test_a_cache_without_room_is_named(tmp_path):
    write = partial((tmp_path / "tokens.bin").write_bytes, bytes(100))
    message = rf"data.cache_dir {tmp_path} was not written to: File too large; .* free"
    with pytest.raises(ValueError, match=message), files_up_to(10), writing_to(tmp_path):
        write()


def test_the_last_checkpoint_knows_whether_the_state_is_saved(tmp_path):
    last = LastCheckpoint()
    last.dirpath = str(tmp_path)
    trainer = SimpleNamespace(global_step=3)
    assert not last.is_saved(trainer)
    # As of a resumed run with no step left to do.
    (tmp_path / "last-step=3.ckpt").touch()
    assert last.is_saved(trainer)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES], ids=errno.errorcode.get)
def test_an_error_of_the_system_names_its_file_and_of_a_full_disk_the_room(number, monkeypatch, tmp_path, capsys):
    def refuse(path, *_, **__):
        raise OSError(number, os.strerror(number), str(path))

    (tmp_path / "config.yaml").touch()
    (tmp_path / "metrics.csv").write_text("step,train/loss\n1,2.0\n2,1.0\n")
    monkeypatch.setattr("lmrecipes.runs.plots.replacing", refuse)
    assert main(["plot", str(tmp_path), "--output", str(tmp_path / "a.png")]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"error: {tmp_path}/a.png: {os.strerror(number)}")
    assert ("free" in line) == (number == errno.ENOSPC)
