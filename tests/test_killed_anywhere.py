"""A training that is killed at many moments, and resumed each time, ends like an uninterrupted one."""

import json
import random
import signal
import subprocess
from pathlib import Path

import pytest
import torch

import warm
from conftest import environment
from lmrecipes.checkpoints.io import load_checkpoint
from test_resume import rows

CALLBACKS = [
    {"class_path": "lmrecipes.callbacks.BestCheckpoint"},
    {"class_path": "lmrecipes.callbacks.LastCheckpoint", "init_args": {"every_n_steps": 2}},
    {"class_path": "lmrecipes.callbacks.LossGuard"},
    {"class_path": "fork_and_kill.Killed"},
]
# Moments to kill at, and the range of occurrences (from, to) to choose from; a step has two micro-batches, and every
# second step is saved.
WITHIN_A_STEP = {
    "forward done": (6, 13),
    "backward": (12, 26),
    "between micro-batches": (3, 7),
    "batch begins": (3, 7),
    "before the optimizer": (3, 7),
    "after the optimizer": (3, 7),
}
BETWEEN_STEPS = {"step begins": (3, 7), "step ends": (3, 7)}
WITHIN_A_SAVE = {
    "half written": (2, 3),
    "not on disk yet": (3, 6),
    "before the rename": (2, 3),
    "settings": (1, 1),
}
WITHIN_VALIDATION = {"validation": (1, 3), "validation ends": (1, 1)}


def moments(generator: random.Random) -> list[list]:
    """Nineteen moments in random order."""
    kinds = [
        *WITHIN_A_STEP.items(),
        *3 * [*BETWEEN_STEPS.items()],
        *WITHIN_A_SAVE.items(),
        *WITHIN_VALIDATION.items(),
    ]
    chosen: list[list] = [[where, generator.randint(*times)] for where, times in kinds]
    chosen.append(["anywhere", generator.uniform(0.05, 0.5)])
    generator.shuffle(chosen)
    return chosen


def attempts(folder: Path, plan: list[dict], seconds: float = 300) -> list[list[int]]:
    """Runs the attempts one after the other; returns the exit codes of all ranks of each."""
    path, log = folder / "plan.json", folder / "log.txt"
    path.write_text(json.dumps(plan))
    script = Path(__file__).with_name("fork_and_kill.py")
    done = subprocess.run(
        [warm.python(), script, path, log],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == 0, done.stderr
    codes = json.loads(done.stdout)
    assert len(codes) == len(plan), f"attempt {len(codes)}: {plan[len(codes) - 1]}\n{log.read_text()[-4000:]}"
    return codes


def state(run: Path, step: int) -> dict:
    """Everything that training resumes from, as plain tensors by name."""
    checkpoint = load_checkpoint(run / f"checkpoints/last-step={step}.ckpt")
    assert checkpoint["global_step"] == step
    tensors: dict = {f"memory {i}": m for i, m in enumerate(checkpoint["stream_memory"])}
    flatten({key: checkpoint[key] for key in ("state_dict", "optimizer_states", "lr_schedulers")}, "", tensors)
    return tensors


def flatten(value, name: str, tensors: dict) -> None:
    if isinstance(value, dict | list | tuple):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            flatten(inner, f"{name}.{key}", tensors)
    else:
        tensors[name] = value


def assert_same_state(one: Path, other: Path, step: int) -> None:
    expected, got = state(one, step), state(other, step)
    assert expected.keys() == got.keys()
    equal = {k: torch.equal(v, got[k]) if isinstance(v, torch.Tensor) else v == got[k] for k, v in expected.items()}
    assert [name for name, as_expected in equal.items() if not as_expected] == []
    assert sorted(p.name for p in (other / "checkpoints").glob("*.ckpt")) == sorted(
        p.name for p in (one / "checkpoints").glob("*.ckpt")
    )
    for name in ("train/loss", "val/loss"):
        assert rows(other, name) == rows(one, name)


@pytest.mark.slow
def test_a_training_killed_twenty_times_ends_like_an_uninterrupted_one(small, tmp_path):
    steps = 90
    options = [
        *("fit", *small, "--batch.seq_len=40", "--batch.micro_batch_size=2", "--model.config.dropout=0.1"),
        *(f"--trainer.max_steps={steps}", "--trainer.val_check_interval=5"),
        f"--trainer.callbacks={json.dumps(CALLBACKS)}",
    ]
    plan = [{"arguments": [*options, "--run_dir=a"]}]
    # After there are checkpoints, but before the last saved step is logged.
    plan.append({"arguments": [*options, "--run_dir=b"], "moment": ["after the rename", 2]})
    for i, moment in enumerate([*moments(random.Random(7)), None]):
        plan.append({"arguments": ["fit", "--resume=b", f"--data.num_workers={2 * (i % 2)}"], "moment": moment})
    codes = attempts(tmp_path, plan)
    assert codes == [[0], *[[-signal.SIGKILL]] * 20, [0]]
    assert_same_state(tmp_path / "a", tmp_path / "b", steps)


@pytest.mark.slow
def test_two_ranks_killed_during_background_saves_end_like_an_uninterrupted_run(small, tmp_path):
    steps = 24
    options = [
        *("fit", *small, "--batch.seq_len=40", "--batch.micro_batch_size=1", "--model.config.dropout=0.1"),
        *("--trainer.accelerator=cpu", "--trainer.strategy=fsdp2", "--trainer.devices=2"),
        *(f"--trainer.max_steps={steps}", "--trainer.val_check_interval=8"),
        f"--trainer.callbacks={json.dumps(CALLBACKS)}",
    ]
    # A save writes the ranks' shards first, then the rest, then the manifest. The third entry of each moment is the
    # rank that is killed; the other follows at once.
    kills = [["not on disk yet", 3, 1], ["half written", 2, 0], ["before the optimizer", 5, 1], ["removal", 1, 0]]
    plan = [{"arguments": [*options, "--run_dir=a"], "ranks": 2}]
    for i, moment in enumerate([*kills, None]):
        begin = ["fit", "--resume=b"] if i else [*options, "--run_dir=b"]
        plan.append({"arguments": begin, "moment": moment, "ranks": 2})
    codes = attempts(tmp_path, plan)
    assert codes == [[0, 0], *[[-signal.SIGKILL, -signal.SIGKILL]] * 4, [0, 0]]
    assert_same_state(tmp_path / "a", tmp_path / "b", steps)
