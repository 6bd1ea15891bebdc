"""What loggers of a run have in common."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path


class RunLogger:
    """Learns of its run before training; a step in its log is the number of optimizer steps done."""

    def begin(self, run_dir: Path, config: str) -> None:
        """Takes the run's directory and its whole configuration, the YAML that is saved there."""

    def forget_after(self, step: int) -> None:
        """Drops figures of steps that a resumed run makes again."""

    def add_if_missing(self, figures: Mapping[str, float], step: int) -> None:
        """Takes figures of the step that a resumed run begins from, which was saved before it was logged."""

    def close(self, exit_code: int) -> None:
        """Flushes everything before a requeued job may be killed."""


def require(package: str, feature: str) -> None:
    """Looks for an optional package.

    Raises:
        ValueError: saying how to install it.
    """
    if importlib.util.find_spec(package) is None:
        raise ValueError(f'{feature} needs {package}, which is not installed: pip install "lmrecipes[{package}]"')
