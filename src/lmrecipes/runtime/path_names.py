"""Words of a user, of the environment or of a file that become part of a path."""

from __future__ import annotations

import os
import re

_PARTS = re.compile(r"[/\\\0]")


def is_plain(name: str) -> bool:
    """Whether a word names something in a folder, rather than somewhere else."""
    return bool(name) and name not in (os.curdir, os.pardir) and not _PARTS.search(name)


def check_plain(field: str, name: str, example: str) -> str:
    """Refuses a word that would leave the folder that it names something in.

    Args:
        field: where the word is from, such as data.languages or WANDB_RUN_ID.
        name: the word.
        example: a word that works.

    Returns:
        The word.

    Raises:
        ValueError: naming the field.
    """
    if not is_plain(name):
        raise ValueError(
            f"{field} is {name!r}, which becomes the name of a folder; give a name without / and \\, such as {example}"
        )
    return name


def check_length(setting: str, path: str) -> None:
    """Refuses a path that no file can have, whose existence could not even be asked for.

    Raises:
        ValueError: naming the setting.
    """
    longest = max((len(os.fsencode(part)) for part in path.split("/")), default=0)
    if longest > 255 or len(os.fsencode(path)) > 4095:
        raise ValueError(f"{setting} is {path[:80]}..., {len(path)} characters long; a file's name has 255 at most")
