"""Options of small runs on which all strategies must agree."""

from pathlib import Path

import torch

from lmrecipes.checkpoints.io import load_checkpoint, newest_readable

STRATEGIES = {
    "1 process": ("auto", 1),
    "2 ddp": ("ddp", 2),
    "2 fsdp2": ("fsdp2", 2),
    "1x2 tensor parallel": ("fsdp2_tp", 2),
    "2x2 tensor parallel": ("FSDP2Strategy", 4, "--trainer.strategy.tensor_parallel_size=2"),
    "2 replicas of 2 shards": ("FSDP2Strategy", 4, "--trainer.strategy.shard_size=2"),
    "2 fsdp2, recomputing": (
        *("FSDP2Strategy", 2, "--trainer.strategy.activation_checkpointing=true"),
        "--trainer.strategy.cpu_offload=true",
    ),
    "2 zero 1": ("deepspeed_zero1", 2),
    "2 zero 2": ("deepspeed_zero2", 2),
    "2 zero 2, offloading": ("DeepSpeedZeROStrategy", 2, "--trainer.strategy.offload_optimizer=true"),
    "2 zero 3": ("deepspeed_zero3", 2),
}


def strategy_options(name: str) -> list[str]:
    """Options that select a strategy."""
    strategy, devices, *options = STRATEGIES[name]
    return [
        *("--trainer.accelerator=cpu", f"--trainer.strategy={strategy}", f"--trainer.devices={devices}"),
        *options,
    ]


# A small recipe in which errors show: high learning rate, active clipping, memory.
SENSITIVE = [
    *("--batch.global_batch_size=8", "--model.config.dropout=0", "--trainer.max_steps=10"),
    *("--trainer.gradient_clip_val=0.1", "--trainer.val_check_interval=5"),
]
ADAMW = ["--model.optimizer=torch.optim.AdamW", "--model.optimizer.lr=0.01", "--model.optimizer.weight_decay=0.01"]


def with_accumulation(name: str) -> str:
    """The micro-batch size with which every process accumulates two micro-batches per step."""
    data_ranks = {"1 process": 1, "1x2 tensor parallel": 1, "2 replicas of 2 shards": 4}.get(name, 2)
    return f"--batch.micro_batch_size={4 // data_ranks}"


def weights(run: Path) -> dict[str, torch.Tensor]:
    """The trained weights of a run."""
    return load_checkpoint(newest_readable(run / "checkpoints", "last-*.ckpt"))["state_dict"]
