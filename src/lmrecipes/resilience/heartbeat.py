"""A TCP connection from every rank to rank 0, so that all notice at once when one fails or is killed."""

from __future__ import annotations

import contextlib
import json
import platform
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

_CONNECT_TIMEOUT_S = 20.0
# A healthy rank replies within this time.
_REPLY_TIMEOUT_S = 3.0


class End(NamedTuple):
    """How another rank ended."""

    rank: int
    host: str
    code: int | None
    """Its exit code; None if it disappeared without a message."""
    stacks: bool = False
    """Whether the others are to write their stacks."""


class Address(NamedTuple):
    """Where the first rank listens, and a secret that members of the run present."""

    port: int
    token: str
    name: str
    """Host name of its machine."""


class _Peer:
    """One end of a line-based connection."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # A node that lost power closes no connection: TCP keepalive notices within half a minute.
        for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self.connection = connection
        self.rank, self.host = -1, ""
        self._rest = b""
        self._sending = threading.Lock()

    def send(self, *words: object) -> None:
        with self._sending, contextlib.suppress(OSError):
            self.connection.sendall(" ".join(str(word) for word in words).encode() + b"\n")

    def receive(self) -> list[list[str]] | None:
        """Complete lines received, split into words; None if the connection is closed."""
        try:
            data = self.connection.recv(4096)
        except OSError:
            return None
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [line.decode(errors="replace").split() for line in lines]


class Hub:
    """Rank 0's end: receives how each rank ends, and broadcasts it."""

    def __init__(self, ended: Callable[[End], None], state: Callable[[], Any]) -> None:
        """Starts listening.

        Args:
            ended: called in a thread when another rank failed or disappeared, after the others were notified.
            state: returns the phase of this rank, in plain values.
        """
        self._state = state
        if socket.has_dualstack_ipv6():
            self._server = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        else:
            self._server = socket.create_server(("", 0))
        self.address = Address(self._server.getsockname()[1], secrets.token_hex(8), platform.node() or "?")
        self._ended = ended
        self._peers: dict[socket.socket, _Peer] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._server, selectors.EVENT_READ)
        self._closed = threading.Event()
        self._replies: dict[int, Any] = {}
        threading.Thread(target=self._listen, name="heartbeat", daemon=True).start()

    def _listen(self) -> None:
        while not self._closed.is_set():
            for key, _ in self._selector.select(timeout=1):
                if key.fileobj is self._server:
                    connection, _ = self._server.accept()
                    self._peers[connection] = _Peer(connection)
                    self._selector.register(connection, selectors.EVENT_READ)
                else:
                    self._handle(self._peers[key.fileobj])  # type: ignore[index]

    def _handle(self, peer: _Peer) -> None:
        messages = peer.receive()
        for message in messages or []:
            match message:
                case ["hello", token, rank, host] if token == self.address.token:
                    peer.rank, peer.host = int(rank), host
                case ["state", *state] if peer.rank > 0:
                    self._replies[peer.rank] = json.loads(" ".join(state))
                case ["get_states"]:
                    # In another thread: this one receives the replies.
                    threading.Thread(target=lambda: peer.send("states", json.dumps(self.states())), daemon=True).start()
                case ["done"] if peer.rank > 0:
                    self._forget(peer)
                    return
                case ["failed", code, stacks] if peer.rank > 0:
                    self._end(peer, End(peer.rank, peer.host, int(code), stacks == "1"))
                    return
                case _:
                    self._forget(peer)
                    return
        if messages is None:
            if peer.rank > 0:
                self._end(peer, End(peer.rank, peer.host, None))
            else:
                self._forget(peer)

    def _forget(self, peer: _Peer) -> None:
        self._selector.unregister(peer.connection)
        del self._peers[peer.connection]
        peer.connection.close()

    def _end(self, peer: _Peer, end: End) -> None:
        self._forget(peer)
        if not self._closed.is_set():
            self.fail(1 if end.code is None else end.code, end.stacks)
            self._ended(end)

    def states(self) -> dict[int, Any]:
        """The phase of every rank; None for ranks that do not answer."""
        self._replies.clear()
        self._to_all("get_state")
        everyone = {peer.rank for peer in self._peers.values() if peer.rank > 0}
        deadline = time.monotonic() + _REPLY_TIMEOUT_S
        while not everyone <= self._replies.keys() and time.monotonic() < deadline:
            time.sleep(0.05)
        return {0: self._state(), **{rank: self._replies.get(rank) for rank in sorted(everyone)}}

    def fail(self, code: int, stacks: bool = False) -> None:
        """Tells the others to exit."""
        self._closed.set()
        self._to_all("exit", code, int(stacks))

    def done(self) -> None:
        """Tells the others that this rank exits normally."""
        if not self._closed.is_set():
            self._closed.set()
            self._to_all("done")

    def _to_all(self, *words: object) -> None:
        for peer in list(self._peers.values()):
            peer.send(*words)


class Member:
    """The end of any other rank."""

    def __init__(
        self, rank: int, host: str, address: Address, ended: Callable[[End], None], state: Callable[[], Any]
    ) -> None:
        """Connects to the first rank.

        Args:
            rank: of this process.
            host: where the first rank is.
            address: its Hub's.
            ended: called in a thread when a rank failed or the first disappeared.
            state: returns the phase of this rank, in plain values.

        Raises:
            OSError: if it cannot be reached.
        """
        connection = socket.create_connection((host, address.port), timeout=_CONNECT_TIMEOUT_S)
        connection.settimeout(None)
        self._hub, self._host, self._ended = _Peer(connection), address.name, ended
        self._closed = threading.Event()
        self._rank, self._state = rank, state
        self._states: dict[int, Any] | None = None
        self._replied = threading.Event()
        self._hub.send("hello", address.token, rank, platform.node() or "?")
        threading.Thread(target=self._listen, name="heartbeat", daemon=True).start()

    def _listen(self) -> None:
        with self._hub.connection:
            self._receive()

    def _receive(self) -> None:
        while True:
            messages = self._hub.receive()
            if self._closed.is_set():
                return
            for message in messages or []:
                match message:
                    case ["exit", code, stacks]:
                        self._ended(End(-1, "", int(code), stacks == "1"))
                        return
                    case ["get_state"]:
                        self._hub.send("state", json.dumps(self._state()))
                    case ["states", *states]:
                        self._states = {int(rank): state for rank, state in json.loads(" ".join(states)).items()}
                        self._replied.set()
                    case ["done"]:
                        return
            if messages is None:
                self._ended(End(0, self._host, None))
                return

    def states(self) -> dict[int, Any]:
        """The phase of every rank; None for ranks that do not answer."""
        self._hub.send("get_states")
        self._replied.wait(2 * _REPLY_TIMEOUT_S)
        return self._states if self._states is not None else {0: None, self._rank: self._state()}

    def fail(self, code: int, stacks: bool = False) -> None:
        """Tells rank 0 that this rank failed."""
        self._closed.set()
        self._hub.send("failed", code, int(stacks))

    def done(self) -> None:
        """Tells rank 0 that this rank exits normally."""
        if not self._closed.is_set():
            self._closed.set()
            self._hub.send("done")
