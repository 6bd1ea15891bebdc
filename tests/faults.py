"""A callback by which one rank goes wrong at one step, in one of the ways that ranks do."""

import ctypes
import os
import signal
import time

import torch
from lightning.pytorch import Callback


class Fault(Callback):
    """Raises, hangs, is killed, or spoils the loss of a pass of the step after `step`, in `rank`."""

    def __init__(self, kind: str, step: int, rank: int = 0, last: int | None = None, where: str = "training") -> None:
        self.kind, self.step, self.rank, self.where = kind, step, rank, where
        self.last = step if last is None else last

    def _now(self, trainer) -> bool:
        here = self.step <= trainer.global_step <= self.last and trainer.global_rank == self.rank
        return here and not os.environ.get("WELL")

    def _act(self, trainer) -> None:
        if not self._now(trainer):
            return
        match self.kind:
            case "raise":
                raise RuntimeError("the disk\n is on fire")
            case "refuse":
                raise ValueError("that number will not do")
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "hang":
                time.sleep(1000)
            case "hang holding the GIL":
                ctypes.PyDLL(None).sleep(1000)

    def setup(self, trainer, pl_module, stage) -> None:
        if self.where == "setup" and trainer.global_rank == self.rank:
            raise ValueError("that number will not do")

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if self.where == "training":
            self._act(trainer)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        if self.where == "validation":
            self._act(trainer)

    def on_save_checkpoint(self, trainer, pl_module, checkpoint) -> None:
        if self.where == "checkpoint":
            self._act(trainer)

    def on_after_backward(self, trainer, pl_module) -> None:
        if self.kind == "gradient" and self._now(trainer):
            next(p for p in pl_module.parameters() if p.grad is not None).grad.fill_(torch.inf)

    def on_before_backward(self, trainer, pl_module, loss) -> None:
        if self.kind == "gradient of the loss" and self._now(trainer):
            # Under any strategy, for all parameters.
            loss.register_hook(lambda gradient: gradient * torch.inf)

    def on_train_start(self, trainer, pl_module) -> None:
        if self.kind not in ("nan", "spike"):
            return
        step = pl_module.training_step
        last_pass = trainer.accumulate_grad_batches - 1

        def spoilt(batch, batch_idx):
            loss = step(batch, batch_idx)
            # In the first of several passes.
            if self._now(trainer) and batch_idx % (last_pass + 1) == 0:
                return loss * (torch.nan if self.kind == "nan" else 100.0)
            return loss

        pl_module.training_step = spoilt
