"""The progress bar of a preparation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Progress = Callable[[str, int, int | None], None]
"""Called with the name of a phase (a split), how much of it is done, and its size if known."""


class ProgressBar:
    """A progress bar on a terminal, nothing elsewhere."""

    def __init__(self, title: str, wanted: bool) -> None:
        from rich.console import Console
        from rich.progress import Progress as RichProgress

        console = Console(stderr=True)
        self._title = title
        self._progress = RichProgress(console=console, transient=True) if wanted and console.is_terminal else None
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Progress:
        if self._progress is not None:
            self._progress.start()
        return self._report

    def _report(self, split: str, done: int, total: int | None) -> None:
        if self._progress is not None:
            if split not in self._tasks:
                self._tasks[split] = self._progress.add_task(f"{self._title}: {split}", total=total)
            self._progress.update(self._tasks[split], completed=done)

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()
