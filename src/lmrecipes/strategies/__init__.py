"""Strategies: how a model is distributed over devices, by short names for `--trainer.strategy`."""

from lightning.pytorch.strategies import StrategyRegistry

from lmrecipes.strategies.deepspeed import DeepSpeedZeROStrategy
from lmrecipes.strategies.fsdp2 import FSDP2Strategy

__all__ = ["DeepSpeedZeROStrategy", "FSDP2Strategy"]

StrategyRegistry.register("fsdp2", FSDP2Strategy, "Parameters, gradients and optimizer state sharded (FSDP2)")
StrategyRegistry.register(
    "fsdp2_tp", FSDP2Strategy, "Layers split within a node, the rest sharded over nodes", tensor_parallel_size="auto"
)
for _stage in (1, 2, 3):
    StrategyRegistry.register(
        f"deepspeed_zero{_stage}", DeepSpeedZeROStrategy, f"DeepSpeed's ZeRO, stage {_stage}", stage=_stage
    )
