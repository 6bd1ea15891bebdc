"""Accuracy of generated texts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.pytorch import LightningModule, Trainer

from lmrecipes.callbacks.evaluation_outputs import EvaluationOutputs
from lmrecipes.trainer_state import data_rank, is_sanity_check, sum_over_ranks


@runtime_checkable
class Judges(Protocol):
    """A DataModule that judges generated texts."""

    task: str
    """Under which name its metrics are logged."""

    def languages_of(self, split: str) -> list[str]:
        """The languages of a split."""

    def verdicts(self, split: str, output: Any) -> Mapping[int, tuple[int, bool]]:
        """For each text of a step's output, by its number: the index of its language, and whether it is right."""

    def asked(self, split: str) -> int:
        """Texts of a split."""


class TextAccuracy(EvaluationOutputs):
    """Logs `<task>/accuracy`, the mean over languages, and `<task>/accuracy_<language>`, in percent."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[int, bool]] = {}

    def begin(self) -> None:
        """Discards the verdicts of an earlier evaluation."""
        self._found = {}

    def add(self, trainer: Trainer, split: str, outputs: Any) -> None:
        """Adds the verdicts on the texts of one step."""
        if outputs is None:
            raise ValueError(
                f"TextAccuracy: the model's {split} step returns nothing; it must return the generated texts"
            )
        self._found.update(_judge_of(trainer).verdicts(split, outputs))

    def conclude(self, trainer: Trainer, module: LightningModule, split: str) -> None:
        """Logs the accuracies over all ranks."""
        data = _judge_of(trainer)
        languages = data.languages_of(split)
        counts = torch.zeros(2, len(languages), dtype=torch.int64)
        for language, correct in self._found.values():
            counts[0, language] += correct
            counts[1, language] += 1
        # Ranks of a tensor-parallel group count the same texts, which leaves the ratios unchanged.
        correct, total = sum_over_ranks(trainer, counts.to(trainer.strategy.root_device)).cpu().double()
        if not total.sum():
            raise ValueError(f"TextAccuracy: no text of {split} was generated")
        shares = {code: 100 * correct[i] / total[i] for i, code in enumerate(languages) if total[i]}
        metrics = {f"{data.task}/accuracy": torch.stack(list(shares.values())).mean()}
        if len(languages) > 1:
            metrics |= {f"{data.task}/accuracy_{code}": share for code, share in shares.items()}
        module.log_dict(metrics, batch_size=1)
        done = int(total.sum()) * data_rank(trainer).size // trainer.world_size
        if done < data.asked(split) and not is_sanity_check(trainer):
            warnings.warn(f"{data.task} metrics cover {done} of {data.asked(split)} {split} texts", stacklevel=2)


def _judge_of(trainer: Trainer) -> Judges:
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, Judges):
        raise ValueError(
            f"TextAccuracy is for a DataModule whose texts are right or wrong, such as XNLIDataModule, not "
            f"{type(data).__name__}"
        )
    return data
