"""A run that was killed and continued ends with the weights of one that was left alone."""

from pathlib import Path

import pytest
import torch

KEEP_EVERY_5 = '{"class_path": "lmrecipes.callbacks.LastCheckpoint", "init_args": {"every_n_steps": 5}}'
BEST = '{"class_path": "lmrecipes.callbacks.BestCheckpoint"}'
KILL_AT_8 = '{"class_path": "killer.KillAt", "init_args": {"step": 8}}'


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
def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(command, small, tmp_path, settings):
    # The first continues from what validation saved at step 6, the others from step 5.
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
def test_settings_of_the_user_win_over_those_of_the_checkpoint(command, small, tmp_path):
    assert command("fit", *small, "--run_dir=a", "--trainer.max_steps=4").returncode == 0
    changed = command("fit", "--resume=a", "--model.optimizer.lr=0.5", "--trainer.max_steps=6")
    assert changed.returncode == 0, changed.stderr
    assert "model.optimizer.lr: 0.0007 -> 0.5" in changed.stdout
    checkpoint = torch.load(tmp_path / "a/checkpoints/last-step=6.ckpt", weights_only=True)
    assert checkpoint["optimizer_states"][0]["param_groups"][0]["initial_lr"] == 0.5
