"""The `lmrecipes` command: each command is a module of `commands`, imported on demand."""

from __future__ import annotations

import atexit
import difflib
import importlib
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from lmrecipes import __version__
from lmrecipes.resilience import failure_report, signals
from lmrecipes.runtime.console import keep_going_without_output, open_output
from lmrecipes.runtime.disk_space import explain, refusal
from lmrecipes.runtime.home import ensure_home
from lmrecipes.runtime.launcher import RUN_DIR_VARIABLE, check_numbers
from lmrecipes.runtime.lazy_imports import postpone

COMMANDS = {
    "fit": "train a recipe, or continue a run",
    "validate": "evaluate a run on the validation split",
    "test": "evaluate a run on the test split, next to the published results",
    "predict": "continue a text, or answer questions, with a trained model",
    "score": "loss and perplexity of a given text",
    "evaluate": "exact match and F1 of a predictions file, equal to the official SQuAD scripts",
    "prepare": "download, tokenize and cache a recipe's data",
    "export": "export a run for inference, for transformers, or as plain weights",
    "plot": "draw the curves of one or more runs",
    "rehearse": "dry-run a recipe at toy size on CPU: train, kill, resume, test, export",
    "doctor": "check this machine or SLURM job, and say how to fix it",
    "fabric": "fit, validate or test a recipe under Fabric instead of the Trainer",
    "list": "list the recipes with model, data and published target",
}

USAGE = f"""usage: lmrecipes COMMAND [options]

{chr(10).join(f"  {name:<10}{text}" for name, text in COMMANDS.items())}

  lmrecipes fit --config transformer_xl/tiny               a recipe by name, or by path
  lmrecipes fit --config RECIPE --config overlays/cpu      apply an overlay
  lmrecipes fit --config RECIPE --trainer.max_steps 500    override any value
  lmrecipes fit --resume RUN                               continue exactly where it stopped
  lmrecipes test --run RUN                                 a run by directory, or by its recipe's name

`lmrecipes COMMAND --help` shows the options of one command.
LMRECIPES_TRACEBACK=1 shows the traceback of an error."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        The exit code: 0, or 2 for bad input (reported in one line on stderr), 1 for any other failure,
        3 if LossGuard stopped training, 4 if Watchdog did, 5 if its last weights could not be written,
        130 if interrupted, or 128 and the number of the signal that stopped training between two steps
        (143 for SIGTERM).
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    if arguments[0] in ("--version", "version"):
        print(f"lmrecipes {__version__}")
        return 0
    run_dir = os.environ.get(RUN_DIR_VARIABLE)
    try:
        # Lightning reads them when it is imported.
        check_numbers()
        if argv is None:
            ensure_home()
        if arguments[0] in ("fit", "fabric") and argv is None:
            # Only in our own process, not when another program calls main().
            signals.watch()
        return _command(arguments[0])(arguments[1:])
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if (code := failure_report.ended()) is not None:
            # Already reported by the first rank that failed; an orderly exit would wait for other ranks.
            return code if argv is not None else failure_report.leave(code)
        # Match Lightning's exception by name: importing the class takes seconds.
        if not isinstance(error, ValueError | OSError) and type(error).__name__ != "MisconfigurationException":
            raise
        if os.environ.get("LMRECIPES_TRACEBACK"):
            traceback.print_exc()
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return 2
    finally:
        if argv is not None:
            # Do not leak this run's directory into the caller's next run.
            os.environ.pop(RUN_DIR_VARIABLE, None)
            if run_dir is not None:
                os.environ[RUN_DIR_VARIABLE] = run_dir


def command() -> None:
    """The process's entry: runs the command and ends the process.

    Where ranks talked to each other, without taking the interpreter apart: threads of theirs may still hold tensors,
    and would abort the process when they let go of one after that.
    """
    postpone()
    open_output()
    if sys.argv[1:2] in (["fit"], ["fabric"]):
        keep_going_without_output()
    try:
        code: str | int | None = main()
    except SystemExit as leaving:
        code = leaving.code
    torch = sys.modules.get("torch")
    if torch is None or not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        sys.exit(code)
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0)


def _one_line(error: Exception) -> str:
    """An error in one line, without the most of a word that is too long to be read.

    Of the system's errors the file and what is wrong with it, and how full a full disk is.
    """
    message = str(error)
    if isinstance(error, OSError) and error.filename and error.strerror:
        refused = refusal(error)
        reason = explain(refused, Path(error.filename).parent) if refused else error.strerror
        message = f"{error.filename}: {reason}"
    return " ".join(word if len(word) <= 300 else f"{word[:80]}..." for word in message.split())


def _command(name: str) -> Callable[[list[str]], int]:
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        raise ValueError(
            f"no command {name!r}; " + (f"did you mean {near[0]!r}?" if near else "see `lmrecipes --help`")
        )
    return importlib.import_module(f"lmrecipes.commands.{name}").run


if __name__ == "__main__":
    command()
