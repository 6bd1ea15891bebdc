"""A pre-imported Python: tests start processes from it in milliseconds instead of seconds.

`python()` is the path of a program to use in place of `sys.executable`. It asks a server, which has imported torch,
Lightning and all of lmrecipes, to fork; the fork becomes the requested process, with its arguments, environment,
working directory and open files, and starts further processes in the same way. The program itself stands in for the
fork: it passes signals on, dies with it, and exits with its code. Anything the server cannot do (other modules, scripts
outside the tests, other variables that are read while importing) is run by the real Python.
"""

import atexit
import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).parent
# Modules that the server can run.
SERVED = ("lmrecipes", "lmrecipes.__main__", "lmrecipes.data.prepared.shard_worker", "torch.distributed.run")
# Variables that are read while importing: a process with other values needs its own imports.
PREFIXES = ("HF_", "TRANSFORMERS_", "TORCH_", "OMP_", "LD_", "LC_", "LANG", "PYTHON")
OTHER = ("PYTHONPATH", "PYTHONUNBUFFERED", "TORCH_NCCL")


@functools.cache
def python() -> str:
    """The path of the program; its server starts at the first call and ends with this process.

    With COLD_PYTHON in the environment, the path of the real Python.
    """
    if os.environ.get("COLD_PYTHON"):
        return sys.executable
    # Socket paths must be short.
    folder = Path(tempfile.mkdtemp(prefix="warm"))
    address, program, ready = folder / "socket", folder / "python", folder / "ready"
    os.mkfifo(ready)
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, str(HERE / "server.py"), str(address), str(program), str(ready)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    atexit.register(_end, server, folder)
    settings = {
        **{"SERVER": str(address), "REAL": sys.executable, "SERVED": SERVED, "TESTS": f"{HERE.parent}/"},
        **{"PREFIXES": PREFIXES, "OTHER": OTHER, "VARIABLES": _read_while_importing(os.environ)},
    }
    text = (HERE / "client.py").read_text()
    program.write_text(f"#!{sys.executable} -IS\n" + "".join(f"{k} = {v!r}\n" for k, v in settings.items()) + text)
    program.chmod(0o755)
    status = ready.read_bytes()
    if status != b"ready":
        raise RuntimeError(f"the warm Python did not start: {(folder / 'log').read_text()}")
    return str(program)


def _read_while_importing(variables: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in variables.items() if k.startswith(PREFIXES) and not k.startswith(OTHER)}


def _end(server: subprocess.Popen, folder: Path) -> None:
    server.kill()
    server.wait()
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
