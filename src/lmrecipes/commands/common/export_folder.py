"""The output folder of an export; files that no export wrote are never touched."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath

from lmrecipes import __version__
from lmrecipes.runtime.atomic_write import discard, write_text
from lmrecipes.runtime.disk_space import explain, refusal
from lmrecipes.runtime.ledger import Ledger
from lmrecipes.runtime.open_file import parse_json

MANIFEST = "export.json"
_PART = ".export.part"


@contextmanager
def exporting(folder: Path, form: str) -> Iterator[Path]:
    """Yields an empty staging folder, whose content moves to `folder` if no error is raised.

    Args:
        folder: where the export goes: new, empty, or that of earlier exports.
        form: of the export; one of the same form is replaced, others stay.

    Raises:
        ValueError: if the folder cannot be written to, or contains files but no export, before anything is written; if
            the disk takes no more; or if other files have the same names, before any of them is replaced.
    """
    ledger = Ledger()
    try:
        ledger.make_folder(folder)
        earlier = _read(folder)
        if earlier is None:
            # Claim the folder before writing, in case this process is killed.
            ledger.write_new(folder / MANIFEST, _content({}))
        part = folder / _PART
        discard(part)
        part.mkdir()
    except OSError as error:
        ledger.undo()
        raise ValueError(f"{folder} cannot be written to ({error.strerror}); name another with --output") from error
    try:
        yield part
        files = sorted(path.relative_to(part).as_posix() for path in part.rglob("*") if not path.is_dir())
        _check_free(folder, files, earlier or {})
    except BaseException as error:
        discard(part)
        ledger.undo()
        if (refused := refusal(error)) is not None:
            raise ValueError(f"{folder} was not written: {explain(refused, folder)}") from error
        if isinstance(error, ValueError):
            raise ValueError(str(error).replace(str(part), str(folder))) from error
        raise
    _replace(folder, part, files, form, earlier or {})
    discard(part)


def _content(files: Mapping[str, Sequence[str]]) -> str:
    return json.dumps({"lmrecipes": __version__, "files": files}, indent=2) + "\n"


def _read(folder: Path) -> dict[str, list[str]] | None:
    """The files of earlier exports by their form; None for an empty folder.

    Raises:
        ValueError: if the folder has files but no export.
    """
    if not any(folder.iterdir()):
        return None
    with suppress(FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        manifest = parse_json((folder / MANIFEST).read_text(encoding="utf-8"))
        if "lmrecipes" in manifest:
            return {form: [name for name in names if _is_inside(name)] for form, names in manifest["files"].items()}
    raise ValueError(f"{folder} is not empty and holds no earlier export; name a new or an empty folder with --output")


def _is_inside(name: str) -> bool:
    return not PurePath(name).is_absolute() and ".." not in PurePath(name).parts


def _check_free(folder: Path, files: Sequence[str], earlier: Mapping[str, Sequence[str]]) -> None:
    ours = {name for names in earlier.values() for name in names}
    for name in files:
        path = folder / name
        if _is_behind_link(folder, name) or (os.path.lexists(path) and (name not in ours or path.is_dir())):
            raise ValueError(f"{path} belongs to no earlier export; move it, or name another folder with --output")


def _is_behind_link(folder: Path, name: str) -> bool:
    return any((folder / parent).is_symlink() for parent in PurePath(name).parents if parent.name)


def _replace(folder: Path, part: Path, files: Sequence[str], form: str, earlier: Mapping[str, Sequence[str]]) -> None:
    # Record the names first, so that files left by a kill are recognized as ours.
    write_text(folder / MANIFEST, _content({**earlier, form: files}))
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(part / name, folder / name)
    for name in set(earlier.get(form, ())).difference(files):
        if not _is_behind_link(folder, name):
            with suppress(OSError):
                (folder / name).unlink(missing_ok=True)
