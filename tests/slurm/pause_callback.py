"""A callback that pauses a job, to give a test time to act between two steps."""

import os
import time

from lightning.pytorch import Callback

from lmrecipes.resilience import signals


class PauseJob(Callback):
    """Pauses a SLURM job after some steps until its process gets a signal or is killed; can also make it fail.

    Args:
        steps: steps after which to pause in the job's first start, second start and so on; later starts do not pause.
        task: the only task of an array to pause; None: every job.
        fail_at: the step at which it fails.
    """

    def __init__(self, steps: list[int] | None = None, task: int | None = None, fail_at: int | None = None) -> None:
        started = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        is_my_task = task is None or os.environ.get("SLURM_ARRAY_TASK_ID") == str(task)
        here = "SLURM_JOB_ID" in os.environ and is_my_task
        self.step = steps[started] if steps and here and started < len(steps) else -1
        self.fail_at = fail_at

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        while trainer.global_step == self.step and not signals.noted():
            time.sleep(0.01)
        if trainer.global_step == self.fail_at:
            raise RuntimeError("a bug in the model")
