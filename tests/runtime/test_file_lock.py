"""A lock has one holder at a time, and a dead process holds none."""

import errno
import multiprocessing
import subprocess
import threading
import time

import pytest

import warm
from conftest import environment, wait_until
from lmrecipes.runtime.file_lock import acquire, claimed, locked

HOLDER = """
import sys, time
from pathlib import Path
from lmrecipes.runtime.file_lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_a_lock_is_released_only_when_its_holder_is_killed(tmp_path):
    command = [warm.python(), "-c", HOLDER, tmp_path / "lock"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            with claimed(tmp_path / "lock", wait=False) as acquired:
                assert not acquired
            waited = []

            def wait():
                with locked(tmp_path / "lock"):
                    waited.append(holder.poll())

            waiting = threading.Thread(target=wait)
            waiting.start()
            waiting.join(0.3)
            assert not waited
        finally:
            holder.kill()
        waiting.join(30)
    assert len(waited) == 1
    with claimed(tmp_path / "lock", wait=False) as acquired:
        assert acquired


def test_a_waiting_claim_is_granted_unless_its_folder_is_removed(tmp_path):
    for removed in (False, True):
        folder = tmp_path / str(removed)
        result = []

        def wait(folder=folder, result=result):
            with claimed(folder / "claim", wait=True) as acquired:
                result.append(acquired)

        waiting = threading.Thread(target=wait)
        with claimed(folder / "claim", wait=False) as acquired:
            assert acquired
            waiting.start()
            waiting.join(0.3)
            assert not result
            if removed:
                (folder / "claim").unlink()
                folder.rmdir()
                wait_until("end of the wait", lambda result=result: result, 30)
        waiting.join(30)
        assert result == [not removed]
        assert folder.exists() != removed


@pytest.mark.slow
def test_a_file_system_without_locks_has_a_lock_that_a_dead_process_does_not_hold(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("filelock._unix.fcntl.flock", flock)

    def hold():
        lock = acquire(tmp_path / "lock")
        (tmp_path / "held").touch()
        time.sleep(600)
        lock.release()

    holder = multiprocessing.get_context("fork").Process(target=hold)
    holder.start()
    wait_until("the lock is held", (tmp_path / "held").exists, 30)
    with claimed(tmp_path / "lock", wait=False) as acquired:
        assert not acquired
    holder.kill()
    holder.join()
    for _ in range(2):
        with locked(tmp_path / "lock"), claimed(tmp_path / "lock", wait=False) as acquired:
            assert not acquired


@pytest.mark.slow
def test_a_forked_process_does_not_keep_its_parents_lock(tmp_path):
    lock = acquire(tmp_path / "lock")
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
    child.start()
    lock.release()
    with claimed(tmp_path / "lock", wait=False) as acquired:
        assert acquired
    child.kill()
    child.join()
