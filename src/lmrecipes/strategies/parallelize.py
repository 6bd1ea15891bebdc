"""Applies a parallel plan: tensor parallelism, activation checkpointing, then sharding."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint

from lmrecipes.models.common.parallel_plan import ParallelPlan


class LocalInputs(ParallelStyle):
    """Passes a module this process's shard of every DTensor among its inputs."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        module.register_forward_pre_hook(lambda _, inputs: tree_map(_local, inputs))
        return module


def _local(value: Any) -> Any:
    return value.to_local() if isinstance(value, DTensor) else value


_STYLES: dict[str, type[ParallelStyle]] = {
    "columns": ColwiseParallel,
    "rows": RowwiseParallel,
    "local_inputs": LocalInputs,
}


def split_tensors(network: nn.Module, plan: ParallelPlan, mesh: DeviceMesh) -> None:
    """Distributes linear layers and parameters over a tensor-parallel mesh.

    Raises:
        ValueError: if a pattern of the plan matches nothing.
    """
    for pattern, split in plan.split.items():
        if split == "heads":
            _split_parameters(network, pattern, mesh)
            continue
        names = [name for name, _ in network.named_modules() if fnmatchcase(name, pattern) and _deep(name, pattern)]
        if not names:
            raise ValueError(f"the model's parallel plan names {pattern}, which matches nothing in the network")
        parallelize_module(network, mesh, {name: _STYLES[split]() for name in names})


def _deep(name: str, pattern: str) -> bool:
    return name.count(".") == pattern.count(".")


def _split_parameters(network: nn.Module, pattern: str, mesh: DeviceMesh) -> None:
    names = [name for name, _ in network.named_parameters() if fnmatchcase(name, pattern) and _deep(name, pattern)]
    if not names:
        raise ValueError(f"the model's parallel plan names {pattern}, which matches nothing in the network")
    for name in names:
        where, _, last = name.rpartition(".")
        module = network.get_submodule(where)
        whole = getattr(module, last)
        # All processes built the same parameters from the same seed: no broadcast needed.
        part = distribute_tensor(whole.detach(), mesh, [Shard(0)], src_data_rank=None)
        setattr(module, last, nn.Parameter(part, requires_grad=whole.requires_grad))


def blocks(network: nn.Module, plan: ParallelPlan) -> Iterator[nn.Module]:
    """The modules that are sharded and recomputed one at a time."""
    for name, module in network.named_modules():
        if fnmatchcase(name, plan.blocks) and _deep(name, plan.blocks):
            yield module


def checkpoint_activations(network: nn.Module, plan: ParallelPlan) -> None:
    """Applies activation checkpointing to every block."""
    for block in blocks(network, plan):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def shard(network: nn.Module, plan: ParallelPlan, mesh: DeviceMesh, **settings: Any) -> None:
    """Shards every block, then the rest of the network, over a mesh (FSDP2).

    Args:
        network: whose parameters are split.
        plan: which modules are gathered at once.
        mesh: of one dimension, or of two to replicate over the first.
        settings: passed to `fully_shard`.
    """
    # Safe because outputs are not modified in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
    for block in blocks(network, plan):
        fully_shard(block, mesh=mesh, **settings)
    fully_shard(network, mesh=mesh, **settings)
    for entry_point in plan.entry_points:
        register_fsdp_forward_method(network, entry_point)


def synchronize_gradients(network: nn.Module, enabled: bool) -> None:
    """Turns gradient reduction in the backward pass on or off: off before the last micro-batch of a step."""
    if isinstance(network, FSDPModule):
        network.set_requires_gradient_sync(enabled)
