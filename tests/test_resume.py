"""A killed and resumed run ends with the weights of an uninterrupted one."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

from lmrecipes.__main__ import main

KEEP_EVERY_5 = '{"class_path": "lmrecipes.callbacks.LastCheckpoint", "init_args": {"every_n_steps": 5}}'
BEST = '{"class_path": "lmrecipes.callbacks.BestCheckpoint"}'
KILL_AT_8 = '{"class_path": "kill_callbacks.KillAt", "init_args": {"step": 8}}'


def weights(run: Path) -> dict:
    (path,) = (run / "checkpoints").glob("last-*.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["global_step"] == 12
    return {**checkpoint["state_dict"], **{f"memory {i}": m for i, m in enumerate(checkpoint["stream_memory"])}}


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [[], ["--batch.micro_batch_size=2", "--data.num_workers=2"], ["--batch.seq_len=150", "--batch.mem_len=60"]],
    ids=["from the best checkpoint", "accumulation and workers", "across an epoch's end"],
)
def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(command, small, tmp_path, settings):
    # The first resumes from the checkpoint of the validation at step 6, the others from step 5.
    best = "" if settings else f"{BEST}, "
    options = [*small, *settings, f"--trainer.callbacks=[{best}{KEEP_EVERY_5}, {KILL_AT_8}]"]
    undisturbed = command("fit", *options, "--run_dir=a")
    assert undisturbed.returncode == 0, undisturbed.stderr
    killed = command("fit", *options, "--run_dir=b", KILL="1")
    assert killed.returncode == -9, killed.stderr
    resumed = command("fit", "--resume", "b")
    assert resumed.returncode == 0, resumed.stderr
    expected, got = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert expected.keys() == got.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, got[name]), name


@pytest.mark.slow
def test_the_users_settings_override_those_of_the_checkpoint(command, small, tmp_path):
    assert command("fit", *small, "--run_dir=a", "--trainer.max_steps=4").returncode == 0
    changed = command("fit", "--resume=a", "--model.optimizer.lr=0.5", "--trainer.max_steps=6")
    assert changed.returncode == 0, changed.stderr
    assert "model.optimizer.lr: 0.0007 -> 0.5" in changed.stdout
    checkpoint = torch.load(tmp_path / "a/checkpoints/last-step=6.ckpt", weights_only=True)
    assert checkpoint["optimizer_states"][0]["param_groups"][0]["initial_lr"] == 0.5


def rows(run: Path, name: str) -> list[tuple[str, str]]:
    with (run / "metrics.csv").open() as file:
        return [(row["step"], row[name]) for row in csv.DictReader(file) if row.get(name)]


@pytest.mark.slow
@pytest.mark.parametrize("during", ["validation", "step"])
def test_a_killed_run_logs_the_same_as_an_uninterrupted_one(command, small, tmp_path, during):
    kill = {"class_path": "kill_callbacks.KillAt", "init_args": {"step": 6, "validation": during == "validation"}}
    every_3 = KEEP_EVERY_5.replace("5", "3")
    options = [*small, "--trainer.val_check_interval=3", f"--trainer.callbacks=[{BEST}, {every_3}, {json.dumps(kill)}]"]
    assert command("fit", *options, "--run_dir=a").returncode == 0
    assert command("fit", *options, "--run_dir=b", KILL="1").returncode == -9
    resumed = command("fit", "--resume", "b")
    assert resumed.returncode == 0, resumed.stderr
    for name in ("val/loss", "train/loss"):
        assert rows(tmp_path / "b", name) == rows(tmp_path / "a", name)
    assert [step for step, _ in rows(tmp_path / "b", "val/loss")] == ["3", "6", "9", "12"]
    assert [step for step, _ in rows(tmp_path / "b", "train/loss")] == [str(n) for n in range(1, 13)]
    assert {epoch for _, epoch in rows(tmp_path / "b", "epoch")} == {"0"}
    # A finished run that is extended also logs the right steps.
    further = command("fit", "--resume", "b", "--trainer.max_steps=15")
    assert further.returncode == 0, further.stderr
    assert [step for step, _ in rows(tmp_path / "b", "val/loss")] == ["3", "6", "9", "12", "15"]
    assert [step for step, _ in rows(tmp_path / "b", "train/loss")] == [str(n) for n in range(1, 16)]
    assert "epoch 0 | step 15 |" in further.stdout
    assert {epoch for _, epoch in rows(tmp_path / "b", "epoch")} == {"0"}
    assert (tmp_path / "b/checkpoints/last-step=15.ckpt").is_file()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stops", [(4, 14), (10, 14), (20, 24), (23, 26)])
def test_a_finished_run_that_is_extended_counts_its_epochs_correctly(small, tmp_path, monkeypatch, stops):
    monkeypatch.chdir(tmp_path)
    first, last = stops
    assert main(["fit", *small, "--batch.seq_len=100", "--run_dir=b", f"--trainer.max_steps={first}"]) == 0
    assert main(["fit", "--resume=b", f"--trainer.max_steps={last}"]) == 0
    with (tmp_path / "b/metrics.csv").open() as file:
        logged = {int(row["step"]): int(row["epoch"]) for row in csv.DictReader(file) if row["train/loss"]}
    assert logged == {step: (step - 1) // 10 for step in range(1, last + 1)}
    (path,) = (tmp_path / "b/checkpoints").glob("last-*.ckpt")
    assert torch.load(path, weights_only=True)["epoch"] == -(-last // 10)  # as at the end of any run


@pytest.mark.slow
def test_a_moved_run_is_tested_and_resumed_with_its_best_checkpoint(command, small, tmp_path):
    from lmrecipes.checkpoints.io import load_checkpoint

    keep = f"--trainer.callbacks=[{BEST}, {KEEP_EVERY_5}]"
    assert command("fit", *small, keep, "--run_dir=a").returncode == 0
    shutil.move(tmp_path / "a", tmp_path / "elsewhere")
    tested = command("test", "--run=elsewhere")
    assert tested.returncode == 0, tested.stderr
    # With so high a learning rate nothing improves on the best checkpoint.
    resumed = command("fit", "--resume=elsewhere", "--trainer.max_steps=18", "--model.optimizer.lr=100")
    assert resumed.returncode == 0, resumed.stderr
    assert "dirpath" not in resumed.stderr
    assert sorted(path.name for path in (tmp_path / "elsewhere/checkpoints").glob("*.ckpt")) == [
        "best-step=12.ckpt",
        "last-step=18.ckpt",
    ]
    state = load_checkpoint(tmp_path / "elsewhere/checkpoints/last-step=18.ckpt")["callbacks"]
    assert [value["best_model_path"] for key, value in state.items() if "BestCheckpoint" in key] == [
        "best-step=12.ckpt"
    ]
    assert not (tmp_path / "a").exists()
