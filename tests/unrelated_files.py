"""Unrelated files in a folder that the program writes to."""

import os
from collections.abc import Callable
from pathlib import Path


def everything(folder: Path) -> dict[Path, bytes | str | None]:
    """Contents of a folder by path: bytes of a file, target of a link, None for a folder."""
    contents: dict[Path, bytes | str | None] = {}
    for path in sorted(folder.rglob("*")):
        contents[path] = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
    return contents


def put_files(folder: Path, *names: str) -> Callable[[], bool]:
    """Puts files into a folder, and a link to another folder with a file; returns a check that all are unchanged."""
    elsewhere = folder.parent / f"elsewhere-{folder.name}"
    elsewhere.mkdir(parents=True)
    (elsewhere / "precious.txt").write_text("precious")
    mine = {elsewhere / "precious.txt", folder / "link"}
    for name in names or ("notes.txt", "figures/one.svg", ".hidden", "mine.part"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"mine: {name}")
        mine.add(folder / name)
    (folder / "link").symlink_to(elsewhere)

    def now() -> dict[Path, bytes | str | None]:
        contents = {**everything(folder), **everything(elsewhere)}
        return {path: contents.get(path) for path in mine}

    before = now()
    return lambda: now() == before
