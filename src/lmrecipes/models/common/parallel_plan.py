"""A declarative plan of how a network may be sharded and split; strategies apply it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Split = Literal["columns", "rows", "heads", "local_inputs"]


@dataclass(frozen=True, kw_only=True)
class ParallelPlan:
    """How a network may be sharded and split, by names of its modules and parameters; `*` stands for any number."""

    blocks: str
    """Modules that are sharded, gathered and recomputed one at a time."""
    entry_points: tuple[str, ...] = ()
    """Methods of the network besides `forward` that are called from outside."""
    split: Mapping[str, Split] = field(default_factory=dict)
    """How tensor parallelism splits the network.

    columns: a linear layer by its outputs, whose input every process has; rows: one by its inputs, which are split
    already, summing the outputs; heads: a parameter by its first dimension; local_inputs: a module that is handed such
    parameters gets this process's part of them.
    """
    must_divide: Mapping[str, int] = field(default_factory=dict)
    """Sizes that the number of tensor-parallel processes must divide: field of the configuration, and its value."""

    def check(self, tensor_parallel_size: int) -> None:
        """Refuses a number of tensor-parallel processes that does not divide the sizes.

        Raises:
            ValueError: naming the field and numbers that work.
        """
        if tensor_parallel_size == 1:
            return
        if not self.split:
            raise ValueError(
                f"trainer.strategy splits tensors over {tensor_parallel_size} processes, but this model has no plan "
                f"for that; fsdp2 works"
            )
        for name, value in self.must_divide.items():
            if value % tensor_parallel_size:
                limit = min(self.must_divide.values())
                fitting = [n for n in range(1, limit + 1) if all(v % n == 0 for v in self.must_divide.values())]
                raise ValueError(
                    f"trainer.strategy splits tensors over {tensor_parallel_size} processes, but model.config.{name} "
                    f"is {value}, which is not divisible by that; tensor_parallel_size {_listed(fitting)} would"
                )


def _listed(numbers: list[int]) -> str:
    return " or ".join(str(n) for n in numbers[-3:])
