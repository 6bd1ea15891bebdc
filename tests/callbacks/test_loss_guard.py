"""A bad step stops training or is skipped, for all micro-batches and all state, also after a resume."""

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision

from lmrecipes.callbacks import BestCheckpoint, LastCheckpoint, LossGuard, StoppedByLossGuard
from lmrecipes.checkpoints.io import AtomicCheckpointIO, load_checkpoint
from lmrecipes.optim import LAMB

pytestmark = pytest.mark.filterwarnings("ignore")


class Toy(LightningModule):
    """The loss of batch i is `losses.get(i, 1)`; its gradient is set by `gradients`."""

    def __init__(self, losses=None, gradients=None, optimizer="adam"):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))
        self.losses, self.gradients, self.kind = losses or {}, gradients or {}, optimizer

    def training_step(self, batch, batch_idx):
        index = int(batch[0])
        weight = self.weight * 1.0
        weight.register_hook(lambda gradient: gradient * self.gradients.get(index, 1.0))
        return (weight - self.weight.detach()).sum() + self.losses.get(index, 1.0)

    def configure_optimizers(self):
        match self.kind:
            case "adam":
                return torch.optim.Adam(self.parameters(), lr=0.1, weight_decay=0.1)
            case "fused":
                return torch.optim.AdamW(self.parameters(), lr=0.1, weight_decay=0.1, fused=True)
            case "lamb":
                return LAMB(self.parameters(), lr=0.1, weight_decay=0.1)


class Weights(Callback):
    """Records the weights after every step."""

    def __init__(self):
        self.after = {}

    def on_train_batch_end(self, trainer, pl_module, *rest):
        self.after[trainer.global_step] = pl_module.weight.detach().clone()


def fit(tmp_path, module, guard, steps=10, plugins=(), ckpt_path=None, **settings):
    weights = Weights()
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        default_root_dir=tmp_path,
        callbacks=[weights, guard, LastCheckpoint(every_n_steps=1)],
        plugins=[AtomicCheckpointIO(), *plugins],
        enable_model_summary=False,
        enable_progress_bar=False,
        logger=False,
        **settings,
    )
    trainer.fit(module, torch.utils.data.DataLoader(torch.arange(1000.0)), ckpt_path=ckpt_path)
    return trainer, weights.after


def last_checkpoint(tmp_path):
    (path,) = (tmp_path / "checkpoints").glob("last-*.ckpt")
    return path.stem, load_checkpoint(path)


@pytest.mark.parametrize(
    ("mode", "values", "expected"),
    [
        ("min", [torch.nan, torch.inf, 2.0, torch.inf], ["best-step=3.ckpt"]),
        ("max", [torch.nan, -torch.inf, 2.0, torch.inf], ["best-step=3.ckpt"]),
        ("min", [torch.nan, torch.inf, -torch.inf, torch.nan], []),
    ],
)
def test_a_checkpoint_with_a_non_finite_metric_is_never_the_best(tmp_path, mode, values, expected):
    class Validated(Toy):
        def validation_step(self, batch, batch_idx):
            self.log("val/loss", values[self.trainer.global_step - 1])

    best, loader = BestCheckpoint(mode=mode), torch.utils.data.DataLoader(torch.arange(1000.0))
    trainer = Trainer(
        max_steps=4,
        accelerator="cpu",
        default_root_dir=tmp_path,
        callbacks=[best],
        plugins=[AtomicCheckpointIO()],
        val_check_interval=1,
        check_val_every_n_epoch=None,
        limit_val_batches=1,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=False,
        logger=False,
    )
    trainer.fit(Validated(), loader, loader)
    assert best.best_model_score == (2.0 if expected else None)
    assert [path.name for path in tmp_path.glob("checkpoints/*.ckpt")] == expected


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_a_non_finite_loss_stops_training_before_the_optimizer_step(tmp_path, value, accumulation):
    # In the first micro-batch of step 5.
    module = Toy({4 * accumulation: value})
    with pytest.raises(StoppedByLossGuard, match=r"at step 5: the loss is (nan|inf)$") as stopped:
        fit(tmp_path, module, LossGuard(), accumulate_grad_batches=accumulation)
    assert stopped.value.code == 3
    name, state = last_checkpoint(tmp_path)
    assert name == "last-step=4"
    assert state["state_dict"]["weight"].equal(module.weight.detach())


def test_a_non_finite_gradient_stops_training_too(tmp_path):
    with pytest.raises(StoppedByLossGuard, match=r"at step 5: a gradient is not finite \(loss 1\)"):
        fit(tmp_path, Toy(gradients={4: torch.inf}), LossGuard())
    assert last_checkpoint(tmp_path)[0] == "last-step=4"


def test_nothing_is_saved_between_a_bad_step_and_a_delayed_check(tmp_path, monkeypatch):
    # As on a GPU, where losses are checked rarely.
    original_look = LossGuard.look
    guard = LossGuard(look_every_n_steps=100)
    monkeypatch.setattr(LossGuard, "on_before_optimizer_step", _judge_only)
    with pytest.raises(StoppedByLossGuard, match="at step 5: the loss is nan"):
        fit(tmp_path, Toy({4: torch.nan}), guard)
    assert last_checkpoint(tmp_path)[0] == "last-step=4"
    assert LossGuard.look is original_look


