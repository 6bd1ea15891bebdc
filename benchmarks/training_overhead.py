"""Cost of training beyond the model: first step, our callbacks, saving, and a second process; medians."""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from lightning.pytorch import Callback
from torch import nn
from torch.distributed.fsdp import fully_shard

from lmrecipes.strategies.sharded import CheckpointWriter
from reporting import write_json

TINY = ["--config", "transformer_xl/tiny", "--trainer.val_check_interval=100000", "--model.schedule.warmup_steps=10"]
WARM_UP = 10
HOOKS = [
    *("on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward"),
    *("on_before_optimizer_step", "on_train_batch_end"),
]


class Clock(Callback):
    """Records the time of the first step, of all steps, and of each of our callbacks within them."""

    def __init__(self) -> None:
        self.first, self.begins, self.now, self.spent = 0.0, [], {}, []

    def on_train_start(self, trainer, pl_module) -> None:
        for callback in trainer.callbacks:
            if type(callback).__module__.startswith("lmrecipes"):
                for hook in HOOKS:
                    setattr(callback, hook, self.timed(type(callback).__name__, getattr(callback, hook)))

    def timed(self, name, hook):
        def run(*arguments, **more):
            # CPU time: waiting for another rank, which has as much to do, belongs to the step.
            began = time.thread_time()
            hook(*arguments, **more)
            self.now[name] = self.now.get(name, 0.0) + time.thread_time() - began

        return run

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.begins.append(time.perf_counter())
        self.spent.append(self.now)
        self.now = {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.first = self.first or time.time() - float(os.environ["BEGAN"])

    def on_train_end(self, trainer, pl_module) -> None:
        if trainer.is_global_zero:
            steps = [after - before for before, after in zip(self.begins, self.begins[1:], strict=False)]
            spent = self.spent[WARM_UP:]
            # A callback does more work at some steps than at others: its mean matters, not its median.
            callbacks = {name: statistics.mean(one.get(name, 0.0) for one in spent) for name in spent[-1]}
            times = {"first": self.first, "step": statistics.median(steps[WARM_UP:]), "callbacks": callbacks}
            Path(os.environ["TIMES"]).write_text(json.dumps(times))


def fit(folder, steps, processes):
    """Times of a run of the tiny recipe with the default callbacks."""
    clock = json.dumps({"class_path": "training_overhead.Clock"})
    options = [*TINY, f"--trainer.max_steps={steps}", f"--trainer.devices={processes}", f"--run_dir={folder / 'run'}"]
    options += ["--trainer.strategy=ddp"] if processes > 1 else []
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    times = {"TIMES": str(folder / "times.json"), "BEGAN": str(time.time())}
    subprocess.run(
        [sys.executable, "-m", "lmrecipes", "fit", *options, f"--trainer.callbacks+={clock}"],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **times},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return json.loads((folder / "times.json").read_text())


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def alternate_saves(rank, port, width, layers, repeats, folder):
    """Seconds that a save blocks training on two processes: copying, coordination, and writing if synchronous."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    model = nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)))
    for layer in model:
        fully_shard(layer)
    fully_shard(model)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(2, width)).sum().backward()
    optimizer.step()
    tensors = {f"state_dict.{name}": value for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        tensors |= {f"optimizer.{name}.{key}": value for key, value in optimizer.state[parameter].items()}
    writers = {"synchronous": CheckpointWriter(False), "asynchronous": CheckpointWriter(True)}
    times = {name: [] for name in writers}
    for i in range(repeats + 1):
        for name, writer in writers.items():
            dist.barrier()
            began = time.perf_counter()
            writer.write(tensors, {}, folder / f"{name}.ckpt")
            blocked = time.perf_counter() - began
            writer.finish()
            if i:  # the first allocates memory
                times[name].append(blocked)
    if rank == 0:
        size = sum(value.numel() * value.element_size() for value in tensors.values())
        parameters = sum(p.numel() for p in model.parameters())
        results = {"mb": size / 1e6, "parameters": parameters, "seconds": times}
        (folder / "times.json").write_text(json.dumps(results))
    dist.destroy_process_group()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60, help="steps of each run of the tiny recipe")
    parser.add_argument("--repeats", type=int, default=3, help="repetitions, alternating")
    parser.add_argument("--saves", type=int, default=5, help="saves of each kind, alternating")
    parser.add_argument("--width", type=int, default=2048, help="width of the square layers that are saved")
    parser.add_argument("--layers", type=int, default=10, help="number of these layers")
    parser.add_argument(
        "--step_ms", type=float, default=100.0, help="length of a training step to compare callbacks with"
    )
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        mp.spawn(alternate_saves, (free_port(), options.width, options.layers, options.saves, root), nprocs=2)
        saved = json.loads((root / "times.json").read_text())
        medians = {name: statistics.median(seconds) for name, seconds in saved["seconds"].items()}
        for name, median in medians.items():
            share = median / medians["synchronous"]
            rows[f"{name} save"] = {"ms": round(median * 1000, 1), "share": round(share, 4)}
            print(f"{name + ' save blocks':<30} {median * 1000:>9.1f} ms   {share:>6.1%} of a synchronous one")
        print(f"{'':<30} {saved['parameters'] / 1e6:.0f} million parameters with Adam's state, {saved['mb']:.0f} MB")

        runs = {1: [], 2: []}
        for i in range(options.repeats):
            for processes, times in runs.items():
                folder = root / f"{i}_{processes}"
                folder.mkdir()
                times.append(fit(folder, options.steps, processes))
        steps = {n: statistics.median(one["step"] for one in times) for n, times in runs.items()}
        for n, times in runs.items():
            first = statistics.median(one["first"] for one in times)
            speedup = steps[1] / steps[n]
            rows[f"{n} processes"] = {
                "step_ms": round(steps[n] * 1000, 2),
                "speedup": round(speedup, 2),
                "first_step_s": round(first, 2),
            }
            words = f"step {steps[n] * 1000:>7.1f} ms   x{speedup:.2f}   first step after {first:.1f} s"
            print(f"{f'{n} processes, one batch':<30} {words}")
        for n, times in runs.items():
            names = times[0]["callbacks"]
            spent = {name: statistics.median(one["callbacks"][name] for one in times) * 1000 for name in names}
            share = sum(spent.values()) / options.step_ms
            rows[f"callbacks, {n} processes"] = {
                "ms": round(sum(spent.values()), 3),
                "share_of_step": round(share, 5),
                "each_ms": {name: round(value, 4) for name, value in spent.items()},
            }
            most = ", ".join(f"{name} {spent[name]:.2f}" for name in sorted(spent, key=spent.get, reverse=True)[:3])
            words = f"{sum(spent.values()):>9.2f} ms   {share:>6.2%} of a step of {options.step_ms:g} ms ({most})"
            print(f"{f'our callbacks, {n} processes':<30} {words}")
    write_json(options.json, rows)


if __name__ == "__main__":
    main()
