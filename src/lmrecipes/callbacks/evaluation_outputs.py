"""Base of callbacks that score the outputs of evaluation steps: the same methods for every split."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


def _adds(split: str) -> Any:
    """A hook that adds the outputs of a step."""
    return lambda self, trainer, module, outputs, *_: self.add(trainer, split, outputs)


def _concludes(split: str) -> Any:
    """A hook that concludes an evaluation."""
    return lambda self, trainer, module: self.conclude(trainer, module, split)


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

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins an evaluation."""
        self.begin()

    on_validation_epoch_start = on_predict_epoch_start = on_test_epoch_start
    on_validation_batch_end, on_validation_epoch_end = _adds("val"), _concludes("val")
    on_test_batch_end, on_test_epoch_end = _adds("test"), _concludes("test")
    on_predict_batch_end, on_predict_epoch_end = _adds("predict"), _concludes("predict")
