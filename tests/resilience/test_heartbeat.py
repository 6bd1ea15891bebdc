"""Ranks learn when others exit, and accept messages from nobody else, whatever these send and how much."""

import contextlib
import platform
import queue
import resource
import select
import socket
import threading
import time

import pytest

from lmrecipes.resilience import heartbeat, hub_host
from lmrecipes.resilience import hub as hub_module
from lmrecipes.resilience.heartbeat import End, Member
from lmrecipes.resilience.hub import Hub

HERE = platform.node() or "?"


@pytest.fixture
def ended():
    return queue.Queue()


@pytest.fixture
def hub(ended):
    """Rank 0 of four."""
    hub = Hub(hub_host.LOOPBACK, 4, ended.put, lambda: "at 0")
    yield hub
    hub.done()


def member(hub, rank, ended=None):
    return Member(rank, hub.address, (ended or queue.Queue()).put, lambda: f"at {rank}")


def stranger(hub):
    return socket.create_connection((hub.address.host, hub.address.port), timeout=30)


def closes(connection):
    """Whether the other end closes a connection, having sent nothing."""
    with contextlib.suppress(ConnectionResetError):
        return connection.recv(1) == b""
    return True


def hello(hub, rank=1):
    return f"hello {hub.address.token} {rank} there\n".encode()


def test_a_connection_without_the_runs_token_cannot_stop_it(hub, ended):
    with stranger(hub) as connection:
        connection.sendall(b"hello guessed 1 there\nfailed 3 0\n")
        assert closes(connection)
        member(hub, 2).fail(4)
        assert ended.get(timeout=30) == End(2, HERE, 4)


FIRST_LINES = {
    "who": b"who\n",
    "get_states": b"get_states\n" * 100,
    "done": b"done\n",
    "a line without end": b"x" * 1000,
    "bytes": b"\xff\x00\n",
    "an empty line": b"\n",
    "a token of other characters": "hello ключ 1 there\n".encode(),
}


@pytest.mark.parametrize("line", FIRST_LINES.values(), ids=FIRST_LINES)
def test_nothing_is_answered_before_the_token(hub, line):
    with stranger(hub) as connection:
        connection.sendall(line)
        assert closes(connection)


@pytest.mark.parametrize("rank", ["0", "4", "-1", "x", "1" * 100, "١"])
def test_the_token_admits_only_ranks_of_the_run(hub, rank):
    with stranger(hub) as connection:
        connection.sendall(hello(hub, rank))
        assert closes(connection)


def test_a_rank_connects_once(hub, ended):
    member(hub, 1)
    with stranger(hub) as second:
        second.sendall(hello(hub, 1) + b"failed 3 0\n")
        assert closes(second)
    assert ended.empty()


MESSAGES = {
    "a line without end": b"x" * 2**14,
    "an unknown word": b"why\n",
    "a code that is no number": b"failed x 0\n",
    "a code of many digits": b"failed " + b"1" * 5000 + b" 0\n",
    "a phase that is no JSON": b"state {\nwhy\n",
    "a phase nested deep": b"state " + b"[" * 8000 + b"\nwhy\n",
}


@pytest.mark.parametrize("line", MESSAGES.values(), ids=MESSAGES)
def test_a_member_that_sends_nonsense_is_dropped_and_the_others_stay(hub, ended, line):
    with stranger(hub) as connection:
        connection.sendall(hello(hub))
        assert connection.recv(100) == b"welcome\n"
        connection.sendall(line)
        connection.settimeout(10)
        assert closes(connection)
        other = member(hub, 2)
        assert other.states() == {0: "at 0", 2: "at 2"}
    assert ended.empty()


def test_nobody_can_connect_once_all_ranks_have(hub):
    members = [member(hub, rank) for rank in (1, 2, 3)]
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            stranger(hub).close()
        except ConnectionRefusedError:
            break
    with pytest.raises(ConnectionRefusedError):
        stranger(hub)
    members[0].done()
    assert members[1].states() == {0: "at 0", 2: "at 2", 3: "at 3"}
    with pytest.raises(ConnectionRefusedError):
        stranger(hub)


def test_a_stranger_that_says_nothing_is_dropped(hub, monkeypatch):
    monkeypatch.setattr(hub_module, "_HELLO_TIMEOUT_S", 0.2)
    with stranger(hub) as connection:
        connection.sendall(b"hel")
        assert closes(connection)


def test_many_silent_strangers_keep_no_member_out(hub, ended):
    silent = [stranger(hub) for _ in range(3 * hub_module._MAX_STRANGERS)]
    assert member(hub, 1).states() == {0: "at 0", 1: "at 1"}
    assert len(hub._strangers) <= hub_module._MAX_STRANGERS
    for connection in silent:
        connection.close()


