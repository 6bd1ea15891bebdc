"""The progress bar counts optimizer steps."""

import os
import pty
import re
import subprocess

import pytest

import warm
from conftest import environment


def terminal_lines(arguments, folder):
    """Output of `lmrecipes ...` on a terminal 160 columns wide, without colours: one text per redrawn line."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [warm.python(), "-m", "lmrecipes", *arguments],
        cwd=folder,
        env=environment(TERM="xterm", COLUMNS="160", LINES="40"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:  # The child closed its end.
        pass
    assert process.wait(timeout=60) == 0, shown.decode()
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode()))


@pytest.mark.slow
def test_the_bar_counts_optimizer_steps_of_the_whole_run(small, tmp_path):
    lines = terminal_lines(["fit", *small, "--batch.micro_batch_size=1", "--run_dir=a"], tmp_path)
    bar = [line for line in lines if line.startswith("Training")]
    done = [int(n) for line in bar for n in re.findall(r" (\d+)/12 ", line)]
    assert done == sorted(done)
    assert done[-1] == 12
    assert not any("-2" in line or "v_num" in line for line in lines)
    assert "epoch 0" in bar[-1]
    assert re.search(r"train/loss: \d\.\d\d\d", bar[-1])
    assert re.search(r"val/loss: \d\.\d\d\d", bar[-1])
    # A resumed run continues at its step.
    lines = terminal_lines(["fit", "--resume=a", "--trainer.max_steps=20"], tmp_path)
    done = [int(n) for line in lines if line.startswith("Training") for n in re.findall(r" (\d+)/20 ", line)]
    assert min(done) >= 12
    assert done[-1] == 20
