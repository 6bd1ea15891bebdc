"""Losses and metrics do not depend on world size or accumulation."""

import csv
import json

import pytest
import torch


def losses(run):
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows if row.get(name)] for name in ("train/loss", "val/loss")}


@pytest.mark.slow
def test_world_size_and_accumulation_change_only_rounding(command, small, tmp_path):
    options = [*small, "--model.config.dropout=0"]
    assert command("fit", *options, "--run_dir=one").returncode == 0
    two = command("fit", *options, "--run_dir=two", "--trainer.strategy=ddp", "--trainer.devices=2")
    assert two.returncode == 0, two.stderr
    accumulated = command("fit", *options, "--run_dir=accumulated", "--batch.micro_batch_size=1")
    assert accumulated.returncode == 0, accumulated.stderr
    one = losses(tmp_path / "one")
    assert len(one["train/loss"]) == 12
    assert len(one["val/loss"]) == 2
    for other in ("two", "accumulated"):
        for name, values in losses(tmp_path / other).items():
            torch.testing.assert_close(torch.tensor(values), torch.tensor(one[name]), rtol=2e-4, atol=2e-4)
    # One rank continues a run of two, with the memory of all streams.
    memory = {
        run: torch.load(tmp_path / run / "checkpoints/last-step=12.ckpt", weights_only=True)["stream_memory"]
        for run in ("one", "two", "accumulated")
    }
    for other in ("two", "accumulated"):
        for ours, theirs in zip(memory["one"], memory[other], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    goes_on = command("fit", "--resume=two", "--trainer.devices=1", "--trainer.strategy=auto", "--trainer.max_steps=14")
    assert goes_on.returncode == 0, goes_on.stderr


@pytest.mark.slow
def test_test_metrics_do_not_depend_on_world_size(command, small, tmp_path):
    assert command("fit", *small, "--run_dir=a").returncode == 0
    for ranks in ("1", "2"):
        strategy = "ddp" if ranks == "2" else "auto"
        done = command("test", "--run=a", f"--trainer.devices={ranks}", f"--trainer.strategy={strategy}")
        assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "a/results.json").read_text())
    assert len(results) == 2
    for name in ("test/loss", "test/perplexity"):
        value = results[0]["metrics"][name]
        assert results[1]["metrics"][name] == pytest.approx(value, rel=1e-6), name
