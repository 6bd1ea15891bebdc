"""Callbacks that make one rank or its disk fail in various ways."""

import ctypes
import errno
import io
import json
import os
import signal
import threading
import time
from pathlib import Path

import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint


class Fault(Callback):
    """Raises, hangs, kills, or corrupts the loss of a micro-batch of the step after `step`, in `rank`."""

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
            # Covers all parameters, under any strategy.
            loss.register_hook(lambda gradient: gradient * torch.inf)

    def on_train_start(self, trainer, pl_module) -> None:
        if self.kind not in ("nan", "spike"):
            return
        step = pl_module.training_step
        last_pass = trainer.accumulate_grad_batches - 1

        def corrupted_step(batch, batch_idx):
            loss = step(batch, batch_idx)
            # In the first of several micro-batches.
            if self._now(trainer) and batch_idx % (last_pass + 1) == 0:
                return loss * (torch.nan if self.kind == "nan" else 100.0)
            return loss

        pl_module.training_step = corrupted_step


class _FilledFile(io.RawIOBase):
    """Accepts the beginning of a file; failing at its first byte, torch would report the system's error unchanged."""

    room = 200

    def writable(self) -> bool:
        return True

    def write(self, content) -> int:
        if len(content) > self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= len(content)
        return len(content)


class FullDisk(Callback):
    """From a step on, the disk is full for a part of the checkpoints that `rank` writes: `rest` or `shards`.

    Records which checkpoints exist in the middle of every step whose checkpoint has been written, and what the
    checkpoint callbacks report at the end.
    """

    def __init__(self, part: str, step: int, rank: int) -> None:
        self.part, self.step, self.rank = part, step, rank
        self.save, self.seen = torch.save, []

    def _save(self, content, file, *arguments, **options) -> None:
        if isinstance(content, dict) is not (self.part == "rest"):
            return self.save(content, file, *arguments, **options)
        return self.save(content, _FilledFile(), *arguments, **options)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        for thread in threading.enumerate():
            if thread.name == "checkpoint":
                thread.join()
        if trainer.global_step + 1 == self.step and trainer.global_rank == self.rank:
            torch.save = self._save

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        self.seen.append(sorted(p.name for p in Path(trainer.default_root_dir, "checkpoints").glob("*.ckpt")))
        trainer.strategy.barrier()

    def on_fit_end(self, trainer, pl_module) -> None:
        torch.save = self.save
        saved = {
            type(c).__name__: [Path(c.best_model_path).name, c._last_global_step_saved]
            for c in trainer.callbacks
            if isinstance(c, ModelCheckpoint)
        }
        Path(trainer.default_root_dir, f"rank{trainer.global_rank}.json").write_text(json.dumps([self.seen, saved]))
