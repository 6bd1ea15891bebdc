"""Checks of this machine, with a fix for each problem."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import torch
from packaging.requirements import Requirement

_GIB = 2**30
_HUB = "huggingface.co"


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    what: str
    found: str
    fix: str | None = None
    """How to fix it; None if nothing is wrong."""
    note: bool = False
    """Whether it may matter, without being a problem."""


def machine(runs_root: Path) -> Iterator[Finding]:
    """Checks Python, packages, devices, shared memory, disk and hub."""
    yield Finding("python", f"{platform.python_version()} at {sys.executable}")
    yield from _packages()
    yield _devices()
    yield from _shared_memory()
    yield _disk(runs_root)
    yield _hub()


def _packages() -> Iterator[Finding]:
    yield Finding("torch", torch.__version__)
    try:
        required = [Requirement(text) for text in requires("lmrecipes") or []]
    except PackageNotFoundError:
        return
    for package in required:
        if package.marker is not None and not package.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = version(package.name)
        except PackageNotFoundError:
            yield Finding(package.name, "not installed", fix=f'pip install "{package}"')
            continue
        if not package.specifier.contains(installed, prereleases=True):
            yield Finding(package.name, installed, fix=f'pip install "{package}"')


def _devices() -> Finding:
    cpus = f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} CPU cores"
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        counted = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
        return Finding("devices", f"{counted}, {cpus}")
    if Path("/dev/nvidiactl").exists():
        return Finding(
            "devices",
            f"{cpus}; a GPU that torch {torch.__version__} cannot use",
            fix="install the build of torch for this driver's CUDA (pytorch.org), and look at CUDA_VISIBLE_DEVICES",
        )
    return Finding("devices", f"{cpus}, no GPU")


def _shared_memory() -> Iterator[Finding]:
    if not Path("/dev/shm").is_dir():
        return
    free = shutil.disk_usage("/dev/shm").free
    fix = None if free >= _GIB / 4 else "start the container with --shm-size=8g (--ipc=host); loaders and NCCL use it"
    yield Finding("shared memory", f"{free / _GIB:.1f} GiB free", fix=fix)


def _disk(runs_root: Path) -> Finding:
    existing = next(path for path in (runs_root.absolute(), *runs_root.absolute().parents) if path.is_dir())
    if not os.access(existing, os.W_OK):
        return Finding("runs folder", f"{existing} cannot be written to", fix="name another with --runs_root")
    free = shutil.disk_usage(existing).free
    fix = None if free >= 2 * _GIB else "free some space, or name another folder with --runs_root"
    return Finding("runs folder", f"{free / _GIB:.1f} GiB free at {existing}", fix=fix)


def _hub() -> Finding:
    if os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on"):
        return Finding("hub", "not checked, as HF_HUB_OFFLINE is set; prepared data needs no network")
    try:
        socket.create_connection((_HUB, 443), timeout=3).close()
    except OSError:
        return Finding("hub", f"{_HUB} cannot be reached; run `lmrecipes prepare` where it can", note=True)
    return Finding("hub", f"{_HUB} is reached")
