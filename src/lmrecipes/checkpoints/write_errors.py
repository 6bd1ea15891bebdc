"""Errors of writing a checkpoint, in a form that other ranks can be sent."""

from __future__ import annotations

from lmrecipes.runtime.disk_space import causes


def sendable(error: Exception) -> OSError:
    """A picklable form of an error, for other ranks: exception chains are lost in transit.

    torch wraps the system's error for a full disk in its own.
    """
    numbered = (cause for cause in causes(error) if isinstance(cause, OSError) and cause.errno)
    for cause in numbered:
        return OSError(cause.errno, cause.strerror, cause.filename)
    return OSError(f"{type(error).__name__}: {error}")
