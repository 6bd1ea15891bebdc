"""Ranks learn when others exit, and accept messages from nobody else."""

import platform
import queue
import socket

from lmrecipes.resilience.heartbeat import End, Hub, Member


def test_a_connection_without_the_runs_token_cannot_stop_it():
    ended: queue.Queue[End] = queue.Queue()
    hub = Hub(ended.put, lambda: None)
    with socket.create_connection(("localhost", hub.address.port), timeout=30) as stranger:
        stranger.sendall(b"hello guessed 1 there\nfailed 3 0\n")
        assert stranger.recv(1) == b""
        member = Member(2, "localhost", hub.address, ended.put, lambda: None)
        member.fail(4)
        assert ended.get(timeout=30) == End(2, platform.node() or "?", 4)
    hub._server.close()
