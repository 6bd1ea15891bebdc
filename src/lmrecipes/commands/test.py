"""`lmrecipes test`."""

from __future__ import annotations

from lmrecipes.commands.common.evaluation import evaluate


def run(argv: list[str]) -> int:
    """Evaluates a run on the test split, beside the published figures."""
    return evaluate("test", argv)
