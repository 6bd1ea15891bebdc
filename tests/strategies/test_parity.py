"""A recipe trains the same under every strategy."""

import csv
import subprocess
from pathlib import Path

import pytest
import torch
from small_runs import ADAMW, SENSITIVE, STRATEGIES, strategy_options, weights, with_accumulation

import warm
from conftest import environment

# Reductions over processes sum in another order, and Adam's steps amplify the difference.
TOLERANCE = 2e-4


def losses(run: Path) -> dict[int, dict[str, float]]:
    with (run / "metrics.csv").open() as file:
        rows = {}
        for row in csv.DictReader(file):
            metrics = {k: float(row[k]) for k in ("train/loss", "val/loss", "train/tokens") if row.get(k)}
            rows.setdefault(int(row["step"]), {}).update(metrics)
        return rows


def assert_same(run: Path, reference: Path) -> None:
    ours, theirs = losses(run), losses(reference)
    assert ours.keys() == theirs.keys()
    assert sum("train/loss" in row for row in ours.values()) == 10
    for step, row in theirs.items():
        assert ours[step] == pytest.approx(row, abs=TOLERANCE), step
    for name, value in weights(reference).items():
        torch.testing.assert_close(weights(run)[name], value, atol=20 * TOLERANCE, rtol=0, msg=name)


@pytest.fixture(scope="module")
def references(small, tmp_path_factory):
    """Runs in one process, created on first use."""
    runs: dict[str, Path] = {}

    def reference(kind: str, options: list[str]) -> Path:
        if kind not in runs:
            folder = tmp_path_factory.mktemp("reference")
            words = [
                "fit",
                *small,
                *SENSITIVE,
                *options,
                *strategy_options("1 process"),
                with_accumulation("1 process"),
                "--run_dir=run",
            ]
            done = subprocess.run(
                [warm.python(), "-m", "lmrecipes", *words],
                cwd=folder,
                env=environment(),
                capture_output=True,
                text=True,
                timeout=300,
            )
            assert done.returncode == 0, done.stderr
            runs[kind] = folder / "run"
        return runs[kind]

    return reference


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.exhaustive) if name in ("1x2 tensor parallel", "2 zero 1") else name
        for name in list(STRATEGIES)[1:]
    ],
)
def test_losses_and_weights_equal_those_of_one_process(name, command, small, references, tmp_path):
    done = command("fit", *small, *SENSITIVE, *ADAMW, *strategy_options(name), with_accumulation(name), "--run_dir=run")
    assert (done.returncode, done.stderr) == (0, "")
    assert_same(tmp_path / "run", references("adamw", ADAMW))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["2 ddp", "2 fsdp2", "2 zero 1", "2 zero 3"])
def test_a_run_starts_from_the_given_weights(name, command, small, references, tmp_path):
    source = references("adamw", ADAMW)
    still = ["--model.optimizer=torch.optim.Adam", "--model.optimizer.lr=1e-9", "--trainer.max_steps=3"]
    begin = [*still, "--trainer.val_check_interval=3", f"--init_from={source}", "--run_dir=run"]
    done = command("fit", *small, *SENSITIVE, *begin, *strategy_options(name))
    assert (done.returncode, done.stderr) == (0, "")
    best = min(row["val/loss"] for row in losses(source).values() if "val/loss" in row)
    assert losses(tmp_path / "run")[3]["val/loss"] == pytest.approx(best, abs=TOLERANCE)


@pytest.mark.slow
def test_lamb_uses_norms_of_full_tensors_when_they_are_sharded(command, small, references, tmp_path):
    lamb = ["--model.optimizer=lmrecipes.optim.LAMB", "--model.optimizer.lr=0.02"]
    name = "2x2 tensor parallel"
    done = command("fit", *small, *SENSITIVE, *lamb, *strategy_options(name), with_accumulation(name), "--run_dir=run")
    assert (done.returncode, done.stderr) == (0, "")
    assert_same(tmp_path / "run", references("lamb", lamb))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["2 fsdp2", "1x2 tensor parallel", "2 zero 3"])
def test_evaluation_metrics_equal_those_of_one_process(name, command, references):
    run = references("adamw", ADAMW)
    shown = []
    for strategy in ("1 process", name):
        done = command("test", f"--run={run}", *strategy_options(strategy))
        assert (done.returncode, done.stderr) == (0, "")
        shown.append(next(line.split() for line in done.stdout.splitlines() if line.startswith("test/loss")))
    assert float(shown[1][1]) == pytest.approx(float(shown[0][1]), abs=TOLERANCE)
