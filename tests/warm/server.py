"""Imports what commands need, then forks a process for every request: `server.py SOCKET PROGRAM READY`."""

import atexit
import ctypes
import gc
import importlib
import marshal
import os
import pkgutil
import random
import runpy
import selectors
import signal
import socket
import sys
import tempfile
import threading
import traceback
import types

_PR_SET_PDEATHSIG = 1
# Modules that lmrecipes, Lightning and torch import lazily.
LATER = (
    *("datasets", "deepspeed", "matplotlib.pyplot", "pyarrow.parquet", "tensorboard", "torch._dynamo"),
    *("torch.distributed.checkpoint", "torch.distributed.fsdp", "torch.distributed.run", "torch.distributed.tensor"),
    *("torch.distributed.tensor.parallel", "torch.utils.tensorboard", "transformers.models.electra.modeling_electra"),
    *("transformers.models.mt5.modeling_mt5", "torch.testing", "lightning.pytorch.strategies.deepspeed"),
    *("torch.export", "rich.progress"),
)


def import_all() -> None:
    import lmrecipes

    for module in pkgutil.walk_packages(lmrecipes.__path__, "lmrecipes."):
        if not module.name.endswith(("__main__", "prepare_helper")):
            importlib.import_module(module.name)
    for name in LATER:
        importlib.import_module(name)


def receive(connection: socket.socket, size: int) -> bytes:
    content = b""
    while len(content) < size:
        part = connection.recv(size - len(content))
        if not part:
            raise EOFError
        content += part
    return content


class Server:
    def __init__(self, address: str, program: str) -> None:
        self.program = program
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(address)
        self.listening.listen(64)
        self.wake, wakes = os.pipe()
        for end in (self.wake, wakes):
            os.set_blocking(end, False)
        self.wakes = wakes
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakes)
        # Connection to each fork's stand-in; None once the stand-in was killed.
        self.children: dict[int, socket.socket | None] = {}
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listening, selectors.EVENT_READ)
        self.selector.register(self.wake, selectors.EVENT_READ)

    def serve(self) -> None:
        while True:
            for key, _ in self.selector.select():
                if key.fileobj is self.listening:
                    self.accept()
                elif key.fileobj == self.wake:
                    os.read(self.wake, 4096)
                    self.reap()
                else:
                    self.disconnect(key.fileobj)

    def accept(self) -> None:
        connection, _ = self.listening.accept()
        try:
            size, files, _, _ = socket.recv_fds(connection, 4, 3)
            request = marshal.loads(receive(connection, int.from_bytes(size, "little")))
        except (EOFError, OSError):
            connection.close()
            return
        pid = os.fork()
        if pid == 0:
            self.selector.close()
            for other in (self.listening, connection, *filter(None, self.children.values())):
                other.close()
            signal.set_wakeup_fd(-1)
            os.close(self.wake)
            os.close(self.wakes)
            become(*request, files, self.program)
        for file in files:
            os.close(file)
        self.children[pid] = connection
        self.selector.register(connection, selectors.EVENT_READ)
        self.answer(connection, pid)

    def answer(self, connection: socket.socket, number: int) -> None:
        try:
            connection.sendall(number.to_bytes(4, "little", signed=True))
        except OSError:
            pass

    def reap(self) -> None:
        while self.children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            if (connection := self.children.pop(pid, None)) is not None:
                self.answer(connection, status)
                self.selector.unregister(connection)
                connection.close()

    def disconnect(self, connection: socket.socket) -> None:
        """Kills the fork whose stand-in was killed."""
        self.selector.unregister(connection)
        connection.close()
        pid = next(pid for pid, stand_in in self.children.items() if stand_in is connection)
        self.children[pid] = None
        os.kill(pid, signal.SIGKILL)


def become(words, variables, folder, ignored, files, program) -> None:
    """Turns this fork into `python WORDS`; does not return."""
    code = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.setsid()
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)
        os.environ.clear()
        os.environ.update(variables)
        os.chdir(folder)
        paths = [path for path in variables.get("PYTHONPATH", "").split(os.pathsep) if path]
        first = {"-m": folder, "-c": ""}.get(words[0], os.path.dirname(os.path.abspath(words[0])))
        sys.path[:] = [first, *paths, *(path for path in BASE if path not in paths)]
        sys.executable, sys.orig_argv = program, [program, *words]
        text_mode = {"encoding": "utf-8", "closefd": False}
        sys.stdin = open(0, **text_mode)
        sys.stdout = open(1, "w", buffering=1 if os.isatty(1) or variables.get("PYTHONUNBUFFERED") else -1, **text_mode)
        sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", **text_mode)
        tempfile.tempdir = None
        random.seed()
        code = run(words)
    finally:
        os._exit(code)


def run(words: list[str]) -> int:
    """Does what the interpreter does from the first line to the exit code."""
    code = 0
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            for name in (words[1], f"{words[1]}.__main__"):
                sys.modules.pop(name, None)
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        elif words[0] == "-c":
            sys.argv = ["-c", *words[2:]]
            sys.modules["__main__"] = main = types.ModuleType("__main__")
            exec(compile(words[1], "<string>", "exec"), main.__dict__)
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as leaving:
        if isinstance(leaving.code, str):
            print(leaving.code, file=sys.stderr)
        code = leaving.code if isinstance(leaving.code, int) else 0 if leaving.code is None else 1
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code & 0xFF


if __name__ == "__main__":
    address, program, ready = sys.argv[1:]
    OWN = {os.path.dirname(os.path.abspath(__file__)), *os.environ.get("PYTHONPATH", "").split(os.pathsep)}
    BASE = [path for path in sys.path if path not in OWN]
    sys.path.insert(1, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    accelerator = os.environ.get("DS_ACCELERATOR")
    os.environ["DS_ACCELERATOR"] = "cpu"
    import_all()
    if accelerator is None:
        del os.environ["DS_ACCELERATOR"]
    server = Server(address, program)
    print("threads", threading.active_count(), os.listdir("/proc/self/task"), flush=True)
    gc.collect()
    gc.freeze()
    with open(ready, "wb") as file:
        file.write(b"ready")
    server.serve()
