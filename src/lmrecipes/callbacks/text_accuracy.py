"""Share of texts that a model writes as they should be."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lmrecipes.trainer_state import data_rank, sum_over_ranks


@runtime_checkable
class Judges(Protocol):
    """What is asked of a DataModule whose texts are right or wrong."""

    task: str
    """Under which name its figures are logged."""

    def languages_of(self, split: str) -> list[str]:
        """The languages of a split."""

    def verdicts(self, split: str, output: Any) -> Mapping[int, tuple[int, bool]]:
        """By the number of each text of a step's output: its language's number, and whether it is right."""

    def asked(self, split: str) -> int:
        """Texts of a split."""


class TextAccuracy(Callback):
    """Logs `<task>/accuracy`, the mean over languages, and `<task>/accuracy_<language>`, in percent."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[int, bool]] = {}

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins anew."""
        self._found = {}

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins anew."""
        self._found = {}

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Notes what is right."""
        self._note(trainer, "val", outputs)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Notes what is right."""
        self._note(trainer, "test", outputs)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs."""
        self._conclude(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs."""
        self._conclude(trainer, pl_module, "test")

    def _note(self, trainer: Trainer, split: str, outputs: Any) -> None:
        if outputs is None:
            raise ValueError(f"TextAccuracy: the model's {split} step returns nothing; it must return what it wrote")
        self._found.update(_judge_of(trainer).verdicts(split, outputs))

    def _conclude(self, trainer: Trainer, module: LightningModule, split: str) -> None:
        data = _judge_of(trainer)
        languages = data.languages_of(split)
        counts = torch.zeros(2, len(languages), dtype=torch.int64)
        for language, right in self._found.values():
            counts[0, language] += right
            counts[1, language] += 1
        # The processes of a tensor-parallel group have the same texts, which changes no share.
        right, asked = sum_over_ranks(trainer, counts.to(trainer.strategy.root_device)).cpu().double()
        if not asked.sum():
            raise ValueError(f"TextAccuracy: no text of {split} was written")
        shares = {code: 100 * right[i] / asked[i] for i, code in enumerate(languages) if asked[i]}
        figures = {f"{data.task}/accuracy": torch.stack(list(shares.values())).mean()}
        if len(languages) > 1:
            figures |= {f"{data.task}/accuracy_{code}": share for code, share in shares.items()}
        module.log_dict(figures, batch_size=1)
        done = int(asked.sum()) * data_rank(trainer).size // trainer.world_size
        if done < data.asked(split) and not getattr(trainer, "sanity_checking", False):
            warnings.warn(f"{data.task} figures are of {done} of {data.asked(split)} {split} texts", stacklevel=2)


def _judge_of(trainer: Trainer) -> Judges:
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, Judges):
        raise ValueError(
            f"TextAccuracy is for a DataModule whose texts are right or wrong, such as XNLIDataModule, not "
            f"{type(data).__name__}"
        )
    return data
