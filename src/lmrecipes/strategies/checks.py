"""Checks that model, optimizer and strategy are compatible, before anything is started."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy

from lmrecipes.models.common.protocols import Parallelizable
from lmrecipes.strategies.deepspeed import DeepSpeedZeROStrategy
from lmrecipes.strategies.fsdp2 import FSDP2Strategy

# Optimizers that need whole tensors: ZeRO hands them flat partitions.
_NEED_WHOLE_TENSORS = {"LAMB": "the norm", "Adafactor": "rows and columns", "Muon": "the whole"}


def data_parallel_size(trainer: Trainer) -> int:
    """Number of data-parallel processes, before any of them is started.

    Raises:
        ValueError: if a size of the strategy does not divide the number of processes.
    """
    strategy = trainer.strategy
    if isinstance(strategy, FSDP2Strategy):
        return strategy.data_parallel_size(trainer.num_devices, trainer.num_nodes)
    return trainer.world_size


def check_strategy(trainer: Trainer, model: LightningModule, optimizer: str = "") -> None:
    """Refuses what cannot be.

    Args:
        trainer: with its strategy.
        model: to be spread.
        optimizer: class of the optimizer.

    Raises:
        ValueError: saying what would work.
    """
    strategy: Any = trainer.strategy
    if isinstance(strategy, FSDP2Strategy):
        if not isinstance(model, Parallelizable):
            raise ValueError(f"trainer.strategy shards by a plan, and {type(model).__name__} has none; ddp works")
        model.parallel_plan.check(strategy.mesh_shape(trainer.num_devices, trainer.num_nodes).tensor)
    elif isinstance(strategy, ModelParallelStrategy):
        raise ValueError(
            "trainer.strategy is ModelParallelStrategy, which splits nothing by itself; fsdp2 or fsdp2_tp do"
        )
    elif isinstance(strategy, DeepSpeedZeROStrategy):
        name = optimizer.rpartition(".")[2]
        if name in _NEED_WHOLE_TENSORS:
            raise ValueError(
                f"model.optimizer is {name}, which needs {_NEED_WHOLE_TENSORS[name]} of each tensor, but DeepSpeed "
                f"hands optimizers pieces of all tensors in one; use AdamW, or trainer.strategy fsdp2"
            )
        if trainer.gradient_clip_algorithm == "value":
            raise ValueError("trainer.gradient_clip_algorithm is value, which DeepSpeed cannot do; norm works")
