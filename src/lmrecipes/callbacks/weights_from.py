"""Starting a new run from the weights of another."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from lmrecipes.checkpoint_io import load_checkpoint
from lmrecipes.sharded_checkpoint import fill


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
        missing, unknown = own.keys() - weights.keys(), weights.keys() - own.keys()
        if missing or unknown:
            name = min(missing or unknown)
            where = "lacks" if missing else "has an unknown"
            raise ValueError(f"--init_from {self.path} {where} weight {name}: it is of another network")
        for name, weight in own.items():
            if weight.shape != weights[name].shape:
                raise ValueError(
                    f"--init_from {self.path}: {name} has shape {tuple(weights[name].shape)}, "
                    f"but this recipe's network has {tuple(weight.shape)}"
                )
        for name, weight in own.items():
            fill(weight, weights[name])
