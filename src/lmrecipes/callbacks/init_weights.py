"""Starting a new run from the weights of another."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy

from lmrecipes.checkpoints.weights import load_optimizer_state, load_weights
from lmrecipes.runtime.console import quoted


class InitWeights(Callback):
    """Loads only the weights of a checkpoint, optionally with its optimizer state, into a new run.

    Step, schedule, position in the data and memory start afresh.
    """

    def __init__(self, path: Path, optimizer: bool = False) -> None:
        self.path, self.optimizer = path, optimizer

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Loads the weights once the network exists.

        Raises:
            ValueError: if a weight does not match the network, naming it, or if there is no optimizer state.
        """
        path = Path(trainer.strategy.broadcast(str(self.path)))
        load_weights(pl_module, path, f"--init_from {quoted(path)}", trainer.strategy)
        if not self.optimizer:
            return
        if isinstance(trainer.strategy, DeepSpeedStrategy):
            raise ValueError(
                "--init_optimizer does not work with DeepSpeed, whose optimizers hold pieces of all tensors in one; "
                "use trainer.strategy fsdp2 or ddp"
            )
        for optimizer in trainer.optimizers:
            load_optimizer_state(pl_module, getattr(optimizer, "_optimizer", optimizer), path)
