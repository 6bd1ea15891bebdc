"""State of a training for models, data and callbacks, the same under Lightning's Trainer and the Fabric loop."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor


class DataRank(NamedTuple):
    """Rank and size among data-parallel processes; a tensor-parallel group reads the same data."""

    rank: int
    size: int


def data_rank(trainer: Any) -> DataRank:
    """The data rank of this process, under any strategy of a started Trainer; rank 0 of 1 without one."""
    if trainer is None:
        return DataRank(0, 1)
    kwargs = trainer.distributed_sampler_kwargs
    if kwargs is None:
        return DataRank(trainer.global_rank, trainer.world_size)
    return DataRank(int(kwargs["rank"]), int(kwargs["num_replicas"]))


def sum_over_ranks(trainer: Any, tensor: Tensor) -> Tensor:
    """The sum over all processes, on every process, under the Trainer and under Fabric."""
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


def is_due(step: int, every: int) -> bool:
    """Whether something that happens every so many steps happens at this one; with 0 it never does."""
    return every > 0 and step % every == 0


def is_sanity_check(trainer: Any) -> bool:
    """Whether this is the Trainer's sanity check before training."""
    return bool(getattr(trainer, "sanity_checking", False))
