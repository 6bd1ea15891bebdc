"""Ends a run that hangs, and reports where."""

from __future__ import annotations

import faulthandler
import platform
import sys
import threading
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lmrecipes.config.validation import minutes
from lmrecipes.resilience import failure_report


def _heartbeat(phase: str) -> Any:
    """A hook that records the phase of training."""

    def hook(self: Watchdog, *_: Any) -> None:
        self._note(phase)

    hook.__doc__ = f"Heartbeat: {phase}."
    return hook


class Watchdog(Callback):
    """Ends a run when a rank has made no progress for some time.

    Every batch of training and validation, every part of a step and every checkpoint counts as progress. A thread
    watches the clock; steps only record the time. A hang is reported in one line by the rank with the oldest
    progress; the stacks of all threads of all ranks go to `errors/rank<N>-stacks.txt` of the run. The exit code is
    4.
    """

    def __init__(self, timeout_minutes: float = 30.0, end_process: bool = True) -> None:
        """Sets the timeout.

        Args:
            timeout_minutes: maximum time of one batch or one checkpoint.
            end_process: False only reports the hang, and keeps waiting.
        """
        self.timeout_minutes = minutes("Watchdog.timeout_minutes", timeout_minutes)
        self.end_process = end_process
        self._done: threading.Event | None = None
        self._moves = 0
        self._note("the start of training")

    def _note(self, doing: str) -> None:
        self._moves += 1
        # A single assignment is atomic for the watching thread.
        self._last = (time.monotonic(), doing)

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts watching."""
        self._begin(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts watching."""
        self._note("fetching the next batch")
        self._begin(trainer)

    def _begin(self, trainer: Trainer) -> None:
        if self._done is None:
            self._done = threading.Event()
            self._trainer = trainer
            failure_report.describe_by(self._state)
            threading.Thread(target=self._watch, args=(trainer, self._done), name="watchdog", daemon=True).start()

    def _state(self) -> failure_report.State:
        where = f"hangs at step {self._trainer.global_step} in {self._last[1]}"
        what = f"{where}: no progress for {self.timeout_minutes:g} minutes"
        return failure_report.State(self._moves, _waits_for_others(), platform.node(), what)

    def _end(self) -> None:
        if self._done is not None:
            self._done.set()
            self._done = None
            failure_report.describe_by(None)

    def _watch(self, trainer: Trainer, done: threading.Event) -> None:
        limit = 60 * self.timeout_minutes
        last_reported = 0.0
        # If the GIL is held forever, faulthandler's C thread ends the process.
        last_resort = self.end_process and _has_file(sys.stderr)
        try:
            while True:
                if last_resort:
                    faulthandler.dump_traceback_later(2 * limit, exit=True)
                moved, _ = self._last
                if (left := moved + limit - time.monotonic()) > 0:
                    if done.wait(left):
                        return
                    continue
                if last_reported != moved:
                    last_reported = moved
                    failure_report.hung(trainer.global_rank, self._state())
                    if self.end_process:
                        failure_report.end_hung()
                if done.wait(limit):
                    return
        finally:
            if last_resort:
                faulthandler.cancel_dump_traceback_later()

    on_train_batch_start = _heartbeat("the training step")
    on_before_backward = _heartbeat("the backward pass")
    on_before_optimizer_step = _heartbeat("the optimizer step")
    on_train_batch_end = _heartbeat("fetching the next batch")
    on_validation_start = _heartbeat("validation, fetching the first batch")
    on_validation_batch_start = _heartbeat("a validation step")
    on_validation_batch_end = _heartbeat("validation, fetching the next batch")
    on_validation_end = _heartbeat("fetching the next batch")
    on_save_checkpoint = _heartbeat("writing a checkpoint")

    def teardown(self, *_: Any, **__: Any) -> None:
        """Stops watching."""
        self._end()

    def on_exception(self, *_: Any) -> None:
        """Stops watching."""
        self._end()


def _waits_for_others() -> bool:
    """Whether the main thread is inside torch.distributed."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        if frame.f_code.co_filename.endswith("distributed_c10d.py"):
            return True
        frame = frame.f_back
    return False


def _has_file(stream: Any) -> bool:
    try:
        return stream.fileno() >= 0
    except (AttributeError, OSError, ValueError):
        return False
