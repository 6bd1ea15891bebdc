"""The directory of a run: how it is created and found, and which files it holds."""

from lmrecipes.runs.run_dir import (
    ABOUT,
    CONFIG,
    RESULTS,
    VOCABULARY,
    add_result,
    continue_run,
    discard_if_unused,
    end,
    find_run,
    forget,
    new_run_dir,
    note,
    recipe_of,
    results,
    seal,
    write_text,
)

__all__ = [
    "ABOUT",
    "CONFIG",
    "RESULTS",
    "VOCABULARY",
    "add_result",
    "continue_run",
    "discard_if_unused",
    "end",
    "find_run",
    "forget",
    "new_run_dir",
    "note",
    "recipe_of",
    "results",
    "seal",
    "write_text",
]
