"""Training beside a flood of messages to rank 0's port: step time with and without it, ratio of paired medians.

The training and the flood have a core each, so that only what rank 0 does about the messages can slow the training.
"""

import argparse
import contextlib
import multiprocessing as mp
import os
import socket
import statistics
import time
from pathlib import Path

import torch
from torch import nn

from lmrecipes.resilience.heartbeat import Member
from lmrecipes.resilience.hub import Hub
from lmrecipes.resilience.hub_host import LOOPBACK
from reporting import write_json

LINES = {"phases": b"state 1\n", "questions": b"get_states\n"}
KINDS = ["strangers", *LINES]


def knock(address):
    """A stranger's connection, which sends 8 KB."""
    with contextlib.suppress(OSError), socket.create_connection(address[:2], timeout=1) as connection:
        connection.sendall(b"who\n" * 2048)


def flood(kind, address, going):
    """Connects a healthy rank, and sends as much as it can while it is told to."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-1]})
    Member(1, address, lambda end: None, lambda: "training")
    if kind in LINES:
        member = socket.create_connection(address[:2])
        member.sendall(f"hello {address.token} 2 here\n".encode())
        member.settimeout(0.05)
    while True:
        going.wait()
        if kind in LINES:
            with contextlib.suppress(TimeoutError):
                member.sendall(LINES[kind] * 500)
            with contextlib.suppress(TimeoutError):
                member.recv(2**16)
        else:
            knock(address)


def steps(model, optimizer, inputs, n):
    """Median seconds of a training step."""
    times = []
    for _ in range(n):
        began = time.perf_counter()
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20, help="pairs of measurements with and without a flood")
    parser.add_argument("--steps", type=int, default=50, help="training steps of each")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cores = sorted(os.sched_getaffinity(0))
    layer = nn.TransformerEncoderLayer(128, 4, 512, dropout=0.0, batch_first=True)
    model, inputs = nn.TransformerEncoder(layer, 2), torch.randn(4, 64, 128)
    optimizer = torch.optim.AdamW(model.parameters())
    rows = {}
    for kind in KINDS:
        os.sched_setaffinity(0, cores)
        # Strangers can connect only while a rank is missing.
        hub = Hub(LOOPBACK, 3 if kind in LINES else 4, lambda end: None, lambda: "training")
        going = mp.get_context("spawn").Event()
        flooder = mp.get_context("spawn").Process(target=flood, args=(kind, hub.address, going), daemon=True)
        flooder.start()
        while 1 not in hub._members:
            time.sleep(0.1)
        # The thread that serves the connections shares the core of the training.
        for thread in os.listdir("/proc/self/task"):
            os.sched_setaffinity(int(thread), {cores[0]})
        going.set()
        # What a flood costs at first, while it has a budget, is spent before the measurement.
        steps(model, optimizer, inputs, options.steps)
        time.sleep(3)
        ratios, medians = [], []
        for i in range(options.pairs):
            pair = {}
            for flooded in (False, True) if i % 2 else (True, False):
                (going.set if flooded else going.clear)()
                time.sleep(0.2)
                pair[flooded] = steps(model, optimizer, inputs, options.steps)
            ratios.append(pair[True] / pair[False])
            medians.append(pair[False])
        ratio, step = statistics.median(ratios), statistics.median(medians)
        rows[kind] = {"step_ms": round(step * 1000, 2), "ratio": round(ratio, 4)}
        print(f"{kind:<12} step {step * 1000:>6.2f} ms   x{ratio:.4f} with a flood")
        flooder.kill()
        flooder.join()
        hub.done()
    write_json(options.json, rows)


if __name__ == "__main__":
    main()
