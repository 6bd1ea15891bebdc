"""When one rank fails, all exit within seconds, and one line says which and why."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
import time
import warnings
from datetime import timedelta
from typing import Any

import torch
from lightning.fabric.plugins.collectives.torch_collective import default_pg_timeout
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger

from lmrecipes import runs
from lmrecipes.resilience import failure_report
from lmrecipes.resilience.heartbeat import Address, End, Member
from lmrecipes.resilience.hub import Hub
from lmrecipes.resilience.hub_host import hub_host

# Errors that surviving ranks raise when another is gone.
_OF_ANOTHER = re.compile(r"gloo|nccl|connection (closed|reset|refused|was)|broken pipe|process ?group|socket", re.I)
_PATIENCE_S = 10.0
_AFTER_S = 3.0


class FailFast(Callback):
    """Ends all ranks when one of them raises, hangs or is killed.

    A rank that raises reports it in one line and writes its traceback to `errors/rank<N>.txt` of the run; a rank that
    disappears (SIGKILL, node failure) is reported by the first of the others. Ranks are notified over a connection of
    their own, whatever they are blocked on. No extra process is started, and nothing is done per step.
    """

    def __init__(self) -> None:
        self._connection: Hub | Member | None = None
        self._trained = False
        self._ending = threading.Event()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Connects the ranks."""
        self._trainer = trainer
        if trainer.world_size == 1 or self._connection is not None:
            return
        environment: Any = getattr(trainer.strategy, "cluster_environment", None)
        host = hub_host(environment.main_address)
        address: Address | None = None
        try:
            if trainer.is_global_zero:
                hub = Hub(host, trainer.world_size, self._other_ended, failure_report.state)
                self._connection, address = hub, hub.address
        except OSError as error:
            warnings.warn(f"the ranks cannot connect to each other: rank 0 at {host}: {error}", stacklevel=2)
        # Also without an address: the others wait for it.
        address = trainer.strategy.broadcast(address)
        try:
            if address is not None and not trainer.is_global_zero:
                self._connection = Member(trainer.global_rank, address, self._other_ended, failure_report.state)
        except OSError as error:
            warnings.warn(f"rank {trainer.global_rank} cannot connect to the other ranks: {error}", stacklevel=2)
        if self._connection is not None:
            failure_report.connect(self)

    def _children(self) -> list[subprocess.Popen]:
        """Processes that Lightning started from this one."""
        return getattr(self._trainer.strategy.launcher, "procs", [])

    def fail(self, code: int, stacks: bool) -> None:
        """Notifies the other ranks that this one failed."""
        if self._connection is not None:
            _cancel_observer()
            self._connection.fail(code, stacks)
            _end_all(self._children())

    def states(self) -> dict[int, Any]:
        """The phase of every rank; None for ranks that do not answer."""
        return self._connection.states() if self._connection is not None else {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From now on an error is a failure of the run rather than bad input."""
        self._trained = True

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Closes the connection: ranks may exit one by one."""
        self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.done()
            self._connection = None
            failure_report.connect(None)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Reports the error of this rank, unless another rank's failure caused it."""
        if trainer.world_size == 1:
            return
        if not isinstance(exception, Exception):
            # Ctrl-C, a signal, or a collective stop: not a failure.
            self._disconnect()
            return
        if self._ending.wait(_PATIENCE_S if _follows(exception) else 0.3):
            # The heartbeat thread ends this process.
            time.sleep(60)
        refused = not self._trained and isinstance(exception, ValueError | OSError | MisconfigurationException)
        where = f"at step {trainer.global_step}" if self._trained else "before training"
        code = failure_report.report(exception, trainer.global_rank, where, refused=refused)
        self._connection = None
        # Destructors that wait for other ranks would block forever.
        timer = threading.Timer(_PATIENCE_S, failure_report.leave, [code])
        timer.daemon = True
        timer.start()

    def _other_ended(self, end: End) -> None:
        """Ends this process, from the thread that was notified of another's failure."""
        self._ending.set()
        _cancel_observer()
        trainer = self._trainer
        children = self._children()
        if end.code is None:
            how = _how_it_ended(end, trainer, children)
            if failure_report.claim():
                who = failure_report.name_of(end.rank, end.host)
                failure_report.say(f"{who} {how}, at about step {trainer.global_step}{failure_report.onward()}")
        elif end.code == failure_report.REFUSED:
            runs.discard_if_unused()
        if end.stacks:
            failure_report.write_stacks(trainer.global_rank)
        for logger in trainer.loggers:
            if isinstance(logger, CSVLogger):
                logger.save()
        _end_all(children)
        environment: Any = getattr(trainer.strategy, "cluster_environment", None)
        external = environment is not None and environment.creates_processes_externally
        if external:
            # Launchers blame the first process that exits.
            time.sleep(_AFTER_S)
        by_first = not external and trainer.local_rank
        # Lightning kills the process that started others as soon as one of them reports a failure.
        failure_report.leave(0 if by_first and end.code is not None else end.code or failure_report.FAILED)


def _follows(exception: BaseException) -> bool:
    distributed = getattr(torch.distributed, "DistError", ())
    return isinstance(exception, distributed) or (
        isinstance(exception, RuntimeError) and _OF_ANOTHER.search(str(exception)) is not None
    )


def _how_it_ended(end: End, trainer: Trainer, children: list[subprocess.Popen]) -> str:
    """Describes the end of a process that reported no failure."""
    memory = "out of memory? see dmesg"
    local = end.rank - trainer.global_rank - 1
    if 0 <= local < len(children):
        try:
            code = children[local].wait(2)
        except subprocess.TimeoutExpired:
            return "closed its connection"
        if code < 0:
            name = signal.Signals(-code).name
            return f"was killed by {name}" + (f" ({memory})" if -code == signal.SIGKILL else "")
        return f"ended with code {code}"
    return f"disappeared: node failure or SIGKILL ({memory})"


def _cancel_observer() -> None:
    """Keeps Lightning's observer from killing this process seconds after one of its children failed."""
    for thread in threading.enumerate():
        if thread.name == "child-process-observer" and hasattr(thread, "_child_processes"):
            thread._child_processes = []


def _end_all(children: list[subprocess.Popen]) -> None:
    """Waits for child processes, and kills those that do not exit."""
    deadline = time.monotonic() + 3
    for child in children:
        try:
            child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def set_group_timeout(trainer: Trainer, minutes: float) -> None:
    """Sets the timeout of collectives, unless the recipe's strategy sets its own."""
    strategy: Any = trainer.strategy
    if getattr(strategy, "_timeout", None) == default_pg_timeout:
        strategy._timeout = timedelta(minutes=minutes)
