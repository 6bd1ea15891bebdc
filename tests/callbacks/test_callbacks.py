"""Callbacks under a real Trainer: throughput, seeding, checkpoints, log lines and plots."""

import csv
import errno
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from lmrecipes.callbacks import BestCheckpoint, ConsoleLog, LastCheckpoint, RunPlot, StepSeed, Throughput
from lmrecipes.checkpoints.io import AtomicCheckpointIO
from lmrecipes.loggers import RunCSVLogger

pytestmark = pytest.mark.filterwarnings("ignore")


class Toy(LightningModule):
    """Counts ten tokens per batch and records the random numbers it draws."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.drawn = []

    def training_step(self, batch, batch_idx):
        self.drawn.append(torch.rand(1).item())
        self.log("train/loss", 1.0)
        return (self.weight - 1).pow(2).sum()

    def validation_step(self, batch, batch_idx):
        torch.rand(7)
        self.log("val/loss", (self.weight - 1).pow(2).sum())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def count(self, batch):
        return 2, 10

    def flops_per_token(self):
        return 5e9


def train(tmp_path, callbacks, steps=10, module=None, data=None, **settings):
    module = module or Toy()
    checkpoint = settings.pop("ckpt_path", None)
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        default_root_dir=tmp_path,
        callbacks=callbacks,
        enable_model_summary=False,
        enable_progress_bar=any(isinstance(c, ConsoleLog) for c in callbacks),
        **{"logger": False, "log_every_n_steps": 1, **settings},
    )
    loader = torch.utils.data.DataLoader(torch.zeros(1000, 1) if data is None else data)
    trainer.fit(module, loader, torch.utils.data.DataLoader(torch.zeros(2, 1)), ckpt_path=checkpoint)
    return module, trainer


class Clock:
    """Every reading advances the time by a tenth of a second."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 0.1
        return self.now


@pytest.mark.parametrize("accumulation", [1, 4])
def test_throughput_counts_the_tokens_of_all_micro_batches(tmp_path, accumulation):
    callback = Throughput(peak_tflops=1.0)
    callback.clock = Clock()
    _, trainer = train(tmp_path, [callback], accumulate_grad_batches=accumulation, limit_val_batches=0)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    # A micro-batch ends one clock reading (0.1 s) after its data arrived, which took another reading (0.1 s).
    assert metrics["train/tokens"] == 10 * accumulation * 10
    assert metrics["throughput/step_time_ms"] == pytest.approx(200 * accumulation, rel=1e-3)
    assert metrics["throughput/data_wait_ms"] == pytest.approx(100 * accumulation, rel=1e-3)
    assert metrics["throughput/tokens_per_s"] == pytest.approx(50, rel=1e-3)
    assert metrics["throughput/sequences_per_s"] == pytest.approx(10, rel=1e-3)
    assert metrics["throughput/mfu"] == pytest.approx(50 * 5e9 / 1e12, rel=1e-3)


class SlowCheckpoint(LastCheckpoint):
    """Every checkpoint takes 1000 s, and so does validation."""

    def __init__(self, clock):
        super().__init__(every_n_steps=2)
        self.slow = clock

    def _save_checkpoint(self, trainer, filepath):
        self.slow.now += 1000

    def on_validation_start(self, trainer, pl_module):
        self.slow.now += 1000

    def on_validation_end(self, trainer, pl_module):
        super().on_validation_end(trainer, pl_module)
        self.slow.now += 1000


def test_validation_and_checkpoints_do_not_count_as_data_wait(tmp_path):
    callback = Throughput()
    callback.clock = clock = Clock()
    _, trainer = train(tmp_path, [callback, SlowCheckpoint(clock)], steps=11, val_check_interval=3)
    assert clock.now > 8000
    assert float(trainer.callback_metrics["throughput/step_time_ms"]) == pytest.approx(200, rel=1e-3)
    assert float(trainer.callback_metrics["throughput/data_wait_ms"]) == pytest.approx(100, rel=1e-3)


class SlowData(torch.utils.data.Dataset):
    def __init__(self, clock):
        self.slow = clock

    def __len__(self):
        return 100

    def __getitem__(self, index):
        self.slow.now += 5
        return torch.zeros(1)


def test_slow_data_counts_as_data_wait(tmp_path):
    callback = Throughput()
    callback.clock = clock = Clock()
    _, trainer = train(tmp_path, [callback], data=SlowData(clock))
    assert float(trainer.callback_metrics["throughput/data_wait_ms"]) == pytest.approx(5100, rel=1e-3)


class LargeCounts(Toy):
    """Token counts too large for exact floats, and larger on higher ranks."""

    def count(self, batch):
        return 1, 2**24 + 1 + self.global_rank


def test_token_counts_are_exact_and_continue_after_a_resume(tmp_path):
    logger = RunCSVLogger(tmp_path)
    train(tmp_path, [Throughput(), LastCheckpoint()], steps=3, module=LargeCounts(), logger=logger)
    path = next((tmp_path / "checkpoints").glob("*.ckpt"))
    train(tmp_path, [Throughput(), LastCheckpoint()], steps=4, module=LargeCounts(), logger=logger, ckpt_path=path)
    with (tmp_path / "metrics.csv").open() as file:
        counted = [float(row["train/tokens"]) for row in csv.DictReader(file) if row["train/tokens"]]
    assert counted == [n * (2**24 + 1) for n in (1, 2, 3, 4)]


