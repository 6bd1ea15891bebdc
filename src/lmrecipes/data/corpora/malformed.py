"""Malformed lines of a file: rejected with file and line, or counted and skipped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Literal

OnMalformedLine = Literal["refuse", "skip"]
EMPTY = "empty document"


class Flaws:
    """Counts malformed lines by kind, and records the first of each kind."""

    def __init__(self, on_malformed: OnMalformedLine = "refuse") -> None:
        self._refuse = on_malformed == "refuse"
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def wrong(self, kind: str, problem: str) -> None:
        """Refuses or counts a line.

        Args:
            kind: of the problem.
            problem: file, line and problem.

        Raises:
            ValueError: unless such lines are skipped.
        """
        if self._refuse:
            raise ValueError(f"{problem} (set on_malformed: skip to ignore such lines)")
        self.note(kind, lambda: problem)

    def note(self, kind: str, where: Callable[[], str]) -> None:
        """Counts something that is never rejected."""
        if not self.counts[kind]:
            self.first[kind] = where()
        self.counts[kind] += 1

    def content(self) -> dict[str, list[int | str]]:
        """Number and first occurrence of each kind, for a JSON file."""
        return {kind: [number, self.first[kind]] for kind, number in self.counts.items()}


def complaint(flaws: Mapping[str, list[int | str]]) -> str:
    """A one-line summary of `content`; empty if nothing was malformed."""
    return "; ".join(f"left out {number} x {kind} (first: {first})" for kind, (number, first) in sorted(flaws.items()))