class Flood:
    """Threads that send as much as they can until the block ends."""

    def __init__(self, *senders):
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(sender,), daemon=True) for sender in senders]

    def _send(self, sender):
        while not self._over.is_set():
            with contextlib.suppress(OSError):
                sender()

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        for thread in self._threads:
            thread.join(10)


def send_if_it_can(connection, data):
    if select.select([], [connection], [], 0.05)[1]:
        connection.send(data)


def clock_of_newest(name):
    """The processor time of the thread of a name that started last."""
    thread = [thread for thread in threading.enumerate() if thread.name == name][-1]
    return time.pthread_getcpuclockid(thread.ident)


FLOODS = {
    "strangers": None,
    "phases": b"state 1\n" * 500,
    "questions": b"get_states\n" * 500,
    "both": b"get_states\nstate {}\n" * 500,
}


@pytest.mark.parametrize("message", FLOODS.values(), ids=FLOODS)
def test_a_flood_costs_no_thread_and_no_memory_and_delays_no_other_message(hub, ended, message):
    first = member(hub, 1)
    if message is None:

        def send():
            with stranger(hub) as connection:
                connection.sendall(b"who\n" * 2000)

        connection = None
    else:
        connection = stranger(hub)
        connection.sendall(hello(hub, 2))

        def send():
            send_if_it_can(connection, message)

    with Flood(send, send):
        time.sleep(0.3)
        threads, memory = threading.active_count(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        time.sleep(0.7)
        assert threading.active_count() <= threads
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 8 * 1024
        asked = time.monotonic()
        assert first.states()[1] == "at 1"
        assert time.monotonic() - asked < 2 * heartbeat.REPLY_TIMEOUT_S
        failed = time.monotonic()
        first.fail(4)
        assert ended.get(timeout=30) == End(1, HERE, 4)
        assert time.monotonic() - failed < 1
    if connection is not None:
        connection.close()


@pytest.mark.parametrize("message", [b"state 1\n", b"get_states\n"])
def test_a_member_that_floods_gets_less_than_a_hundredth_of_a_core(hub, message):
    clock = clock_of_newest("heartbeat")
    with stranger(hub) as connection:
        connection.sendall(hello(hub, 2))
        with Flood(lambda: send_if_it_can(connection, message * 500)):
            time.sleep(0.3)
            began, spent = time.monotonic(), time.clock_gettime(clock)
            time.sleep(1.5)
            assert (time.clock_gettime(clock) - spent) / (time.monotonic() - began) < 0.01


def test_strangers_get_less_than_a_hundredth_of_a_core_when_they_are_many(hub, monkeypatch):
    hub._strangers_budget = hub_module._Budget(0.005)
    clock = clock_of_newest("heartbeat")

    def send():
        with socket.create_connection((hub.address.host, hub.address.port), timeout=1) as connection:
            connection.sendall(b"who\n" * 100)

    with Flood(send):
        time.sleep(0.3)
        began, spent = time.monotonic(), time.clock_gettime(clock)
        time.sleep(1.5)
        assert (time.clock_gettime(clock) - spent) / (time.monotonic() - began) < 0.01


def test_a_member_that_does_not_read_holds_nobody_up(hub, ended, monkeypatch):
    monkeypatch.setattr(hub_module, "_SEND_TIMEOUT_S", 0.2)
    hub._state = lambda: "x" * 2**23
    first = member(hub, 1)
    with stranger(hub) as deaf:
        deaf.sendall(hello(hub, 2))
        assert deaf.recv(100) == b"welcome\n"
        deaf.sendall(b"get_states\n")
        time.sleep(0.5)
        first.fail(4)
        assert ended.get(timeout=10).rank in (1, 2)


def test_rank_0_listens_on_loopback_alone_when_all_ranks_are_on_its_machine():
    here, there = ("node1", "a"), ("node2", "b")
    # As Debian's /etc/hosts has it: node1 finds itself at 127.0.1.1, others find it at 10.0.0.5.
    assert hub_host.choose([(here, "127.0.1.1"), (here, "127.0.1.1")]) == "127.0.0.1"
    assert hub_host.choose([(here, "127.0.1.1"), (here, "127.0.1.1"), (there, "10.0.0.5")]) == "10.0.0.5"


def test_the_listening_socket_is_bound_to_one_address(hub):
    assert hub._server.getsockname()[0] == "127.0.0.1"
    with pytest.raises(OSError, match="assign"):
        Hub("192.0.2.1", 2, print, lambda: None)
