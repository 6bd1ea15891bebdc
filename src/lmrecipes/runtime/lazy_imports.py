"""Defers imports at the top of other packages, which most commands never use, to their first use.

Lightning imports torch's compiler, and by torchmetrics matplotlib and transformers: half of the time that a command
takes to begin. It has no switch for that. Nothing is hidden or changed: who imports one of those packages gets it, and
what needs one, such as `torch.compile`, torchmetrics' BERTScore or a metric's plot, has it imported then.
"""

from __future__ import annotations

import builtins
import functools
import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import FunctionType, ModuleType
from typing import Any

_COMPILER = "torch._dynamo"
# Modules that need a package in a few functions only, or for isinstance checks.
_POSTPONED = {
    "lightning.fabric.wrappers": _COMPILER,
    "lightning.pytorch.utilities.compile": _COMPILER,
    "torchmetrics.functional.text.bert": "transformers",
    "torchmetrics.utilities.plot": "matplotlib",
}


def postpone() -> None:
    """Defers the imports of modules that are not loaded yet."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _is_loaded(package: str) -> bool:
    module = sys.modules.get(package)
    return module is not None and not isinstance(module, NoCompiler)


class _Finder:
    """A meta path finder that loads some modules with deferred imports."""

    def __init__(self) -> None:
        self.compiler: NoCompiler | None = None

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The spec of a module with deferred imports; None for others."""
        package = _POSTPONED.get(name)
        if package is not None and not _is_loaded(package):
            spec = self._found(name, path, target)
            if spec is not None and spec.loader is not None:
                loading = functools.partial(_run_without, package, spec.loader.exec_module)
                spec.loader.exec_module = loading  # type: ignore[method-assign]
            return spec
        if name == _COMPILER and self.compiler is None:
            spec = self._found(name, path, target)
            if spec is not None:
                self.compiler = NoCompiler(name)
                spec.loader = _There(self.compiler)  # type: ignore[assignment]
            return spec
        if name.startswith(f"{_COMPILER}.") and isinstance(standing_in := sys.modules.get(_COMPILER), NoCompiler):
            # Importing a submodule imports the real package; do not load it twice.
            standing_in.give_way()
            module = sys.modules.get(name)
            return None if module is None else ModuleSpec(name, _There(module))  # type: ignore[arg-type]
        return None

    def _found(self, name: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
        specs = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        return next((spec for spec in specs if spec is not None), None)


class _There:
    """A loader for a module that is loaded already, and left unchanged."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.own = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module."""
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        """Restores the attributes that the import replaced."""
        module.__spec__ = self.own or module.__spec__


class NoCompiler(ModuleType):
    """Stands in for torch._dynamo while nothing is compiled: optimizers call its `graph_break` at every step."""

    def give_way(self) -> ModuleType:
        """Imports the compiler in place of this stub."""
        if sys.modules.get(_COMPILER) is self:
            sys.modules.pop(_COMPILER, None)
        return importlib.import_module(_COMPILER)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            # Introspection asks every module for dunder attributes.
            raise AttributeError(f"module {_COMPILER!r} has no attribute {name!r}")
        return getattr(self.give_way(), name)

    def graph_break(self, msg: str = "") -> None:
        """torch._dynamo.graph_break, once there is a compiler."""
        if _is_loaded(_COMPILER):
            self.give_way().graph_break(msg)

    def disable(self, fn: Any = None, *arguments: Any, **more: Any) -> Any:
        """torch._dynamo.disable, once there is a compiler."""
        if not isinstance(fn, FunctionType):
            return self.give_way().disable(fn, *arguments, **more)
        disabled: Any = None

        @functools.wraps(fn)
        def run(*its: Any, **named: Any) -> Any:
            nonlocal disabled
            if disabled is None and _is_loaded(_COMPILER):
                disabled = self.give_way().disable(fn, *arguments, **more)
            return (disabled or fn)(*its, **named)

        return run


def _run_without(package: str, run: Callable[[ModuleType], None], module: ModuleType) -> None:
    """Runs a module's statements without importing a package."""
    top = _Top(package)
    # Only this module's own import statements use these builtins.
    its_builtins = {**vars(builtins), "__import__": top.importing}
    vars(module)["__builtins__"] = its_builtins
    try:
        run(module)
    except Exception:
        # It uses the package at import time, or would have failed anyway.
        top.runs = False
        run(module)
    finally:
        top.runs = False
        # Functions of the module keep a reference to these builtins.
        its_builtins["__import__"] = builtins.__import__


class _Top:
    """The statements at the top of a module, while they run."""

    def __init__(self, package: str) -> None:
        self.package, self.runs = package, True

    def importing(self, name: str, globals: Any = None, locals: Any = None, names: Any = (), level: int = 0) -> Any:
        """The replacement of __import__ while the module runs."""
        find = functools.partial(builtins.__import__, name, globals, locals, names, level)
        return self.later(find) if f"{name}.".startswith(f"{self.package}.") else find()

    def later(self, find: Callable[[], Any]) -> Any:
        """A module that can be found, not imported yet."""
        return Later(self, find) if self.runs else find()


class Later:
    """A package, an attribute of it, or a result of calling one at import time, resolved on first use."""

    def __init__(self, top: _Top, find: Callable[[], Any]) -> None:
        self._top, self._find = top, functools.cache(find)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            # typing asks annotations for dunder attributes.
            raise AttributeError(name)
        return self._top.later(lambda: getattr(self._find(), name))

    def __call__(self, *arguments: Any, **more: Any) -> Any:
        """A deferred call, so that decorators are deferred too."""
        return self._top.later(lambda: self._find()(*arguments, **more))

    def __instancecheck__(self, instance: Any) -> bool:
        # An instance cannot exist before its class is imported.
        return _is_loaded(self._top.package) and isinstance(instance, self._find())

    def __subclasscheck__(self, subclass: type) -> bool:
        return _is_loaded(self._top.package) and issubclass(subclass, self._find())

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return (self._find(),)
