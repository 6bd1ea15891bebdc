"""Tunes glibc's allocator for training on CPU."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def tune_process() -> bool:
    """Makes glibc keep freed memory instead of returning it to the kernel and faulting it in again every step.

    Returns:
        Whether it was applied; other C libraries are left alone.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return all([mallopt(_M_MMAP_MAX, 0), mallopt(_M_TRIM_THRESHOLD, 1 << 30), mallopt(_M_TOP_PAD, 64 << 20)])
