"""Adam as BERT and Google's ELECTRA are trained with: decoupled weight decay, no bias correction."""

from __future__ import annotations

from torch.optim.optimizer import ParamsT

from lmrecipes.optim.lamb import LAMB


class BertAdam(LAMB):
    """w -= lr * (m / (sqrt(v) + eps) + weight_decay * w), which is LAMB's step without its trust ratio."""

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, trust_ratio=False)
