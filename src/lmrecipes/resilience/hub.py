"""Rank 0's end of the connections between ranks.

Rank 0 listens on one address, and only until all ranks have connected. It answers nobody before the run's token, keeps
a bounded number of connections, and reads no line beyond its greatest length. One thread serves all connections;
whoever sends more than a member does is read more slowly, so that a flood does not slow the run.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import math
import platform
import re
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from lmrecipes.resilience.heartbeat import CONNECT_TIMEOUT_S, REPLY_TIMEOUT_S, Address, End
from lmrecipes.resilience.line_connection import READ, Peer

# All ranks start to connect at the same time; afterwards nobody else is awaited.
_LISTEN_S = 3 * CONNECT_TIMEOUT_S
# Phases are asked for no more often than this.
_ASK_EVERY_S = 1.0
# A peer that does not read for this long is given up.
_SEND_TIMEOUT_S = 1.0
# Connections that have not presented the token yet.
_MAX_STRANGERS = 64
_HELLO_TIMEOUT_S = 3.0
# Greatest lengths of a line before and after the token was presented, in bytes.
_HELLO_LENGTH, _MEMBER_LENGTH = 512, 2**13
_CODE = re.compile("-?[0-9]{1,9}")
# Processor time that reading may take: at first, in seconds; and then a share of a core, for everybody together.
_STRANGERS_BURST_S, _MEMBER_BURST_S = 1.0, 0.005
_SHARE = 0.002


class _Budget:
    """Processor time that the messages of a peer may take: a burst, and then a share of a core."""

    def __init__(self, burst: float) -> None:
        self._burst = self._left = burst
        self._at = time.monotonic()

    def spend(self, seconds: float, share: float) -> float:
        """Takes processor time from the budget; returns the time after which there is some again, in seconds."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._at) * share) - seconds
        self._at = now
        return max(0.0, -self._left / share)


