"""`lmrecipes validate`: evaluates a run on the validation split."""

from __future__ import annotations

from lmrecipes.cli import Command
from lmrecipes.commands.common.evaluation import add_options, evaluate

COMMAND = Command(name="validate", description=__doc__, add_options=add_options, split="val")


def run(argv: list[str]) -> int:
    """Evaluates a run on the validation split."""
    return evaluate(COMMAND, argv)
