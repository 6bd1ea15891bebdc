"""Time per step under the Trainer, under Fabric and in a bare loop: alternating rounds in one process, medians.

All three run the same steps of transformer_xl/tiny on the same batches, with clipping and the schedule. The bare loop
logs nothing; the others have the recipe's callbacks.
"""

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from lightning.pytorch import Callback

from lmrecipes.__main__ import main
from lmrecipes.cli import open_recipe
from lmrecipes.commands import validate
from lmrecipes.commands.fabric import FabricCLI
from lmrecipes.models.transformer_xl import TransformerXL
from lmrecipes.runtime.allocator import tune_process
from reporting import write_json

WARM_UP = 5
BEGINS: list[float] = []


class Clock(Callback):
    """Records the time at the start of every step."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        is_fresh_start().append(time.perf_counter())


def is_fresh_start() -> list[float]:
    """Start times, the same list whether this file runs as a script or is imported for the callback."""
    import loops

    return loops.BEGINS


def options(steps: int) -> list[str]:
    return [
        *("--config", "transformer_xl/tiny", "--trainer.val_check_interval=100000"),
        *("--model.schedule.warmup_steps=2", f"--trainer.max_steps={steps}", "--model.config.dropout=0.1"),
    ]


def bare(steps: int) -> None:
    """A minimal training loop."""
    cli = open_recipe(validate.COMMAND, options(steps), FabricCLI)
    module, data = cli.model, cli.datamodule
    data.prepare(progress=False)
    network = TransformerXL(replace(module.config, vocab_size=data.vocab_size))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.0007, fused=True)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    memory = None
    for batch, _ in zip(data.train_dataloader(), range(steps), strict=False):
        is_fresh_start().append(time.perf_counter())
        nll, memory = network(batch.input_ids, batch.targets, memory, mem_len=module.batch_plan.mem_len)
        nll.mean().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 0.25)
        optimizer.step()
        optimizer.zero_grad()
        rate.step()


def by_command(*words: str):
    def run(steps: int) -> None:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            clock = "--trainer.callbacks+=loops.Clock"
            assert main([*words, *options(steps), clock, f"--run_dir={folder}/run"]) == 0

    return run


WAYS = {"bare loop": bare, "Fabric": by_command("fabric", "fit"), "Trainer": by_command("fit")}


def measure(steps: int, rounds: int) -> dict[str, dict[str, float]]:
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, run in WAYS.items():
            is_fresh_start().clear()
            run(steps)
            took = [after - before for before, after in zip(is_fresh_start(), is_fresh_start()[1:], strict=False)]
            times[name] += took[WARM_UP:]
    base = statistics.median(times["bare loop"])
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    return {
        name: {"ms": round(1000 * m, 2), "more_ms": round(1000 * (m - base), 2), "ratio": round(m / base, 3)}
        for name, m in medians.items()
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    tune_process()
    results = measure(arguments.steps, arguments.rounds)
    for name, row in results.items():
        print(f"{name:<12}{row['ms']:8.2f} ms a step  {row['more_ms']:+6.2f} ms  x{row['ratio']:.3f}")
    write_json(arguments.json, results)
