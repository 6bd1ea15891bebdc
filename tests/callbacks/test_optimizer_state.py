"""Optimizer settings of the user override those of a checkpoint, with a warning, and change nothing else."""

import pytest
import torch

from lmrecipes.__main__ import main


def groups(tmp_path, step):
    checkpoint = torch.load(tmp_path / f"a/checkpoints/last-step={step}.ckpt", weights_only=True)
    (optimizer,) = checkpoint["optimizer_states"]
    assert all(int(state["step"]) == step for state in optimizer["state"].values())
    return optimizer["param_groups"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("option", "value", "key", "expected"),
    [
        ("betas", "[0.5,0.6]", "betas", (0.5, 0.6)),
        ("weight_decay", "0.25", "weight_decay", 0.25),
        ("eps", "1e-3", "eps", 1e-3),
        ("lr", "0.5", "initial_lr", 0.5),
    ],
)
def test_a_changed_setting_overrides_the_checkpoint_and_is_reported(
    small, tmp_path, monkeypatch, capsys, option, value, key, expected
):
    monkeypatch.chdir(tmp_path)
    optimizer = [
        "--model.optimizer=torch.optim.AdamW",
        "--model.optimizer.lr=1e-3",
        "--model.optimizer.betas=[0.8,0.9]",
    ]
    assert main(["fit", *small, *optimizer, "--run_dir=a", "--trainer.max_steps=4"]) == 0
    before = groups(tmp_path, 4)
    capsys.readouterr()
    assert main(["fit", "--resume=a", f"--model.optimizer.{option}={value}", "--trainer.max_steps=6"]) == 0
    assert f"model.optimizer.{option}: " in capsys.readouterr().out
    after = groups(tmp_path, 6)
    assert [tuple(g[key]) if isinstance(g[key], list) else g[key] for g in after] == [expected] * len(after)
    for old, new in zip(before, after, strict=True):
        assert {k: v for k, v in old.items() if k not in (key, "lr")} == {
            k: v for k, v in new.items() if k not in (key, "lr")
        }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_unchanged_settings_are_kept_silently(small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", *small, "--model.optimizer.betas=[0.8,0.9]", "--run_dir=a", "--trainer.max_steps=4"]) == 0
    assert main(["fit", "--resume=a", "--trainer.max_steps=6"]) == 0
    assert [tuple(group["betas"]) for group in groups(tmp_path, 6)] == [(0.8, 0.9)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_different_optimizer_is_rejected(small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", *small, "--run_dir=a", "--trainer.max_steps=4"]) == 0
    capsys.readouterr()
    assert main(["fit", "--resume=a", "--model.optimizer=torch.optim.SGD", "--trainer.max_steps=6"]) == 2
    (error,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert "the optimizer states of torch.optim.Adam and torch.optim.SGD are incompatible" in error
    assert "--init_from a" in error
    # The run still resumes with its own optimizer.
    assert main(["fit", "--resume=a", "--trainer.max_steps=6"]) == 0
