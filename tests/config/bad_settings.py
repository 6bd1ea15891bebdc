"""Recipes with one setting changed for the worse, and what must come of them."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from lmrecipes.__main__ import main
from lmrecipes.cli import open_recipe
from lmrecipes.commands.rehearse import COMMAND as PARSES_ONLY

PLACE = tuple[str | int, ...]
SECONDS = 60
# What replaces a value; the key itself is changed by the first two.
DELETED, MISSPELT = object(), object()
VALUES: dict[str, Any] = {
    "deleted": DELETED,
    "misspelt": MISSPELT,
    "text": "wrong",
    "number": 7,
    "list": [1, "two"],
    "group": {"a": 1},
    "negative": -1,
    "negative fraction": -0.5,
    "zero": 0,
    "large": 10**12,
    "larger": 10**30,
    "not a number": float("nan"),
    "infinite": float("inf"),
    "empty": "",
    "null": None,
}
CLASSES = {
    "no class": "lmrecipes.callbacks.Nothing",
    "a function": "os.system",
    "another kind": "torch.nn.Linear",
    "an optimizer": "torch.optim.SGD",
    "no module": "nowhere.Nothing",
    "no path": "wrong",
    "a number": 7,
    "nothing": None,
    "a list": ["os.system"],
}


def resolved(options: list[str]) -> dict[str, Any]:
    """A recipe with every setting spelt out."""
    return yaml.safe_load(open_recipe(PARSES_ONLY, options).settings())


def leaves(value: Any, at: PLACE = ()) -> Iterator[PLACE]:
    """The place of every setting that is not a group."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, (*at, key))
    elif isinstance(value, list) and any(isinstance(entry, dict) for entry in value):
        for number, inner in enumerate(value):
            yield from leaves(inner, (*at, number))
    else:
        yield at


def cases(recipe: dict[str, Any]) -> list[tuple[PLACE, str]]:
    """Every place with every change of it."""
    return [(at, change) for at in leaves(recipe) for change in (CLASSES if at[-1] == "class_path" else VALUES)]


def changed(recipe: dict[str, Any], at: PLACE, change: str) -> dict[str, Any]:
    """A copy of the recipe with one change."""
    recipe = deepcopy(recipe)
    group = recipe
    for key in at[:-1]:
        group = group[key]
    key = at[-1]
    value = (CLASSES if key == "class_path" else VALUES)[change]
    if value is DELETED:
        del group[key]
    elif value is MISSPELT:
        group[misspelt(str(key))] = group.pop(key)
    else:
        group[key] = value
    return recipe


def misspelt(key: str) -> str:
    """A key without its middle letter."""
    return key[: len(key) // 2] + key[len(key) // 2 + 1 :]


def names(at: PLACE, change: str) -> set[str]:
    """Words by one of which an error may name the setting."""
    keys = [str(key) for key in at if isinstance(key, str) and key not in ("init_args", "class_path")]
    found = {misspelt(keys[-1]) if change == "misspelt" else keys[-1]}
    if at[-1] == "class_path":
        found.add("class_path")
        found.add(str(CLASSES[change]))
    return found


@contextmanager
def limited(seconds: int = SECONDS) -> Iterator[None]:
    """Raises TimeoutError where something takes longer."""

    def late(number: int, frame: Any) -> None:
        raise RuntimeError(f"took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def verdict(capsys: Any, folder: Path, recipe: dict[str, Any], at: PLACE, change: str) -> str:
    """What is wrong with the answer to a changed recipe; empty if nothing is."""
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump(changed(recipe, at, change)))
    capsys.readouterr()
    try:
        return _answer(capsys, file, at, change)
    finally:
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _answer(capsys: Any, file: Path, at: PLACE, change: str) -> str:
    try:
        with limited():
            code = main(["fit", "--config", str(file), "--no_runtime_tuning"])
    except Exception as error:
        return f"raises {type(error).__name__}: {error}"[:300]
    if code == 0:
        return ""
    lines = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    if code != 2 or len(errors) != 1 or any("Traceback" in line for line in lines):
        return f"ends with {code} and {lines}"[:300]
    if not any(name in errors[0] for name in names(at, change)):
        return f"does not name it: {errors[0]}"[:300]
    if left := sorted(str(path) for path in file.parent.rglob("*") if path != file):
        return f"leaves {left}: {errors[0]}"[:300]
    return ""
