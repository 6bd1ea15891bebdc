"""Runs `lmrecipes` again and again, each time in a forked process that is killed at a given moment.

Imports, which take long, are done once. Called as `python fork_and_kill.py PLAN LOG`: the plan is a JSON list of
attempts, each with `arguments`, `moment` (of `Killed`, or None) and `ranks`; prints a JSON list of their exit codes.
"""

import io
import json
import os
import shutil
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

import torch
from lightning.pytorch import Callback

from lmrecipes import runs
from lmrecipes.__main__ import main
from lmrecipes.commands import fit

assert fit  # imported here so that forks need not


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Killed(Callback):
    """Sends this process SIGKILL at the moment `[where, n]` given in the environment: the n-th time `where` is reached.

    `where` is one of the methods below, or `anywhere`: then the process that forked this one kills it, n seconds after
    training began.
    """

    def __init__(self) -> None:
        self.where, self.times = json.loads(os.environ.get("MOMENT", '["", 0]'))
        self.watch_files()

    def at(self, where: str) -> None:
        if where == self.where:
            self.times -= 1
            if self.times == 0:
                die()

    # Between and within steps.

    def on_train_start(self, trainer, pl_module) -> None:
        os.write(int(os.environ["BEGUN"]), b"!")
        parameters = list(pl_module.parameters())
        for parameter in (parameters[0], parameters[len(parameters) // 2]):
            parameter.register_hook(lambda gradient: self.at("backward"))
        trainer.optimizers[0].register_step_post_hook(lambda *_: self.at("after the optimizer"))

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.at("batch begins" if batch_idx % trainer.accumulate_grad_batches else "step begins")

    def on_before_backward(self, trainer, pl_module, loss) -> None:
        self.at("forward done")

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        self.at("before the optimizer")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.at("between micro-batches" if trainer.fit_loop._should_accumulate() else "step ends")

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        self.at("validation")

    def on_validation_end(self, trainer, pl_module) -> None:
        self.at("validation ends")

    # While checkpoints and settings are saved.

    def watch_files(self) -> None:
        save, replace, sync, remove = torch.save, os.replace, os.fsync, shutil.rmtree

        def save_half(content, file, *rest, **more) -> None:
            if self.where == "half written" and self.times == 1:
                buffer = io.BytesIO()
                save(content, buffer)
                file.write(buffer.getvalue()[: buffer.tell() // 2])
                file.flush()
            self.at("half written")
            save(content, file, *rest, **more)

        def rename(source, target) -> None:
            is_checkpoint = Path(target).suffix == ".ckpt"
            if Path(target).name == runs.CONFIG:
                self.at("settings")
            if is_checkpoint:
                self.at("before the rename")
            replace(source, target)
            if is_checkpoint:
                self.at("after the rename")

        def fsync(handle) -> None:
            self.at("not on disk yet")
            sync(handle)

        def rmtree(path, *rest, **more) -> None:
            if Path(path).is_dir():
                self.at("removal")
            remove(path, *rest, **more)

        torch.save, os.replace, os.fsync, shutil.rmtree = save_half, rename, fsync, rmtree


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def fork(arguments: list[str], variables: dict[str, str], log: Path) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.environ.update(variables)
        handle = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        code = main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def attempt(arguments: list[str], moment: list | None, ranks: int, log: Path) -> list[int]:
    """Runs one attempt to its end; when one rank is killed, the others are killed too."""
    started, start = os.pipe()
    variables = {"BEGUN": str(start), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    os.set_inheritable(start, True)
    processes = {}
    for rank in range(ranks):
        extra = {"LOCAL_RANK": str(rank)} if ranks > 1 else {}
        if moment and rank == (moment[2] if len(moment) > 2 else 0):
            extra["MOMENT"] = json.dumps(moment[:2])
        processes[fork(arguments, {**variables, **extra}, log)] = rank
    os.close(start)
    if moment and moment[0] == "anywhere" and os.read(started, 1):
        time.sleep(moment[1])
        for pid in processes:
            os.kill(pid, signal.SIGKILL)
    codes = [0] * ranks
    left = set(processes)
    while left:
        pid, status = os.wait()
        left.discard(pid)
        codes[processes[pid]] = os.waitstatus_to_exitcode(status)
        if codes[processes[pid]] == -signal.SIGKILL:
            for other in left:
                os.kill(other, signal.SIGKILL)
    os.close(started)
    return codes


def run(plan: list[dict], log: Path) -> list[list[int]]:
    codes = []
    for one in plan:
        codes.append(attempt(one["arguments"], one.get("moment"), one.get("ranks", 1), log))
        if any(code not in (0, -signal.SIGKILL) for code in codes[-1]):
            break
    return codes


if __name__ == "__main__":
    # Otherwise the class path of the callback would import this file a second time, with state of its own.
    sys.modules["fork_and_kill"] = sys.modules["__main__"]
    print(json.dumps(run(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))))
