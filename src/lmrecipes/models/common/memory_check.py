"""Refuses a network that the memory has no room for, before the system ends the process for it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_REFUSED = re.compile("can't allocate memory|out of memory|not enough memory|Storage size calculation overflowed", re.I)
_BYTES = 4
# Beyond any machine, for networks that are built without their weights and sharded.
_MOST_PARAMS = 10**15


@contextmanager
def check_memory(config: Any) -> Iterator[None]:
    """Checks the size of a network before it is built within, and names its settings if there is no memory for it.

    Args:
        config: sizes of the network; its `n_params()`, if it has one, is what is checked before.

    Raises:
        ValueError: with the memory needed and that of the machine.
    """
    n_params = config.n_params() if hasattr(config, "n_params") else 0
    on_cpu = torch.get_default_device().type == "cpu"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if n_params > (memory // _BYTES if on_cpu else _MOST_PARAMS):
        raise ValueError(
            f"model.config makes a network of {n_params:.3g} parameters, whose weights take "
            f"{n_params * _BYTES / 1e9:,.1f} GB, but this machine has {memory / 1e9:,.1f} GB of memory; make "
            f"{_largest(config)} smaller"
        )
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not _REFUSED.search(str(error)):
            raise
        raise ValueError(
            f"there is no memory for the network of model.config, in a machine with {memory / 1e9:,.1f} GB; make "
            f"{_largest(config)} smaller"
        ) from error


def _largest(config: Any) -> str:
    """The largest sizes of a configuration, by name."""
    sizes = {name: value for name, value in vars(config).items() if type(value) is int}
    largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
    return ", ".join(f"{name} ({sizes[name]})" for name in largest) or "it"
