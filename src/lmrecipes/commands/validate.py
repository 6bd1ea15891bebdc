"""`lmrecipes validate`."""

from __future__ import annotations

from lmrecipes.commands.common.evaluation import evaluate


def run(argv: list[str]) -> int:
    """Evaluates a run on the validation split."""
    return evaluate("validate", argv)
