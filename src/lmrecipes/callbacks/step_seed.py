"""Seeds every step by its number, so that a resumed run repeats its randomness."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lmrecipes.trainer_state import data_rank


class StepSeed(Callback):
    """Seeds every generator at every training batch from (seed, step, micro-batch, data-parallel rank).

    Dropout then needs no saved random state: a resumed run draws the same numbers as an uninterrupted one, and
    random numbers drawn by validation or a callback change nothing.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seeds torch on all devices, numpy and random."""
        place = (trainer.global_step, batch_idx % trainer.accumulate_grad_batches, data_rank(trainer).rank)
        seed = int(np.random.SeedSequence((self.seed, *place)).generate_state(1)[0])
        if pl_module.device.type == "cpu":
            # Seed only devices in use: for others torch would record a stack trace.
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
