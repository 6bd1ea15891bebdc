"""The recipes and presets that ship with the package: found by name, listed without importing anything heavy."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lmrecipes.config.moved import with_current_paths

_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# Far beyond any recipe; error messages and Python's own recursion must be able to follow.
_DEEPEST = 50


class _Repeated(yaml.MarkedYAMLError):
    """A repeated key, which YAML silently resolves to the last."""


class _Loader(_SafeLoader):
    """A YAML loader that rejects repeated keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        """Refuses repeated keys."""
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in lines:
                    problem = f"the key {key.value!r} is given twice, first in line {lines[key.value]}"
                    raise _Repeated(problem=problem, problem_mark=key.start_mark)
                lines[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


def _is_deeper(content: Any, levels: int) -> bool:
    if not isinstance(content, dict | list):
        return False
    inner = content.values() if isinstance(content, dict) else content
    return levels == 0 or any(_is_deeper(value, levels - 1) for value in inner)


def root() -> Path:
    """Folder that holds `recipes/`, `datamodules/`, `callbacks/` and `loggers/`: in the wheel, or the checkout."""
    package = Path(__file__).parents[1]
    shipped = package / "shipped"
    return shipped if shipped.is_dir() else package.parents[1]


def read_yaml(path: Path) -> Any:
    """Contents of a YAML file.

    Raises:
        ValueError: if it is not YAML or repeats a key, naming file, line and column.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
        if _is_deeper(content, _DEEPEST):
            raise ValueError(f"{path} is nested more than {_DEEPEST} levels deep; no setting is")
        return with_current_paths(content)
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder; name a YAML file") from None
    except RecursionError:
        raise ValueError(f"{path} is nested more than {_DEEPEST} levels deep; no setting is") from None
    except yaml.reader.ReaderError as error:
        raise ValueError(
            f"{path} is not valid YAML: it has the character U+{error.character:04X} at position {error.position}"
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        what = "" if isinstance(error, _Repeated) else " is not valid YAML"
        raise ValueError(f"{path}{where}{what}: {error.problem}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error


def recipe_paths() -> dict[str, Path]:
    """Every shipped recipe and overlay by its name, such as `transformer_xl/tiny` or `overlays/cpu`."""
    return _paths("recipes", skip="sweeps/")


def preset_paths(folder: str) -> dict[str, Path]:
    """Every shipped preset of `folder` (datamodules, callbacks or loggers) by its name."""
    return _paths(folder)


def _paths(folder: str, skip: str = "\0") -> dict[str, Path]:
    base = root() / folder
    names = {p.relative_to(base).with_suffix("").as_posix(): p for p in sorted(base.rglob("*.yaml"))}
    return {name: path for name, path in names.items() if not name.startswith(skip)}


def find_recipe(name: str) -> Path:
    """A recipe by path (a file on disk wins) or by the name it ships under.

    Raises:
        ValueError: naming the nearest recipes.
    """
    return _find(name, recipe_paths(), "recipe", "see `lmrecipes list`")


def find_preset(name: str, folder: str) -> Path:
    """A preset by path (a file on disk wins) or by the name it ships under in `folder`.

    Raises:
        ValueError: naming the nearest presets.
    """
    names = preset_paths(folder)
    inside = name.removeprefix(f"{folder}/")
    kind = f"{folder.removesuffix('s')} preset"
    return _find(inside if not Path(name).is_file() else name, names, kind, f"known: {', '.join(names)}")


def _find(name: str, known: dict[str, Path], kind: str, hint: str) -> Path:
    if Path(name).is_file():
        return Path(name).resolve()
    key = name.removeprefix("recipes/").removesuffix(".yaml")
    if key in known:
        return known[key]
    if Path(name).is_dir() and name.endswith(".yaml"):
        raise ValueError(f"{name} is a folder; name a file as {kind}")
    if Path(f"{name}.yaml").is_file():
        raise ValueError(f"no {kind} {name!r}; did you mean {name}.yaml?")
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    suggestion = f"did you mean {' or '.join(near)}?" if near else hint
    raise ValueError(f"no {kind} {name!r}, neither as a file nor in the collection; {suggestion}")


def recipe_name(path: Path) -> str:
    """The name a recipe goes by: its place below `recipes/`, else its file name."""
    for base in (root() / "recipes", Path.cwd() / "recipes"):
        if path.is_relative_to(base):
            return path.relative_to(base).with_suffix("").as_posix()
    return path.stem


@dataclass(frozen=True)
class Listing:
    """One row of `lmrecipes list`."""

    name: str
    model: str
    data: str
    published: str


def listings() -> Iterator[Listing]:
    """The shipped recipes with model, data and published target."""
    for name, path in recipe_paths().items():
        if name.startswith("overlays/"):
            continue
        recipe = read_yaml(path)
        data = recipe.get("data", "")
        targets = recipe.get("published") or []
        yield Listing(
            name=name,
            model=recipe["model"]["class_path"].rsplit(".", 1)[-1],
            data=Path(data).stem if isinstance(data, str) else data["class_path"].rsplit(".", 1)[-1],
            published=", ".join(f"{t['metric']} {t['value']:g}" for t in targets[:1]) or "-",
        )