def _judge_only(self, trainer, pl_module, optimizer):
    with torch.no_grad():
        own = self._own(pl_module.device, optimizer, None)
        self._judge(own[0], own[1] > 0, trainer.global_step + 1)


@pytest.mark.parametrize("optimizer", ["adam", "fused", "lamb"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_skipped_step_changes_neither_weights_nor_optimizer_state(tmp_path, optimizer, accumulation):
    bad = Toy({4 * accumulation: torch.nan}, {7 * accumulation: torch.inf}, optimizer=optimizer)
    trainer, after = fit(tmp_path, bad, LossGuard(action="skip"), accumulate_grad_batches=accumulation)
    assert trainer.global_step == 10
    assert int(trainer.callback_metrics["train/skipped_steps"]) == 2
    assert after[5].equal(after[4])
    assert after[8].equal(after[7])
    assert not after[6].equal(after[5])
    # Ten steps of which two are skipped equal eight, including momentum, weight decay and Adam's step count.
    _, eight = fit(tmp_path / "eight", Toy(optimizer=optimizer), LossGuard(), 8, accumulate_grad_batches=accumulation)
    torch.testing.assert_close(after[10], eight[8], rtol=0, atol=0)


def test_too_many_consecutive_bad_steps_stop_training(tmp_path):
    losses = dict.fromkeys([2, 4, 5, 6, 7], torch.nan)
    with pytest.raises(StoppedByLossGuard, match="at step 7: the loss is nan, after 3 bad steps in a row"):
        fit(tmp_path, Toy(losses), LossGuard(action="skip", max_skips_in_a_row=3))
    # What a model remembers from such a micro-batch may be corrupt.
    assert last_checkpoint(tmp_path)[0] == "last-step=4"


def test_a_spike_is_compared_with_the_losses_before_it(tmp_path):
    losses = {n: 1 + n % 2 / 10 for n in range(20)} | {1: 9.0, 12: 1.2, 14: 1.6}
    with pytest.raises(StoppedByLossGuard, match=r"at step 15: the loss jumped to 1\.6"):
        fit(tmp_path, Toy(losses), LossGuard(spike_sigma=6, spike_window_steps=8), 20)
    fit(tmp_path / "off", Toy(losses), LossGuard(), 20)


def test_near_constant_losses_may_rise_by_a_few_percent(tmp_path):
    trainer, _ = fit(tmp_path, Toy({10: 1.05}), LossGuard(spike_sigma=6, spike_window_steps=8), 12)
    assert trainer.global_step == 12
    with pytest.raises(StoppedByLossGuard, match=r"at step 11: the loss jumped to 1\.07"):
        fit(tmp_path / "above", Toy({10: 1.07}), LossGuard(spike_sigma=6, spike_window_steps=8), 12)


def test_a_resumed_run_makes_the_same_decisions_as_an_uninterrupted_one(tmp_path):
    losses = {n: 1 + n % 2 / 10 for n in range(20)} | dict.fromkeys([10, 11, 12], 9.0)

    def guard():
        return LossGuard(action="skip", spike_sigma=6, spike_window_steps=8, max_skips_in_a_row=3)

    with pytest.raises(StoppedByLossGuard, match="at step 13: the loss jumped to 9, after 3 bad steps in a row"):
        fit(tmp_path / "whole", Toy(losses), guard(), 20)
    # Stop between the spikes.
    fit(tmp_path / "part", Toy(losses), guard(), 12)
    name, _ = last_checkpoint(tmp_path / "part")
    path = tmp_path / f"part/checkpoints/{name}.ckpt"
    # The toy's data restarts from its beginning in a resumed run.
    later = {n - 12: loss for n, loss in losses.items() if n >= 12}
    with pytest.raises(StoppedByLossGuard, match="at step 13: the loss jumped to 9, after 3 bad steps in a row"):
        fit(tmp_path / "part", Toy(later), guard(), 20, ckpt_path=path)


def test_steps_skipped_by_a_grad_scaler_are_not_failures(tmp_path):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    # With so large a scale these gradients overflow until the scaler has lowered it.
    module = Toy(gradients=dict.fromkeys(range(40), 1e4))
    trainer, after = fit(tmp_path, module, LossGuard(), 40, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    assert trainer.global_step == 40
    assert after[1].equal(torch.ones(3))
    assert not after[40].equal(torch.ones(3))
    assert scaler.get_scale() < 2.0**120
    # A non-finite loss is one.
    scaler = torch.amp.GradScaler("cpu")
    with pytest.raises(StoppedByLossGuard, match="at step 5: the loss is nan"):
        fit(tmp_path / "nan", Toy({4: torch.nan}), LossGuard(), plugins=[MixedPrecision("16-mixed", "cpu", scaler)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_skips_in_a_row": 0}, "max_skips_in_a_row is 0; it must be 1 or more"),
        ({"spike_sigma": 0.0}, "spike_sigma is 0.0; it must be above 0"),
        ({"spike_window_steps": 1}, "spike_window_steps is 1; it must be 2 or more"),
        ({"look_every_n_steps": 0}, "look_every_n_steps is 0; it must be 1 or more"),
    ],
)
def test_invalid_settings_are_rejected(settings, message):
    with pytest.raises(ValueError, match=message):
        LossGuard(**settings)
