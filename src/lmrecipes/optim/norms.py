"""Norms of tensors that may be sharded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from lmrecipes.runtime.dtensor import is_split


def local(tensor: Tensor) -> Tensor:
    """This process's shard of a tensor, sharing its memory."""
    return tensor.to_local() if is_split(tensor) else tensor


def like(part: Tensor, tensor: Tensor) -> Tensor:
    """A tensor sharded like `tensor`, of which this process holds `part`."""
    if not is_split(tensor):
        return part
    return type(tensor).from_local(
        part, tensor.device_mesh, tensor.placements, run_check=False, shape=tensor.shape, stride=tensor.stride()
    )


@torch.no_grad()
def norms(tensors: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of every full tensor, float32 of shape (len(tensors),), the same on all processes.

    Args:
        tensors: plain tensors, or DTensors split over any dimensions of any meshes; at least one.
    """
    whole = [_without_sums(t) for t in tensors]
    parts = torch._foreach_norm([local(t) for t in whole], 2, torch.float32)
    squares = torch.stack([part.to(torch.float32) for part in parts]).square()
    split: dict[str, tuple[dist.ProcessGroup, list[int]]] = {}
    for i, t in enumerate(whole):
        if is_split(t):
            for dimension, placement in enumerate(t.placements):
                if not placement.is_replicate():
                    group = t.device_mesh.get_group(dimension)
                    split.setdefault(group.group_name, (group, []))[1].append(i)
    for group, indices in split.values():
        chosen = torch.tensor(indices, device=squares.device)
        sums = squares[chosen]
        dist.all_reduce(sums, group=group)
        squares[chosen] = sums
    return squares.sqrt()


def _without_sums(tensor: Tensor) -> Tensor:
    if not is_split(tensor) or not any(p.is_partial() for p in tensor.placements):
        return tensor
    from torch.distributed.tensor import Replicate

    return tensor.redistribute(placements=[Replicate() if p.is_partial() else p for p in tensor.placements])


def clip_by_global_norm(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scales all gradients so that their total norm is at most max_norm; returns the norm before clipping.

    Like `torch.nn.utils.clip_grad_norm_`, but for any mix of sharded and plain tensors.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    if not grads:
        return torch.zeros(())
    norm = torch.linalg.vector_norm(norms(grads))
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_([local(grad) for grad in grads], scale)
    return norm
