"""`lmrecipes test`: evaluates a run on the test split, next to the published results."""

from __future__ import annotations

from lmrecipes.cli import Command
from lmrecipes.commands.common.evaluation import add_options, evaluate

COMMAND = Command(
    name="test",
    description=__doc__,
    add_options=add_options,
    split="test",
)


def run(argv: list[str]) -> int:
    """Evaluates a run on the test split."""
    return evaluate(COMMAND, argv)
