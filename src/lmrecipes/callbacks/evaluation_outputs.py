"""Base of callbacks that score the outputs of evaluation steps: the same methods for every split."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class EvaluationOutputs(Callback):
    """Calls `begin`, `add` and `conclude` for the evaluation of a split: val, test or predict."""

    @abstractmethod
    def begin(self) -> None:
        """Discards the outputs of an earlier evaluation."""

    @abstractmethod
    def add(self, trainer: Trainer, split: str, outputs: Any) -> None:
        """Adds the outputs of one step."""

    @abstractmethod
    def conclude(self, trainer: Trainer, module: LightningModule, split: str) -> None:
        """Logs the metrics over all steps."""

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins."""
        self.begin()

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins."""
        self.begin()

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins."""
        self.begin()

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        """Adds outputs."""
        self.add(trainer, "val", outputs)

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        """Adds outputs."""
        self.add(trainer, "test", outputs)

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        """Adds outputs."""
        self.add(trainer, "predict", outputs)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Concludes."""
        self.conclude(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Concludes."""
        self.conclude(trainer, pl_module, "test")

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Concludes."""
        self.conclude(trainer, pl_module, "predict")
