"""Resident memory over a long training of each system: how much it grows, and until when.

Every system trains its tiny recipe in a process of its own. Printed are the resident memory at some steps, its growth
from the first of them, and the median time per step; with --untuned also without the process's memory settings.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lightning.pytorch import Callback

from reporting import write_json

SYSTEMS = {
    "transformer_xl": "transformer_xl/tiny",
    "electra": "electra/tiny_pretrain",
    "mt5": "mt5/tiny_mc4",
}
# After the first figure come the shapes that are rare, a validation and some checkpoints.
FIRST = 500


def resident_mib() -> float:
    """Resident memory of this process, in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


class Memory(Callback):
    """Records resident memory every so many steps, and the time of every step."""

    def __init__(self, every: int = 100) -> None:
        self.every, self.resident, self.times, self.began = every, {}, [], 0.0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.began = time.perf_counter()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.times.append(time.perf_counter() - self.began)
        if trainer.global_step % self.every == 0:
            self.resident[trainer.global_step] = resident_mib()

    def on_train_end(self, trainer, pl_module) -> None:
        found = {"resident_mib": self.resident, "median_ms": 1000 * statistics.median(self.times)}
        Path(os.environ["FOUND"]).write_text(json.dumps(found))


def train(recipe: str, steps: int, *options: str) -> dict:
    """Resident memory by step, and the median step, of a run in a process of its own."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as folder:
        words = [
            *("fit", "--config", recipe, f"--trainer.max_steps={steps}", f"--run_dir={folder}/run", *options),
            *(f"--trainer.val_check_interval={max(steps // 10, 1)}", "--trainer.log_every_n_steps=50"),
            "--trainer.callbacks+=memory_growth.Memory",
        ]
        subprocess.run(
            [sys.executable, "-m", "lmrecipes", *words],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "FOUND": f"{folder}/found.json"},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        return json.loads(Path(f"{folder}/found.json").read_text())


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--untuned", action="store_true", help="compare with --no_runtime_tuning")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = {}
    for system in options.systems:
        for name, more in {"": [], ", untuned": ["--no_runtime_tuning"] if options.untuned else None}.items():
            if more is None:
                continue
            found = train(SYSTEMS[system], options.steps, *more)
            by_step = {int(step): mib for step, mib in found["resident_mib"].items()}
            first = by_step[min(FIRST, max(by_step))]
            later = [mib for step, mib in by_step.items() if step >= FIRST] or [first]
            growth = max(later) / first - 1
            shown = [step for step in (500, 1000, 2000, 5000, 10_000, 20_000) if step in by_step]
            figures = ", ".join(f"{by_step[step]:.0f} MiB at {step:,}" for step in shown)
            speed = f"{found['median_ms']:.1f} ms a step"
            print(f"{system}{name}: {figures}; grows {100 * growth:.1f} %; {speed}", flush=True)
            results[f"{system}{name}"] = {**found, "growth": growth}
    write_json(options.json, results)


if __name__ == "__main__":
    main()
