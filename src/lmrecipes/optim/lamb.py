"""LAMB as NVIDIA's Transformer-XL uses it (You et al. 2020, arXiv:1904.00962, without bias correction)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from lmrecipes.optim.norms import like, local, norms


class LAMB(Optimizer):
    """Adam's direction, scaled per tensor by the ratio of the weight's norm to the step's.

    u = m / (sqrt(v) + eps) + weight_decay * w;  w -= lr * min(|w|, 10) / |u| * u, or -= lr * u if a norm is zero.
    A parameter group with `trust_ratio=False` takes u as it is.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        trust_ratio: bool = True,
    ) -> None:
        if lr < 0 or eps < 0 or weight_decay < 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(
                f"{type(self).__name__} got lr {lr}, betas {tuple(betas)}, eps {eps}, weight_decay {weight_decay}; "
                f"none may be negative, and betas must be below 1"
            )
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "trust_ratio": trust_ratio}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._update(group, params)
        return loss

    def _update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        for p in params:
            if not self.state[p]:
                self.state[p] = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        # The update is elementwise, so each process updates its own shard; only the norms need all of a tensor.
        grads = [local(p.grad) for p in params if p.grad is not None]
        weights = [local(p) for p in params]
        m = [local(self.state[p]["exp_avg"]) for p in params]
        v = [local(self.state[p]["exp_avg_sq"]) for p in params]
        beta1, beta2 = group["betas"]
        torch._foreach_lerp_(m, grads, 1 - beta1)
        torch._foreach_mul_(v, beta2)
        torch._foreach_addcmul_(v, grads, grads, 1 - beta2)
        u = torch._foreach_sqrt(v)
        torch._foreach_add_(u, group["eps"])
        torch._foreach_reciprocal_(u)
        torch._foreach_mul_(u, m)
        if group["weight_decay"]:
            torch._foreach_add_(u, weights, alpha=group["weight_decay"])
        if group["trust_ratio"]:
            weight = norms(params).clamp(max=10)
            update = norms([like(step, p) for step, p in zip(u, params, strict=True)])
            ratio = torch.where((weight > 0) & (update > 0), weight / update, 1.0)
            torch._foreach_mul_(u, list((-group["lr"] * ratio).unbind()))
        else:
            torch._foreach_mul_(u, -group["lr"])
        torch._foreach_add_(weights, u)
