"""The directory of a run: how it is created and found, and which files it holds."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from lmrecipes import __version__
from lmrecipes.config import catalog
from lmrecipes.runs import run_lock
from lmrecipes.runtime import atomic_write
from lmrecipes.runtime.console import quoted
from lmrecipes.runtime.launcher import RUN_DIR_VARIABLE, is_main_process, launcher_id, sweep_id
from lmrecipes.runtime.ledger import Ledger
from lmrecipes.runtime.open_file import parse_json
from lmrecipes.runtime.path_names import check_length, check_plain

ABOUT = "run.json"
CONFIG = "config.yaml"
RESULTS = "results.json"
VOCABULARY = "vocabulary"
# The run directory that this command created, and the files that it wrote there.
_claimed: Path | None = None
_ledger = Ledger()


def forget() -> None:
    """Starts a command: runs of an earlier command in this process, or of its parent, do not belong to it."""
    global _claimed
    _claimed = None
    _ledger.clear()
    run_lock.release()
    if is_main_process():
        os.environ.pop(RUN_DIR_VARIABLE, None)


def new_run_dir(recipe: str, *, root: Path, requested: Path | None = None) -> Path:
    """Creates the directory of a new run, the same one in every process of the run.

    Args:
        recipe: name of the recipe.
        root: folder of all runs; the run goes to `<root>/<recipe>/<id>`.
        requested: a directory by name instead; it may exist if it is empty.

    Raises:
        ValueError: if the directory cannot be created, or is not empty.
    """
    for part in recipe.split("/"):
        check_plain("the recipe's name", part, "my_recipe")
    shared_id = None if requested is not None else sweep_id() or launcher_id()
    inherited = os.environ.get(RUN_DIR_VARIABLE)
    if inherited and requested is None and shared_id is None and not is_main_process():
        return Path(inherited)
    if requested is not None:
        check_length("--run_dir", str(requested))
        directory = requested
    elif shared_id is not None:
        directory = root / recipe / shared_id
    else:
        directory = _unused(root / recipe / time.strftime("%Y%m%d-%H%M%S"))
    if is_main_process():
        _claim(directory)
    directory = directory.resolve()
    os.environ[RUN_DIR_VARIABLE] = str(directory)
    return directory


def _claim(directory: Path) -> None:
    """Claims a directory for this run by its lock, and records how the run was started.

    Raises:
        ValueError: if it cannot be created, is not empty, or another process has claimed it.
    """
    global _claimed
    again = _clear_failed_start(directory)
    if os.path.lexists(directory) and not directory.is_dir():
        kind = "a dangling symbolic link" if directory.is_symlink() and not directory.exists() else "not a folder"
        raise ValueError(f"run directory {directory} is {kind}; name another with --run_dir")
    if not again:
        _check_free(directory)
    try:
        _ledger.make_folder(directory)
        _ledger.note(directory / run_lock.LOCK)
        run_lock.hold(directory)
        # Another process may have used it in the meantime.
        if not again:
            _check_free(directory)
        write_text(directory / ABOUT, json.dumps(_about(), indent=2) + "\n")
    except run_lock.HeldElsewhereError as error:
        _ledger.clear()
        raise ValueError(f"run directory {directory} {error}; name another with --run_dir") from None
    except (OSError, ValueError) as error:
        run_lock.release()
        _ledger.undo()
        if isinstance(error, ValueError):
            raise
        raise ValueError(f"run directory {directory} cannot be created: {error.strerror}") from error
    _claimed = directory.resolve()


def _about() -> dict[str, Any]:
    from importlib.metadata import version

    return {
        "command": ["lmrecipes", *sys.argv[1:]],
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "lmrecipes": __version__,
        "torch": version("torch"),
        "lightning": version("lightning"),
        "python": platform.python_version(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
    }


def _check_free(directory: Path) -> None:
    """Accepts a directory that is new, empty, or left by a run that was killed as it started.

    Raises:
        ValueError: if it holds a run or other files.
    """
    names = {path.name for path in directory.iterdir()} if directory.is_dir() else set()
    if CONFIG in names:
        raise ValueError(
            f"run directory {directory} holds a run already; "
            f"continue it with --resume {quoted(directory)}, or name another with --run_dir"
        )
    started = {run_lock.LOCK, f"{run_lock.LOCK}.held"} | ({ABOUT} if _started(directory) is not None else set())
    if names - started:
        raise ValueError(
            f"run directory {directory} is not empty and holds no run; name a new or an empty one with --run_dir"
        )


def _started(directory: Path) -> dict[str, Any] | None:
    """The record of how the directory's run was started; None if it has none."""
    try:
        about = parse_json((directory / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return about if isinstance(about, dict) and {"command", "created", "lmrecipes"} <= about.keys() else None


def _clear_failed_start(directory: Path) -> bool:
    """Clears the run of a requeued job that ended before its first checkpoint; returns whether it did."""
    job = os.environ.get("SLURM_JOB_ID")
    if int(os.environ.get("SLURM_RESTART_COUNT", "0")) == 0 or any((directory / "checkpoints").glob("*.ckpt")):
        return False
    about = _started(directory)
    if job is None or about is None or about.get("slurm_job") != job:
        return False
    for name in (CONFIG, "metrics.csv"):
        (directory / name).unlink(missing_ok=True)
    return True


def _unused(directory: Path) -> Path:
    """Creates `directory`, or its name with the first free number."""
    for number in range(1, 1000):
        candidate = directory if number == 1 else directory.with_name(f"{directory.name}-{number}")
        try:
            _ledger.make_folder(candidate, exist_ok=False)
        except FileExistsError:
            continue
        except OSError as error:
            raise ValueError(f"run directory {candidate} cannot be created: {error.strerror}") from error
        return candidate
    raise ValueError(f"run directories {directory}-2 to -999 are all taken; name one with --run_dir")


def find_run(name: str, *, root: Path) -> Path:
    """A run by its directory, or the newest run of a recipe by the recipe's name.

    Raises:
        ValueError: if there is none, listing the existing runs.
    """
    check_length("the run", name)
    directory = Path(name)
    if (directory / CONFIG).is_file():
        return directory.resolve()
    recipe = name.removesuffix(".yaml").removeprefix("recipes/")
    # What leaves the folder of all runs is a directory, not the name of a recipe.
    below = directory if os.pardir in Path(recipe).parts else root / recipe
    if (below / CONFIG).is_file():
        return below.resolve()
    runs = [path.parent for path in below.glob(f"*/{CONFIG}")] if below.is_dir() else []
    if runs:
        return max(runs, key=lambda run: (run / CONFIG).stat().st_mtime).resolve()
    if (inside := next((p for p in directory.parents if (p / CONFIG).is_file()), None)) and directory.exists():
        raise ValueError(f"{name} is inside a run; give the run's directory: {inside}")
    if directory.is_dir():
        raise ValueError(f"{name} is not a run directory: it has no {CONFIG}")
    known = (
        sorted({p.parent.parent.relative_to(root).as_posix() for p in root.rglob(CONFIG)} - {"."})
        if root.is_dir()
        else []
    )
    hint = f"runs exist of: {', '.join(known)}" if known else f"there are no runs in {root}/ yet"
    raise ValueError(f"no run {name!r}, neither as a directory nor as a recipe that was run; {hint}")


def continue_run(directory: Path) -> None:
    """Holds a run that this command continues.

    Raises:
        ValueError: if another process trains it, or it cannot be written.
    """
    if not is_main_process():
        return
    try:
        run_lock.hold(directory, run_lock.PATIENCE_S)
    except run_lock.HeldElsewhereError as error:
        raise ValueError(f"run {directory} {error}; wait for its end, or stop it, before --resume") from None
    except OSError as error:
        raise ValueError(f"run directory {directory} cannot be written: {error.strerror}") from error


def note(path: Path) -> None:
    """Records a file or folder about to be created, to be removed if the run is refused."""
    _ledger.note(path)


def seal(path: Path) -> None:
    """Marks a recorded file as complete: later changes are not this command's."""
    _ledger.seal(path)


def write_text(path: Path, text: str) -> None:
    """Writes a small file of a run atomically."""
    note(path)
    atomic_write.write_text(path, text)
    seal(path)


def results(run_dir: Path) -> list[dict[str, Any]]:
    """The run's evaluations so far.

    Raises:
        ValueError: if the file is not a list of them.
    """
    path = run_dir / RESULTS
    if not os.path.lexists(path):
        return []
    with suppress(OSError, ValueError):
        results = parse_json(path.read_text(encoding="utf-8"))
        if isinstance(results, list) and all(isinstance(one, dict) and "metrics" in one for one in results):
            return results
    raise ValueError(f"{path} is not a list of results; move it")


def add_result(run_dir: Path, result: dict[str, Any]) -> None:
    """Appends one evaluation to the run's results.

    Raises:
        ValueError: if the file is not a list of them.
    """
    write_text(run_dir / RESULTS, json.dumps([*results(run_dir), result], indent=2) + "\n")


def end() -> None:
    """Ends this command's hold on its run."""
    run_lock.release()


def discard_if_unused() -> None:
    """Removes the files that this command created for a run refused before training; others stay."""
    global _claimed
    run_dir, _claimed = _claimed, None
    run_lock.release()
    if run_dir is None or (run_dir / "checkpoints").exists() or (run_dir / "metrics.csv").exists():
        return
    errors = run_dir / "errors"
    if any(errors.glob("[!.]*")):
        return
    # Markers of the rank that reported first.
    for mark in errors.glob(".said-*"):
        mark.unlink(missing_ok=True)
    with suppress(OSError):
        errors.rmdir()
    _ledger.undo()


def recipe_of(config_paths: list[Path]) -> str:
    """The recipe's name: the first `--config` file that is not an overlay."""
    names = [catalog.recipe_name(path) for path in config_paths]
    return next((name for name in names if not name.startswith("overlays/")), "unnamed")
