"""The metrics of a run as one CSV file, which a resumed run appends to."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.csv_logs import _ExperimentWriter
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from lmrecipes import runs
from lmrecipes.loggers.run_logger import RunLogger
from lmrecipes.runtime.atomic_write import replacing
from lmrecipes.runtime.console import short
from lmrecipes.runtime.disk_space import explain, refusal


class RunCSVLogger(RunLogger, CSVLogger):
    """Lightning's CSV logger, appending to `<run directory>/metrics.csv`.

    The step of a row is the number of completed optimizer steps, as in the names of checkpoints.
    """

    def __init__(self, run_dir: Path) -> None:
        path = run_dir / "metrics.csv"
        if os.path.lexists(path):
            _check(path)
        super().__init__(save_dir=run_dir, name="", version="", flush_logs_every_n_steps=10)
        runs.note(run_dir / ExperimentWriter.NAME_HPARAMS_FILE)

    @property
    def experiment(self) -> Any:
        """The writer, which appends to the rows of earlier parts of the run."""
        if self._experiment is None and self.log_dir is not None:
            os.makedirs(self.log_dir, exist_ok=True)
            self._experiment = _Continued(self.log_dir)
        return self._experiment

    def forget_after(self, step: int) -> None:
        """Drops rows of steps that a resumed run repeats."""
        path = Path(self.save_dir) / "metrics.csv"
        if not path.is_file():
            return
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            names = reader.fieldnames or []
            # A kill may have truncated the last line.
            whole = (row for row in reader if None not in row.values() and row["step"].isdigit())
            rows = [row for row in whole if int(row["step"]) <= step]
        _write(path, names, rows)

    def add_if_missing(self, metrics: Mapping[str, float], step: int) -> None:
        """Writes a row, unless the file has one of these metrics at this step."""
        path = Path(self.save_dir) / "metrics.csv"
        if path.is_file():
            with path.open(newline="") as file:
                if any(
                    row["step"] == str(step) and any(row.get(name) for name in metrics if name != "epoch")
                    for row in csv.DictReader(file)
                ):
                    return
        self.log_metrics(dict(metrics), step - 1)
        self.save()


def _check(path: Path) -> None:
    """Refuses to append to a file that is not the log of a run.

    Raises:
        ValueError: naming it.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            first = next(csv.reader(file), ["step"])
    except (OSError, ValueError, csv.Error):
        first = []
    if "step" not in first:
        raise ValueError(f"{path} holds no metrics of a run (its header has no step column); move it")


def _write(path: Path, names: Sequence[str], rows: list[dict[str, str]]) -> None:
    """Rewrites the file atomically."""
    # Write through a symlink.
    path = path.resolve()
    with replacing(path, newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


class _Continued(ExperimentWriter):
    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self._waiting = False
        path = Path(self.metrics_file_path)
        if path.is_file():
            with path.open(newline="") as file:
                self.metrics_keys = list(csv.DictReader(file).fieldnames or [])

    def save(self) -> None:
        """Writes the new rows; on a disk that takes no more they wait in memory for the next time."""
        path, keys = Path(self.metrics_file_path), list(self.metrics_keys)
        size = path.stat().st_size if path.is_file() else None
        try:
            super().save()
        except OSError as error:
            if (refused := refusal(error)) is None:
                raise
            # Without the part of a row that was written, and with its columns, if they are new, still to be added.
            self.metrics_keys = keys
            with suppress(OSError):
                path.unlink() if size is None else os.truncate(path, size)
            if not self._waiting:
                why = explain(refused, path.parent)
                print(f"warning: {short(path)} was not written: {why}; its rows wait in memory", file=sys.stderr)
            self._waiting = True
        else:
            self._waiting = False

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        path = Path(self.metrics_file_path)
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        _write(path, fieldnames, rows)

    def _check_log_dir_exists(self) -> None:
        """Does nothing; Lightning would delete an earlier file."""

    def _record_new_keys(self) -> set[str]:
        new: set[str] = _ExperimentWriter._record_new_keys(self)
        first = [key for key in ("step", "epoch") if key in self.metrics_keys]
        self.metrics_keys = first + [key for key in self.metrics_keys if key not in first]
        return new
