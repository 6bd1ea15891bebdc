"""A signal stops a run between two steps without loss; the resumed run equals an uninterrupted one."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import warm
from conftest import environment, wait_until
from test_resume import rows, weights

KEEP = '{"class_path": "lmrecipes.callbacks.LastCheckpoint", "init_args": {"every_n_steps": 50}}'
BEST = '{"class_path": "lmrecipes.callbacks.BestCheckpoint"}'
TWO_RANKS = ["--trainer.strategy=ddp", "--trainer.devices=2"]


def sender(**init_args):
    return json.dumps({"class_path": "kill_callbacks.SignalAt", "init_args": init_args})


def same_weights(one: Path, other: Path) -> None:
    expected, got = weights(one), weights(other)
    assert expected.keys() == got.keys()
    assert [name for name, tensor in expected.items() if not tensor.equal(got[name])] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "signalled"),
    [
        ([], {"name": "SIGTERM", "step": 7}),
        (["--batch.micro_batch_size=1"], {"name": "SIGUSR1", "step": 7}),
        ([*TWO_RANKS, "--batch.micro_batch_size=1"], {"name": "SIGTERM", "step": 7, "rank": 1}),
    ],
    ids=["one process", "accumulation", "two ranks and accumulation"],
)
def test_a_signalled_run_loses_no_step(command, small, tmp_path, settings, signalled):
    options = [*small, *settings, f"--trainer.callbacks=[{BEST}, {KEEP}, {sender(**signalled)}]"]
    assert command("fit", *options, "--run_dir=a").returncode == 0
    stopped = command("fit", *options, "--run_dir=b", SEND="1")
    assert stopped.returncode == 128 + signal.Signals[signalled["name"]], stopped.stderr
    assert stopped.stderr == ""
    assert stopped.stdout.splitlines()[-1] == (
        f"stopped by {signalled['name']} at step 8; last-step=8 is saved; continue with: lmrecipes fit --resume b"
    )
    resumed = command("fit", "--resume", "b")
    assert resumed.returncode == 0, resumed.stderr
    same_weights(tmp_path / "a", tmp_path / "b")
    for name in ("train/loss", "val/loss"):
        assert rows(tmp_path / "b", name) == rows(tmp_path / "a", name)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [[], TWO_RANKS], ids=["one process", "two ranks"])
def test_a_signalled_validation_is_repeated(command, small, tmp_path, settings):
    signalled = sender(name="SIGUSR1", step=6, batch=1, rank=1 if settings else 0)
    options = [*small, *settings, f"--trainer.callbacks=[{BEST}, {KEEP}, {signalled}]"]
    assert command("fit", *options, "--run_dir=a").returncode == 0
    stopped = command("fit", *options, "--run_dir=b", SEND="1")
    assert stopped.returncode == 128 + signal.SIGUSR1, stopped.stderr
    assert "stopped by SIGUSR1 at step 6; last-step=6 is saved" in stopped.stdout
    assert "eval at step 6" not in stopped.stdout
    resumed = command("fit", "--resume", "b")
    assert resumed.returncode == 0, resumed.stderr
    assert "eval at step 6" in resumed.stdout
    same_weights(tmp_path / "a", tmp_path / "b")
    for name in ("train/loss", "val/loss"):
        assert rows(tmp_path / "b", name) == rows(tmp_path / "a", name)


@pytest.mark.slow
def test_a_job_reports_whether_it_is_requeued(command, small, tmp_path):
    program = tmp_path / "bin/scontrol"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nif [ "$1" = requeue ]; then echo $2 >> {tmp_path}/requeued; fi\n')
    program.chmod(0o755)
    both = ", ".join(sender(name="SIGUSR1", step=step) for step in (3, 7))
    options = [*small, f"--trainer.callbacks=[{KEEP}, {both}]", "--run_dir=a"]
    job = {"SLURM_JOB_ID": "17", "SLURM_JOB_NAME": "lm", "SEND": "1", "PATH": f"{program.parent}:{os.environ['PATH']}"}
    first = command("fit", *options, **job)
    assert first.returncode == 128 + signal.SIGUSR1, first.stderr
    assert first.stdout.splitlines()[-1] == "stopped by SIGUSR1 at step 4; last-step=4 is saved; job 17 is requeued"
    second = command("fit", "--resume=a", "--max_requeues=1", **job)
    assert second.returncode == 128 + signal.SIGUSR1, second.stderr
    assert second.stdout.splitlines()[-1] == (
        "stopped by SIGUSR1 at step 8; last-step=8 is saved; job 17 is not requeued: it was requeued 1 times, "
        "and --max_requeues is 1; continue with: lmrecipes fit --resume a"
    )
    assert (tmp_path / "requeued").read_text() == "17\n"


def has_handler(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    caught = Path(f"/proc/{pid}/status").read_text().split("SigCgt:")[1].split()[0]
    return bool(int(caught, 16) >> (number - 1) & 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_before_training_a_signal_stops_the_command_at_once(small, tmp_path, name):
    number = signal.Signals[name]
    process = subprocess.Popen(
        # Once all imports are done.
        [sys.executable, "-m", "lmrecipes", "fit", *small, "--run_dir=a"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until("handler", lambda: has_handler(process.pid, number), 60)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (128 + number, "", "")


@pytest.mark.slow
def test_a_signal_after_the_end_changes_nothing(small, tmp_path):
    with subprocess.Popen(
        [warm.python(), "-m", "lmrecipes", "fit", *small, "--run_dir=a"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("done at step"):
                process.terminate()
    assert process.returncode == 0