@pytest.mark.slow
def test_every_rank_counts_its_own_tokens(tmp_path):
    callback = Throughput()
    _, trainer = train(
        tmp_path, [callback], steps=3, module=LargeCounts(), strategy="ddp_fork", devices=2, limit_val_batches=0
    )
    assert int(trainer.callback_metrics["train/tokens"]) == 3 * (2**25 + 3)


def test_mfu_is_omitted_if_the_peak_is_unknown(tmp_path):
    _, trainer = train(tmp_path, [Throughput()])
    assert "throughput/tokens_per_s" in trainer.callback_metrics
    assert "throughput/mfu" not in trainer.callback_metrics


def test_random_state_depends_only_on_the_step(tmp_path):
    often, _ = train(tmp_path, [StepSeed(1)], val_check_interval=2)
    never, _ = train(tmp_path, [StepSeed(1)], limit_val_batches=0)
    other, _ = train(tmp_path, [StepSeed(2)], limit_val_batches=0)
    assert often.drawn == never.drawn
    assert len(set(never.drawn)) == 10
    assert not set(other.drawn) & set(never.drawn)


def checkpoint_names(tmp_path):
    return sorted(path.name for path in (tmp_path / "checkpoints").glob("*.ckpt"))


@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_last_checkpoint_is_of_the_final_step(tmp_path, accumulation):
    train(tmp_path, [LastCheckpoint(every_n_steps=4)], accumulate_grad_batches=accumulation)
    assert checkpoint_names(tmp_path) == ["last-step=10.ckpt"]


def test_checkpoints_are_saved_between_validations(tmp_path):
    class WithoutFinalSave(LastCheckpoint):
        def on_train_end(self, trainer, pl_module):
            pass

    train(tmp_path, [WithoutFinalSave(every_n_steps=4)], limit_val_batches=0)
    assert checkpoint_names(tmp_path) == ["last-step=8.ckpt"]


def test_the_best_checkpoint_is_chosen_by_the_validation_metric(tmp_path):
    train(tmp_path, [BestCheckpoint()], val_check_interval=3)
    assert checkpoint_names(tmp_path) == ["best-step=9.ckpt"]


def test_log_lines_are_plain_and_short(tmp_path, capsys):
    train(tmp_path, [ConsoleLog(), Throughput()], steps=20, val_check_interval=10)
    out = capsys.readouterr().out
    assert len(out.splitlines()) <= 40
    assert "\x1b" not in out
    assert "\r" not in out
    line = next(line for line in out.splitlines() if "step 20 |" in line)
    for part in ("epoch 0", "batches 20 / 1000", "lr 1.000e-01", "ms/batch", "tok/s", "loss 1.000"):
        assert part in line
    assert "eval at step 10" in out


def test_the_plot_is_drawn_and_the_log_continues_after_a_resume(tmp_path):
    for steps in (4, 8):
        logger = RunCSVLogger(tmp_path)
        if steps == 8:
            logger.forget_after(3)
        train(tmp_path, [RunPlot(), Throughput()], steps=steps, logger=logger)
    assert (tmp_path / "plots/run.png").stat().st_size > 10_000
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:2] == ["step", "epoch"]
    assert [int(row["step"]) for row in rows if row["train/loss"]] == [1, 2, 3, *range(1, 9)]


class Improving(Toy):
    """The validation metric improves with every step, down to 0."""

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", 1.0 / (1 + self.global_step))


class FailingDisk:
    """The disk is full at the saves with the given numbers."""

    def __init__(self, monkeypatch, full_at):
        self.saves, self.full_at, self.save = 0, full_at, torch.save
        monkeypatch.setattr(torch, "save", self)

    def __call__(self, content, file):
        self.saves += 1
        if self.saves in self.full_at:
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        self.save(content, file)


@pytest.mark.parametrize(
    ("full_at", "expected"), [([], "best-step=6.ckpt"), ([3], "best-step=4.ckpt"), ([2, 3], "best-step=2.ckpt")]
)
def test_a_full_disk_keeps_the_previous_best_checkpoint(tmp_path, monkeypatch, full_at, expected):
    FailingDisk(monkeypatch, full_at)
    best = BestCheckpoint()
    train(tmp_path, [best], steps=6, val_check_interval=2, plugins=[AtomicCheckpointIO()], module=Improving())
    assert checkpoint_names(tmp_path) == [expected]
    assert Path(best.best_model_path).name == expected
    assert best.best_model_score == pytest.approx(1 / (1 + int(expected[10])))


def test_after_a_full_disk_the_next_better_checkpoint_is_saved(tmp_path, monkeypatch):
    FailingDisk(monkeypatch, [2])
    train(
        tmp_path, [BestCheckpoint()], steps=6, val_check_interval=2, plugins=[AtomicCheckpointIO()], module=Improving()
    )
    assert checkpoint_names(tmp_path) == ["best-step=6.ckpt"]


def test_a_full_disk_keeps_the_previous_last_checkpoint(tmp_path, monkeypatch):
    FailingDisk(monkeypatch, [2, 3])
    train(tmp_path, [LastCheckpoint(every_n_steps=4)], plugins=[AtomicCheckpointIO()], limit_val_batches=0)
    assert checkpoint_names(tmp_path) == ["last-step=4.ckpt"]
