"""Networks without their Python code: programs written by torch.export, run as graphs or compiled by AOTInductor."""

from __future__ import annotations

import io
import json
import os
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lmrecipes.models.common.linear import export_for_this_machine
from lmrecipes.runtime.disk_space import check_room
from lmrecipes.runtime.file_faults import CARRIES_CODE, fault_of
from lmrecipes.runtime.open_file import read_json
from lmrecipes.runtime.path_names import check_plain

GRAPH, COMPILED = "torch_export", "aot_inductor"
_MANIFEST = "programs.json"
# What torch.load obeys in calls that are not ours.
_TENSORS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


@dataclass(frozen=True, kw_only=True)
class Program:
    """One call of a network that can be written to a file."""

    network: nn.Module
    """What is called, in evaluation mode."""
    example: tuple[Any, ...]
    """Arguments of one call; sizes named in `dynamic` may be others later."""
    dynamic: tuple[Any, ...]
    """What `torch.export.export` takes as dynamic_shapes."""


def write_programs(programs: Mapping[str, Program], folder: Path, form: str, settings: Mapping[str, Any]) -> None:
    """Writes `<name>.pt2` for each program, and a manifest.

    Args:
        programs: the programs by name.
        folder: where the files go; made if needed.
        form: "torch_export" for a graph that any torch runs, "aot_inductor" for machine code (needs a C++ compiler).
        settings: what must be the same when the programs are used, as JSON.

    Raises:
        ValueError: if there is no compiler.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, program in programs.items():
        path = folder / f"{name}.pt2"
        here = export_for_this_machine() if form == COMPILED else nullcontext()
        with _quietly(), torch.no_grad(), here:
            exported = torch.export.export(
                program.network, program.example, dynamic_shapes=program.dynamic, strict=False
            )
            if form == GRAPH:
                # In memory first: torch aborts the process if it cannot write a file to its end.
                content = io.BytesIO()
                torch.export.save(exported, content)
                path.write_bytes(content.getbuffer())
            else:
                check_room(folder, sum(tensor.nbytes for tensor in exported.state_dict.values()))
                _compile(exported, path)
    device = str(next(iter(programs.values())).example[0].device)
    about = {"form": form, "device": device, "torch": torch.__version__, "programs": list(programs)}
    (folder / _MANIFEST).write_text(json.dumps({**about, "settings": dict(settings)}, indent=2) + "\n")


def _compile(exported: torch.export.ExportedProgram, path: Path) -> None:
    try:
        torch._inductor.aoti_compile_and_package(exported, package_path=str(path))
    except Exception as error:
        if "compiler" not in str(error).lower():
            raise
        raise ValueError(
            f"--format {COMPILED} needs a C++ compiler (on Debian: apt install g++), and none was found; "
            f"--format {GRAPH} needs none"
        ) from error


def check_outputs(got: Any, expected: Any, folder: Path) -> None:
    """Compares what programs compute with what the network does.

    Raises:
        ValueError: if they differ by more than rounding.
    """
    try:
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)
    except AssertionError as error:
        raise ValueError(f"the programs in {folder} do not compute what the network does: {error}") from error


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of exported programs: form, device, torch, programs, settings.

    Raises:
        ValueError: if the folder holds no programs.
    """
    path = folder / _MANIFEST
    if not path.is_file():
        raise ValueError(f"{folder} holds no exported programs; `lmrecipes export --run RUN` makes them")
    manifest = read_json(path)
    if not isinstance(manifest, dict) or not manifest.keys() >= {"form", "device", "torch", "programs", "settings"}:
        raise ValueError(f"{path} does not describe exported programs; export the run again")
    return manifest


def load_programs(folder: Path, form: str) -> dict[str, Callable[..., Any]]:
    """The programs of a folder, ready to be called.

    Raises:
        ValueError: if a file cannot be loaded.
    """
    calls: dict[str, Callable[..., Any]] = {}
    names = read_manifest(folder)["programs"]
    for name in names:
        check_plain(f"programs in {folder / _MANIFEST}", name, "score")
    for path in (folder / f"{name}.pt2" for name in names):
        try:
            with _quietly(), _without_pickled_objects():
                if form == GRAPH:
                    calls[path.stem] = torch.export.load(path).module()
                else:
                    calls[path.stem] = torch._inductor.aoti_load_package(str(path))
        except Exception as error:
            reason = CARRIES_CODE if isinstance(error, pickle.UnpicklingError) else fault_of(path)
            raise ValueError(f"{path} cannot be loaded: {reason}; export the run again") from error
    return calls


@contextmanager
def _without_pickled_objects() -> Iterator[None]:
    """Keeps torch.export.load from unpickling any object where it finds more than tensors."""
    before = os.environ.get(_TENSORS_ONLY)
    os.environ[_TENSORS_ONLY] = "1"
    try:
        yield
    finally:
        del os.environ[_TENSORS_ONLY]
        if before is not None:
            os.environ[_TENSORS_ONLY] = before


@contextmanager
def _quietly() -> Iterator[None]:
    # torch.export triggers torch's own deprecation warnings.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
