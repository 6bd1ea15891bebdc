"""A TCP connection from every rank to rank 0, so that all notice at once when one fails or is killed."""

from __future__ import annotations

import json
import platform
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from lmrecipes.resilience.line_connection import Peer

CONNECT_TIMEOUT_S = 20.0
# A healthy rank replies within this time.
REPLY_TIMEOUT_S = 3.0
# Greatest length of a line with the phases of all ranks, in bytes.
_HUB_LENGTH = 2**24


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

    host: str
    port: int
    token: str
    name: str
    """Host name of its machine."""


class Member:
    """The end of any other rank."""

    def __init__(self, rank: int, address: Address, ended: Callable[[End], None], state: Callable[[], Any]) -> None:
        """Connects to the first rank.

        Args:
            rank: of this process.
            address: of the Hub.
            ended: called in a thread when a rank failed or the first disappeared.
            state: returns the phase of this rank, in plain values.

        Raises:
            OSError: if it cannot be reached.
        """
        self._hub, self._host, self._ended = _welcomed(rank, address), address.name, ended
        self._closed = threading.Event()
        self._rank, self._state = rank, state
        self._states: dict[int, Any] | None = None
        self._replied = threading.Event()
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
        self._replied.clear()
        self._hub.send("get_states")
        self._replied.wait(2 * REPLY_TIMEOUT_S)
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


def _welcomed(rank: int, address: Address) -> Peer:
    """A connection to the Hub that it has accepted.

    Raises:
        OSError: if it cannot be reached, or accepts none in time.
    """
    deadline = time.monotonic() + CONNECT_TIMEOUT_S
    while (left := deadline - time.monotonic()) > 0:
        peer = Peer(socket.create_connection((address.host, address.port), timeout=left), _HUB_LENGTH)
        peer.send("hello", address.token, rank, platform.node() or "?")
        if peer.receive() == [["welcome"]]:
            peer.connection.settimeout(None)
            return peer
        # The Hub drops connections when there are too many.
        peer.connection.close()
        time.sleep(0.1)
    raise TimeoutError(f"{address.host} port {address.port} has accepted no connection in {CONNECT_TIMEOUT_S:g} s")
