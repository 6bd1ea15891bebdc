"""What is printed does not decide over the work."""

import io
import os
import shlex
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from lmrecipes.runtime.console import keep_going_without_output, open_output, quoted


def full_disk():
    return open("/dev/full", "w")


def pipe_without_a_reader():
    reading, writing = os.pipe()
    os.close(reading)
    return open(writing, "w")


@contextmanager
def output(opened):
    """Opens standard output and error anew for the length of a block."""
    kept = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = opened(), opened()
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.close()
        sys.stdout, sys.stderr = kept


@pytest.mark.parametrize("opened", [full_disk, pipe_without_a_reader])
def test_training_goes_on_when_nothing_can_be_printed(opened):
    with output(opened):
        keep_going_without_output()
        for step in range(3):
            print(f"step {step}", flush=True)
            print("warning", file=sys.stderr, flush=True)


def test_characters_that_the_encoding_lacks_are_escaped(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii"))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), "ascii"))
    open_output()
    print("the sea — α", flush=True)
    assert written.getvalue() == b"the sea \\u2014 \\u03b1\n"


def test_closed_output_goes_nowhere_rather_than_into_the_next_file(tmp_path):
    kept, streams = os.dup(1), (sys.stdout, sys.stderr)
    sys.stdout = sys.stderr = None
    try:
        os.close(1)
        open_output()
        print("said")
        with (tmp_path / "run.json").open("w") as file:
            os.write(1, b"printed by a library")
            assert file.fileno() != 1
        sys.stdout.close()
        sys.stderr.close()
    finally:
        sys.stdout, sys.stderr = streams
        os.dup2(kept, 1)
        os.close(kept)
    assert (tmp_path / "run.json").read_text() == ""


def test_paths_in_commands_to_copy_are_quoted(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "my runs/it's one"
    assert shlex.split(f"test --run {quoted(run)}") == ["test", "--run", "my runs/it's one"]
    assert quoted(Path("runs/a")) == "runs/a"
