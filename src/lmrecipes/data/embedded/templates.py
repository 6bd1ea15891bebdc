"""Reading the text files of this package: blocks of lines, each under its name in brackets."""

from __future__ import annotations

from importlib.resources import files


def read_blocks(file: str) -> dict[str, list[str]]:
    """The lines of every block, by the block's name."""
    text = files("lmrecipes.data.embedded").joinpath(file).read_text(encoding="utf-8")
    blocks = [block.splitlines() for block in text.strip("\n").split("\n\n")]
    return {name.strip("[]"): lines for name, *lines in blocks}


def fields(lines: list[str]) -> dict[str, str]:
    """Lines such as `places: Rome Oslo` as values by name."""
    pairs = (line.partition(": ") for line in lines)
    return {name: value for name, _, value in pairs}
