"""Logs the tokens read of each language."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lmrecipes.trainer_state import completes_step, logs_step


@runtime_checkable
class CountsLanguages(Protocol):
    """A DataModule of several languages that counts its tokens."""

    def tokens_by_language(self, first_step: int, end: int) -> Mapping[str, int]:
        """Tokens of text that all ranks read in the steps of a half-open range, by language."""


class LanguageTokens(Callback):
    """Logs `train/tokens_<language>`: tokens of text read since step 0 by all ranks, across resumes.

    The order of the texts is a function of the step, so nothing is counted in batches or exchanged between ranks.
    """

    def __init__(self) -> None:
        self._tokens: dict[str, int] = {}
        self._counted = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks that the data counts languages.

        Raises:
            ValueError: if it cannot.
        """
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, CountsLanguages):
            raise ValueError(
                f"LanguageTokens is for a DataModule of languages, such as MC4DataModule, not {type(data).__name__}"
            )

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Logs the counts if the step is logged."""
        if completes_step(trainer) and logs_step(trainer):
            self._count(trainer)
            exact = torch.float32 if pl_module.device.type == "mps" else torch.float64
            tokens = {f"train/tokens_{code}": torch.tensor(n, dtype=exact) for code, n in self._tokens.items()}
            pl_module.log_dict(tokens, batch_size=1)

    def _count(self, trainer: Trainer) -> None:
        data: CountsLanguages = trainer.datamodule  # type: ignore[attr-defined]
        for code, n in data.tokens_by_language(self._counted, trainer.global_step).items():
            self._tokens[code] = self._tokens.get(code, 0) + n
        self._counted = trainer.global_step

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Saves the counts."""
        self._count(trainer)
        checkpoint.setdefault("callbacks", {})[self.state_key] = {"tokens": self._tokens, "counted": self._counted}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the counts."""
        self._tokens, self._counted = dict(state_dict["tokens"]), state_dict["counted"]