class _Connected(Peer):
    """A connection that rank 0 has accepted; a stranger's until it has presented the token."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection, _HELLO_LENGTH)
        self.rank, self.host = -1, ""
        self.since = time.monotonic()
        self.budget = _Budget(_MEMBER_BURST_S)


class Hub:
    """Rank 0's end: receives how each rank ends, and broadcasts it."""

    def __init__(self, host: str, world_size: int, ended: Callable[[End], None], state: Callable[[], Any]) -> None:
        """Starts listening.

        Args:
            host: numeric address to listen on.
            world_size: number of ranks; once the others have connected, nobody else can.
            ended: called in a thread when another rank failed or disappeared, after the others were notified.
            state: returns the phase of this rank, in plain values.

        Raises:
            OSError: if the address is none of this machine's.
        """
        self._state = state
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._server = socket.create_server((host, 0), family=family, backlog=1024)
        self._server.setblocking(False)
        self.address = Address(host, self._server.getsockname()[1], secrets.token_hex(16), platform.node() or "?")
        self._ended = ended
        # Ranks that have not connected yet, and those that have and did not end.
        self._awaited = {str(rank) for rank in range(1, world_size)}
        self._members: dict[int, _Connected] = {}
        # Without the token yet, oldest first.
        self._strangers: dict[socket.socket, _Connected] = {}
        self._strangers_budget = _Budget(_STRANGERS_BURST_S)
        self._strangers_from = 0.0
        # Members that have used up their budget, and when they are read again.
        self._paused: dict[_Connected, float] = {}
        self._askers: set[_Connected] = set()
        self._is_asking = False
        self._asked, self._asking = -math.inf, threading.Lock()
        self._replies: dict[int, Any] = {}
        self._selector = selectors.DefaultSelector()
        self._listens = False
        self._closed = threading.Event()
        self._began = time.monotonic()
        threading.Thread(target=self._serve, name="heartbeat", daemon=True).start()

    def _serve(self) -> None:
        while not self._closed.is_set():
            self._keep_time()
            busy = self._paused or self._strangers or self._askers or not self._listens
            for key, _ in self._selector.select(timeout=0.05 if busy else 1):
                peer: _Connected | None = key.data
                # An earlier event of this round may have closed it.
                if peer is not None and not self._is_read(peer):
                    continue
                began = time.thread_time()
                if peer is not None and peer.rank > 0:
                    self._handle(peer)
                    spent = time.thread_time() - began
                    self._pause(peer, peer.budget.spend(spent, _SHARE / max(1, len(self._members))))
                    continue
                if peer is None:
                    self._accept()
                else:
                    self._greet(peer)
                pause = self._strangers_budget.spend(time.thread_time() - began, _SHARE)
                self._strangers_from = time.monotonic() + pause
        self._stop_listening()
        self._let_members_leave()

    def _is_read(self, peer: _Connected) -> bool:
        return peer.connection in self._strangers or (self._members.get(peer.rank) is peer and peer not in self._paused)

    def _keep_time(self) -> None:
        """What is due at a time: pauses, deadlines, and replies that were awaited."""
        now = time.monotonic()
        for peer in [peer for peer, until in self._paused.items() if until <= now]:
            del self._paused[peer]
            self._selector.register(peer.connection, selectors.EVENT_READ, peer)
        for peer in [peer for peer in self._strangers.values() if peer.since + _HELLO_TIMEOUT_S <= now]:
            self._forget(peer)
        self._serve_askers()
        if not self._awaited or now >= self._began + _LISTEN_S:
            self._stop_listening()
        elif (listens := self._strangers_from <= now) != self._listens:
            self._listens = listens
            if listens:
                self._selector.register(self._server, selectors.EVENT_READ, None)
            else:
                self._selector.unregister(self._server)
                self._forget_strangers()

    def _stop_listening(self) -> None:
        if self._server.fileno() >= 0:
            if self._listens:
                self._selector.unregister(self._server)
            # Not again: as if it listened, so that nothing is due.
            self._listens = True
            self._server.close()
            self._forget_strangers()

    def _let_members_leave(self) -> None:
        """Closes each connection after the other end has: earlier, what was sent last might be lost."""
        deadline = time.monotonic() + REPLY_TIMEOUT_S
        for peer in list(self._members.values()):
            with peer.connection, contextlib.suppress(OSError):
                peer.connection.shutdown(socket.SHUT_WR)
                while (left := deadline - time.monotonic()) > 0:
                    peer.connection.settimeout(left)
                    if not peer.connection.recv(READ):
                        break
        self._selector.close()

    def _forget_strangers(self) -> None:
        for peer in list(self._strangers.values()):
            self._forget(peer)

    def _accept(self) -> None:
        try:
            connection, _ = self._server.accept()
        except OSError:
            return
        if len(self._strangers) >= _MAX_STRANGERS:
            # The oldest: a member presents its token at once.
            self._forget(next(iter(self._strangers.values())))
        connection.settimeout(_SEND_TIMEOUT_S)
        peer = self._strangers[connection] = _Connected(connection)
        self._selector.register(connection, selectors.EVENT_READ, peer)

    def _greet(self, peer: _Connected) -> None:
        """Reads a stranger's first line, which must hold the token and a rank that is awaited."""
        match peer.receive():
            case []:
                return
            case [["hello", token, rank, host]] if (
                hmac.compare_digest(token.encode(), self.address.token.encode()) and rank in self._awaited
            ):
                self._awaited.remove(rank)
                del self._strangers[peer.connection]
                peer.rank, peer.host, peer.longest = int(rank), host, _MEMBER_LENGTH
                self._members[peer.rank] = peer
                peer.send("welcome")
            case _:
                self._forget(peer)

    def _handle(self, peer: _Connected) -> None:
        """Reads what a member sends."""
        messages = peer.receive()
        if messages is None:
            self._end(peer, End(peer.rank, peer.host, None))
        for message in messages or []:
            match message:
                case ["state", *state]:
                    with contextlib.suppress(ValueError, RecursionError):
                        self._replies[peer.rank] = json.loads(" ".join(state))
                case ["get_states"]:
                    self._askers.add(peer)
                case ["done"]:
                    self._forget(peer)
                    return
                case ["failed", code, stacks] if _CODE.fullmatch(code):
                    self._end(peer, End(peer.rank, peer.host, int(code), stacks == "1"))
                    return
                case _:
                    self._forget(peer)
                    return

    def _pause(self, peer: _Connected, seconds: float) -> None:
        """Stops reading a member that sends too much, for some time."""
        if seconds and self._members.get(peer.rank) is peer:
            self._selector.unregister(peer.connection)
            self._paused[peer] = time.monotonic() + seconds

    def _forget(self, peer: _Connected) -> None:
        if self._is_read(peer):
            self._selector.unregister(peer.connection)
        self._paused.pop(peer, None)
        self._askers.discard(peer)
        self._strangers.pop(peer.connection, None)
        if self._members.get(peer.rank) is peer:
            del self._members[peer.rank]
        peer.connection.close()

    def _end(self, peer: _Connected, end: End) -> None:
        self._forget(peer)
        if not self._closed.is_set():
            self.fail(1 if end.code is None else end.code, end.stacks)
            self._ended(end)

    def _ask(self) -> None:
        """Asks all ranks for their phase, unless that was done a moment ago, or replies are still awaited."""
        with self._asking:
            if time.monotonic() - self._asked >= _ASK_EVERY_S and self._has_replies():
                self._asked = time.monotonic()
                self._replies.clear()
                self._to_all("get_state")

    def _has_replies(self) -> bool:
        return set(self._members) <= self._replies.keys() or time.monotonic() - self._asked >= REPLY_TIMEOUT_S

    def _serve_askers(self) -> None:
        """Asks all ranks once for all that want to know, and answers them when the replies are there."""
        if self._askers and not self._is_asking:
            self._ask()
            self._is_asking = True
        if self._is_asking and self._has_replies():
            self._is_asking = False
            known = json.dumps(self._known())
            for peer in self._askers:
                peer.send("states", known)
            self._askers.clear()

    def _known(self) -> dict[int, Any]:
        return {0: self._state(), **{rank: self._replies.get(rank) for rank in sorted(self._members)}}

    def states(self) -> dict[int, Any]:
        """The phase of every rank; None for ranks that do not answer."""
        self._ask()
        deadline = time.monotonic() + REPLY_TIMEOUT_S
        while not self._has_replies() and time.monotonic() < deadline:
            time.sleep(0.05)
        return self._known()

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
        for peer in list(self._members.values()):
            peer.send(*words)
