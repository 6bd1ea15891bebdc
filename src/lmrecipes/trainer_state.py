"""What models, data and callbacks ask of a training, the same under Lightning's Trainer and the loop under Fabric."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor


class DataRank(NamedTuple):
    """Place among the processes that read different data; those of one tensor-parallel group read the same."""

    rank: int
    size: int


def data_rank(trainer: Any) -> DataRank:
    """The place of this process, under any strategy of a Trainer that has begun; the only one without a trainer."""
    if trainer is None:
        return DataRank(0, 1)
    kwargs = trainer.distributed_sampler_kwargs
    if kwargs is None:
        return DataRank(trainer.global_rank, trainer.world_size)
    return DataRank(int(kwargs["rank"]), int(kwargs["num_replicas"]))


def sum_over_ranks(trainer: Any, tensor: Tensor) -> Tensor:
    """The sum of what every process has, in every process, under the Trainer and under Fabric."""
    if hasattr(trainer, "all_reduce"):
        tensor = trainer.all_reduce(tensor, reduce_op="sum")
    else:
        tensor = trainer.strategy.reduce(tensor, reduce_op="sum")
    return tensor


def completes_step(trainer: Any) -> bool:
    """Whether the current micro-batch is the last of an optimizer step."""
    loop = getattr(trainer, "fit_loop", None)
    return bool(trainer.completes_step if loop is None else not loop._should_accumulate())


def logs_step(trainer: Any) -> bool:
    """Whether the current step is logged."""
    connector = getattr(trainer, "_logger_connector", None)
    return bool(trainer.logs_step if connector is None else connector.should_update_logs)


def is_sanity_check(trainer: Any) -> bool:
    """Whether this is the Trainer's trial validation before training."""
    return bool(getattr(trainer, "sanity_checking", False))
