"""`lmrecipes prepare`: downloads, tokenizes and caches a recipe's data; training then needs no network."""

from __future__ import annotations

import sys

from lmrecipes.cli import open_recipe
from lmrecipes.commands.say import say


def run(argv: list[str]) -> int:
    """Prepares the data, or says that it is ready."""
    data = open_recipe("prepare", argv).datamodule
    data.prepare(progress=sys.stderr.isatty())
    say(f"prepared: vocabulary {data.vocab_size:,}")
    return 0
