"""Ctrl-C stops a run with one line that says how to resume."""

import os
import signal
import subprocess

import pytest

import warm
from conftest import environment

KEEP = '[{"class_path": "lmrecipes.callbacks.LastCheckpoint", "init_args": {"every_n_steps": %d}}]'


def interrupted(arguments, folder, after):
    """Exit code, stdout from `after` on, and stderr of a command that gets Ctrl-C once it has printed `after`."""
    process = subprocess.Popen(
        [warm.python(), "-m", "lmrecipes", *arguments],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if after in line:
                break
        # To all processes of the command, as a terminal does.
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, out, err


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_ctrl_c_says_how_to_resume_and_the_run_resumes(small, tmp_path, command, ranks):
    devices = ["--trainer.strategy=ddp", "--trainer.devices=2"] if ranks == 2 else []
    endless = [*small, *devices, "--trainer.max_steps=100000", f"--trainer.callbacks={KEEP % 5}", "--run_dir=a"]
    code, out, err = interrupted(["fit", *endless], tmp_path, "step 12 |")
    assert code == 130, err
    assert err == ""
    last = out.strip().splitlines()[-1]
    (checkpoint,) = (path.stem for path in (tmp_path / "a/checkpoints").glob("*.ckpt"))
    assert last.startswith("interrupted at step ")
    assert last.endswith(f"continue from {checkpoint} with: lmrecipes fit --resume a")
    saved = int(checkpoint.removeprefix("last-step="))
    assert saved % 5 == 0
    resumed = command("fit", "--resume", "a", f"--trainer.max_steps={saved + 3}")
    assert resumed.returncode == 0, resumed.stderr
    assert f"done at step {saved + 3}" in resumed.stdout


@pytest.mark.slow
def test_ctrl_c_before_the_first_checkpoint_does_not_suggest_resuming(small, tmp_path):
    endless = [*small, "--trainer.max_steps=100000", f"--trainer.callbacks={KEEP % 50000}", "--run_dir=a"]
    code, out, err = interrupted(["fit", *endless], tmp_path, "step 3 |")
    assert (code, err) == (130, "")
    assert out.strip().splitlines()[-1].endswith("; no checkpoint was saved yet")


@pytest.mark.slow
def test_ctrl_c_before_training_takes_one_line(small, tmp_path):
    code, _, err = interrupted(["fit", *small, "--run_dir=a"], tmp_path, "run directory")
    assert code == 130
    assert err in ("interrupted\n", "")
