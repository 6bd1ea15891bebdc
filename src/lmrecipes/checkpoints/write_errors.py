"""Errors of writing a checkpoint, in a form that other ranks can be sent."""

from __future__ import annotations

from collections.abc import Iterator


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and its causes."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def sendable(error: Exception) -> OSError:
    """A picklable form of an error, for other ranks: exception chains are lost in transit.

    torch wraps the system's error for a full disk in its own.
    """
    numbered = (cause for cause in causes(error) if isinstance(cause, OSError) and cause.errno)
    for cause in numbered:
        return OSError(cause.errno, cause.strerror, cause.filename)
    return OSError(f"{type(error).__name__}: {error}")
