"""Starting a new run from the weights of another."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from lmrecipes.checkpoint_io import load_checkpoint
from lmrecipes.sharded_checkpoint import fill
from lmrecipes.weights import check_weights


class WeightsFrom(Callback):
    """Takes only the weights of a checkpoint: step, optimizer, schedule and memory begin anew."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Loads the weights once the network exists.

        Raises:
            ValueError: if they do not fit the network, naming the first that does not.
        """
        weights = load_checkpoint(self.path)["state_dict"]
        own = pl_module.state_dict()
        check_weights(weights, own, f"--init_from {self.path}")
        for name, weight in own.items():
            fill(weight, weights[name])
