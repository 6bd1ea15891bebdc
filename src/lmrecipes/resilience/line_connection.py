"""One end of a connection between ranks: lines of words over TCP."""

from __future__ import annotations

import contextlib
import socket
import threading

# Bytes read at once.
READ = 1024


class Peer:
    """One end of a line-based connection."""

    def __init__(self, connection: socket.socket, longest: int) -> None:
        """Takes a connection over.

        Args:
            connection: to another rank; its timeout is that of sending, too.
            longest: greatest length of a line, in bytes; nothing beyond it is kept.
        """
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # A node that lost power closes no connection: TCP keepalive notices within half a minute.
        for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self.connection = connection
        self.longest = longest
        self._rest = b""
        self._sending = threading.Lock()

    def send(self, *words: object) -> None:
        """Sends a line; a connection that fails is shut down."""
        with self._sending:
            try:
                self.connection.sendall(" ".join(str(word) for word in words).encode() + b"\n")
            except OSError:
                # Part of a line may have been sent: nothing can follow it. The receiving thread closes the connection.
                with contextlib.suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)

    def receive(self) -> list[list[str]] | None:
        """Complete lines received, split into words; None if the connection is closed.

        A line that is too long counts as an empty one, which nobody sends.
        """
        try:
            data = self.connection.recv(READ)
        except OSError:
            return None
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        if max(map(len, (*lines, self._rest))) > self.longest:
            return [[]]
        return [line.decode(errors="replace").split() for line in lines]
