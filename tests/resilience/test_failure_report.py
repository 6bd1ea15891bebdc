"""A failure in one rank stops all ranks quickly with one line; a hang is reported with its location."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from test_signals import same_weights

import warm
from conftest import environment

KEEP = '{"class_path": "lmrecipes.callbacks.LastCheckpoint", "init_args": {"every_n_steps": 5}}'
TWO_RANKS = ["--trainer.strategy=ddp", "--trainer.devices=2"]
LAUNCHERS = {
    "lightning": [warm.python(), "-m", "lmrecipes"],
    "torchrun": [
        *(warm.python(), "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
        *("-m", "lmrecipes"),
    ],
}
ONWARD = "continue with: lmrecipes fit --resume a"


def fault(**init_args):
    return json.dumps({"class_path": "fault_callbacks.Fault", "init_args": init_args})


def watchdog(**init_args):
    return json.dumps({"class_path": "lmrecipes.callbacks.Watchdog", "init_args": init_args})


def guard(**init_args):
    return json.dumps({"class_path": "lmrecipes.callbacks.LossGuard", "init_args": init_args})


def remaining_processes(folder: Path) -> list[int]:
    """Processes that still run in a folder."""
    pids = []
    for path in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if path.resolve() == folder and (path.parent / "status").read_text().split("State:")[1].strip()[0] != "Z":
                pids.append(int(path.parent.name))
        except OSError:
            continue
    return pids


@pytest.fixture
def failing(small, tmp_path):
    """Runs `fit` on two ranks until it fails; returns exit code, lines that begin with `error:`, and stderr."""

    def run(*callbacks: str, launcher: str = "lightning", more: tuple[str, ...] = ()):
        options = [*small, *TWO_RANKS, f"--trainer.callbacks=[{', '.join((KEEP, *callbacks))}]", "--run_dir=a", *more]
        try:
            done = subprocess.run(
                [*LAUNCHERS[launcher], "fit", *options],
                cwd=tmp_path,
                env=environment(),
                capture_output=True,
                text=True,
                timeout=120,
            )
            deadline = time.monotonic() + 10
            while (left := remaining_processes(tmp_path)) and time.monotonic() < deadline:
                time.sleep(0.1)
            assert left == []
        finally:
            for pid in remaining_processes(tmp_path):
                os.kill(pid, signal.SIGKILL)
        lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
        assert len(lines) == 1, done.stderr
        return done.returncode, lines[0], done.stderr

    return run


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_raises_stops_the_others_and_is_reported(failing, tmp_path, launcher, rank):
    code, line, err = failing(fault(kind="raise", step=7, rank=rank), launcher=launcher)
    assert code == 1
    assert line.startswith(f"error: rank {rank} on ")
    assert line.endswith(
        f" failed at step 7: RuntimeError: the disk is on fire; traceback: a/errors/rank{rank}.txt; {ONWARD}"
    )
    (details,) = (tmp_path / "a/errors").glob("[!.]*")
    assert details.name == f"rank{rank}.txt"
    assert "in on_train_batch_start" in details.read_text()
    if launcher == "lightning":
        assert err == line + "\n"
    else:
        # The launcher's report blames the right rank.
        assert err.split("Root Cause")[1].split("rank      : ")[1].startswith(str(rank))


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_is_named_by_another(failing, launcher, rank):
    code, line, err = failing(fault(kind="kill", step=7, rank=rank), launcher=launcher)
    # Under Lightning's launcher the first rank is the command itself.
    assert code == (-signal.SIGKILL if (launcher, rank) == ("lightning", 0) else 1)
    assert line.startswith(f"error: rank {rank} on ")
    assert "SIGKILL" in line
    assert "out of memory? see dmesg" in line
    assert line.endswith(f", at about step 7; {ONWARD}")
    if (launcher, rank) == ("lightning", 1):
        assert "was killed by SIGKILL" in line
    if launcher == "lightning":
        assert err == line + "\n"


@pytest.mark.slow
def test_input_rejected_before_training_takes_one_line_and_leaves_no_run(failing, tmp_path):
    code, line, err = failing(fault(kind="", step=0, rank=1, where="setup"))
    assert code == 2
    assert err == line + "\n"
    assert line.endswith("that number will not do")
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "doing"),
    [
        ("training", "the training step"),
        ("validation", "a validation step"),
        ("checkpoint", "writing a checkpoint"),
    ],
)
def test_a_hanging_rank_reports_where(failing, tmp_path, where, doing):
    step = {"training": 7, "validation": 6, "checkpoint": 5}[where]
    code, line, err = failing(
        watchdog(timeout_minutes=0.08),
        fault(kind="hang", step=step, rank=1, where=where),
    )
    assert code == 4
    assert err == line + "\n"
    assert line.startswith("error: rank 1 on ")
    assert f" hangs at step {step} in {doing}: no progress for 0.08 minutes; stacks of all threads: " in line
    stacks = {path.name: path.read_text() for path in (tmp_path / "a/errors").glob("rank*")}
    assert sorted(stacks) == ["rank0-stacks.txt", "rank1-stacks.txt"]
    assert "fault_callbacks.py" in stacks["rank1-stacks.txt"]
    assert "fault_callbacks.py" not in stacks["rank0-stacks.txt"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["stop", "hang holding the GIL"])
def test_a_rank_that_cannot_report_itself_is_named_by_another(failing, kind):
    code, line, _ = failing(watchdog(timeout_minutes=0.1), fault(kind=kind, step=7, rank=1))
    assert code == 4
    assert line.startswith("error: rank 0 on ")
    assert "no answer from rank 1, which may be why" in line


@pytest.mark.slow
def test_a_hanging_single_process_is_stopped(command, small, tmp_path):
    callbacks = f"[{KEEP}, {watchdog(timeout_minutes=0.05)}, {fault(kind='hang', step=7)}]"
    done = command("fit", *small, f"--trainer.callbacks={callbacks}", "--run_dir=a")
    assert done.returncode == 4
    assert "hangs at step 7 in the training step" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [[], ["--batch.micro_batch_size=1"]], ids=["no accumulation", "accumulation"])
def test_a_bad_loss_in_one_rank_stops_all_before_the_step(failing, command, tmp_path, accumulation):
    bad = fault(kind="nan", step=7, rank=1)
    code, line, err = failing(guard(), bad, more=tuple(accumulation))
    assert code == 3
    assert err == line + "\n"
    assert line == (
        "error: stopped by LossGuard at step 8: the loss is nan; last-step=5 is the last good checkpoint; continue "
        "from it with other settings, such as a lower learning rate: lmrecipes fit --resume a --model.optimizer.lr ..."
    )
    assert [path.name for path in (tmp_path / "a/checkpoints").glob("*.ckpt")] == ["last-step=5.ckpt"]
    resumed = command("fit", "--resume=a", WELL="1")
    assert resumed.returncode == 0, resumed.stderr


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "deepspeed_zero2", "deepspeed_zero3"])
def test_a_bad_gradient_in_one_rank_stops_all_under_any_strategy(failing, tmp_path, strategy):
    bad = fault(kind="gradient of the loss", step=7, rank=1)
    code, line, _ = failing(guard(), bad, more=(f"--trainer.strategy={strategy}",))
    assert code == 3
    assert line.startswith("error: stopped by LossGuard at step 8: a gradient is not finite (loss ")
    assert "; last-step=5 is the last good checkpoint; " in line
    assert [path.name for path in (tmp_path / "a/checkpoints").glob("*.ckpt")] == ["last-step=5.ckpt"]


@pytest.mark.slow
def test_skipped_steps_survive_a_kill(command, small, tmp_path):
    bad = fault(kind="gradient", step=3, rank=1, last=4)
    signalled = '{"class_path": "kill_callbacks.SignalAt", "init_args": {"step": 6, "name": "SIGTERM"}}'
    callbacks = f"[{KEEP}, {guard(action='skip')}, {bad}, {signalled}]"
    options = [*small, *TWO_RANKS, f"--trainer.callbacks={callbacks}"]
    whole = command("fit", *options, "--run_dir=a")
    assert whole.returncode == 0, whole.stderr
    stopped = command("fit", *options, "--run_dir=b", SEND="1")
    assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr
    resumed = command("fit", "--resume=b")
    assert resumed.returncode == 0, resumed.stderr
    same_weights(tmp_path / "a", tmp_path / "b")
    for run in ("a", "b"):
        header, *_, final = (tmp_path / run / "metrics.csv").read_text().splitlines()
        skipped = dict(zip(header.split(","), final.split(","), strict=True))["train/skipped_steps"]
        assert float(skipped or 2) == 2


@pytest.mark.slow
def test_the_collective_timeout_can_be_set(failing):
    code, line, _ = failing(fault(kind="hang", step=7, rank=1), more=("--group_timeout_minutes=0.1",))
    assert code == 1
    assert line.startswith("error: rank 0 on ")
    assert "imed out" in line
