"""Flags of a first try work as Lightning's users know them: few steps, few batches, no logs, no progress."""

import csv
import json

import pytest

from lmrecipes.__main__ import main


@pytest.fixture
def fit(small, tmp_path, monkeypatch, capsys):
    """Trains the small recipe in `run`; returns what was printed."""
    monkeypatch.chdir(tmp_path)

    def train(*options):
        assert main(["fit", *small, "--run_dir=run", *options]) == 0
        return "".join(capsys.readouterr())

    return train


def rows(run):
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.filterwarnings("default")
def test_fewer_steps_than_the_warm_up_are_trained_with_a_warning(fit, tmp_path):
    printed = fit("--model.schedule.warmup_steps=100", "--trainer.max_steps=5")
    assert "warmup_steps is 100, but trainer.max_steps is 5: warming up for 2 steps" in printed
    assert [row["step"] for row in rows(tmp_path / "run") if row["train/loss"]] == ["1", "2", "3", "4", "5"]


@pytest.mark.filterwarnings("ignore")
def test_fast_dev_run_trains_and_validates_whole_steps_and_leaves_nothing(fit, tmp_path):
    printed = fit("--trainer.fast_dev_run=2", "--batch.micro_batch_size=1")
    assert "2 steps and a validation ran; nothing was saved" in printed
    assert "nan" not in printed
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore")
def test_overfit_batches_repeats_the_first_batches(fit, tmp_path):
    fit(
        *("--trainer.overfit_batches=1", "--trainer.max_steps=80", "--trainer.log_every_n_steps=20"),
        *("--model.optimizer.lr=0.02", "--batch.micro_batch_size=2", "--trainer.val_check_interval=80"),
    )
    losses = [float(row["train/loss"]) for row in rows(tmp_path / "run") if row["train/loss"]]
    assert losses[-1] < 0.5 < losses[0]


@pytest.mark.filterwarnings("default")
def test_a_limit_of_one_evaluation_batch_gives_a_figure(fit, tmp_path):
    printed = fit("--trainer.limit_val_batches=1", "--batch.val.seq_len=8", "--batch.val.mem_len=16")
    assert (
        "limit_val_batches is 1, but the first 2 batches fill the memory without being scored: evaluating 3" in printed
    )
    assert all(float(row["val/loss"]) > 0 for row in rows(tmp_path / "run") if row["val/loss"])
    assert main(["test", "--run=run", "--trainer.limit_test_batches=1"]) == 0
    assert json.loads((tmp_path / "run/results.json").read_text())[0]["metrics"]["test/loss"] > 0


@pytest.mark.filterwarnings("ignore")
def test_training_without_logs_and_progress_is_silent(fit, tmp_path):
    printed = fit("--trainer.log_every_n_steps=0", "--trainer.enable_progress_bar=false")
    assert "ms/batch" not in printed
    assert "eval at" not in printed
    assert [row["step"] for row in rows(tmp_path / "run")] == ["6", "12"]


@pytest.mark.filterwarnings("ignore")
def test_the_first_loss_after_a_resume_is_the_uninterrupted_runs(fit, small, tmp_path):
    options = ["--trainer.log_every_n_steps=5", "--trainer.val_check_interval=3"]
    options.append("--model.schedule=lmrecipes.optim.Constant")
    fit(*options)
    assert main(["fit", *small, *options, "--run_dir=half", "--trainer.max_steps=8"]) == 0
    assert main(["fit", "--resume=half", "--trainer.max_steps=12"]) == 0
    losses = [
        {r["step"]: r["train/loss"] for r in rows(tmp_path / name) if r["train/loss"]} for name in ("run", "half")
    ]
    assert losses[0] == losses[1]
    assert list(losses[0]) == ["5", "10"]


@pytest.mark.filterwarnings("ignore")
def test_training_without_checkpoints_says_so(fit, tmp_path):
    printed = fit("--trainer.enable_checkpointing=false", "--trainer.max_steps=3")
    assert "done at step 3; no checkpoint was kept" in printed
    assert not list((tmp_path / "run").rglob("*.ckpt"))
