"""The protocol of loggers that belong to a run."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class RunLogger:
    """A logger that belongs to a run; the step of a row is the number of completed optimizer steps."""

    def begin(self, run_dir: Path, config: str) -> None:
        """Receives the run directory and the full configuration, as saved there in YAML."""

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Logs metrics; Lightning passes the number of steps completed before this one."""
        super().log_metrics(metrics, None if step is None else step + 1)  # type: ignore[misc]

    def forget_after(self, step: int) -> None:
        """Drops metrics of steps that a resumed run repeats."""

    def add_if_missing(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs metrics of the resumed step, which was saved before it was logged."""

    def close(self, exit_code: int) -> None:
        """Flushes everything before a requeued job may be killed."""


def require(package: str, feature: str) -> None:
    """Checks that an optional package is installed.

    Raises:
        ValueError: saying how to install it.
    """
    if importlib.util.find_spec(package) is None:
        raise ValueError(f'{feature} needs {package}, which is not installed: pip install "lmrecipes[{package}]"')
