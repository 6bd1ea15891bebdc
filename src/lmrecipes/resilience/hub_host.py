"""The address on which rank 0 listens for the other ranks."""

from __future__ import annotations

import contextlib
import platform
import socket
from pathlib import Path

import torch.distributed as dist

LOOPBACK = "127.0.0.1"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def hub_host(main_address: str) -> str:
    """Loopback if all ranks are on one machine, otherwise the address at which other machines find rank 0.

    Called by all ranks together.

    Args:
        main_address: name or address of the machine of rank 0, such as MASTER_ADDR.
    """
    everyone: list[tuple[tuple[str, str], str]] = [(("", ""), "")] * dist.get_world_size()
    dist.all_gather_object(everyone, (_machine(), _numeric(main_address)))
    return choose(everyone)


def choose(ranks: list[tuple[tuple[str, str], str]]) -> str:
    """The address, given each rank's machine and what it resolves the main address to."""
    first, _ = ranks[0]
    # Not by rank 0's own word: Debian lets a machine resolve its own name to 127.0.1.1.
    return next((address for machine, address in ranks if machine != first), LOOPBACK)


def _machine() -> tuple[str, str]:
    """Identifies this machine, or its container."""
    boot = ""
    with contextlib.suppress(OSError):
        boot = _BOOT_ID.read_text(encoding="ascii").strip()
    return platform.node(), boot


def _numeric(address: str) -> str:
    with contextlib.suppress(OSError):
        return str(socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)[0][4][0])
    return address
