"""`lmrecipes list`: the collection at a glance, in well under a second."""

from __future__ import annotations

from lmrecipes.commands.common.parser import Arguments
from lmrecipes.config.catalog import Listing, listings


def run(argv: list[str]) -> int:
    """Prints the recipes whose names contain the given words."""
    parser = Arguments(prog="lmrecipes list", description="List the recipes of the collection.")
    parser.add_argument("words", nargs="*", help="only recipes whose names contain all of these words")
    words = parser.parse_args(argv).words
    rows = [row for row in listings() if all(word in row.name for word in words)]
    if not rows:
        raise ValueError(f"no recipe's name contains {' and '.join(words)}; `lmrecipes list` shows all")
    table = [Listing(name="recipe", model="model", data="data", published="published"), *rows]
    columns = ("name", "model", "data", "published")
    widths = [max(len(getattr(row, column)) for row in table) for column in columns]
    for row in table:
        cells = (getattr(row, column).ljust(width) for column, width in zip(columns, widths, strict=True))
        print("  ".join(cells).rstrip())
    return 0
