"""Response time of commands, next to only importing torch and Lightning: medians of new processes, alternating."""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lightning.pytorch import Callback

from reporting import write_json

COMMAND = [sys.executable, "-m", "lmrecipes"]


class ExitAfterOneStep(Callback):
    """Prints that the first step is done and exits."""

    def on_train_batch_end(self, *_) -> None:
        print("done", flush=True)
        os._exit(0)


def cases(recipe: str) -> dict[str, tuple[list[str], str]]:
    """Cases to measure: a command, and the output that ends the measurement."""
    fit = [*COMMAND, "fit", "--config", recipe]
    return {
        "torch and Lightning are imported": (
            [sys.executable, "-c", "import torch, lightning.pytorch; print('done')"],
            "done",
        ),
        "a misspelt key is reported": ([*fit, "--model.config.n_layer", "2"], "error: unknown key"),
        "the first step is done": ([*fit, "--trainer.callbacks+=startup.ExitAfterOneStep"], "done"),
    }


def measure(words: list[str], says: str, folder: Path) -> tuple[float, float]:
    """Seconds until a process prints something, and CPU seconds until it exits."""
    path = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))
    variables = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    together = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with subprocess.Popen(words, cwd=folder, env=variables, **together) as process:
        assert any(line.startswith(says) for line in process.stdout), words
        wall = time.perf_counter() - began
        process.communicate()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="transformer_xl/tiny", help="recipe; its data is prepared first if needed")
    parser.add_argument("--repeats", type=int, default=5, help="repetitions, alternating")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in cases(options.recipe)}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        subprocess.run([*COMMAND, "prepare", "--config", options.recipe], cwd=folder, check=True)
        for i in range(options.repeats + 1):
            for name, (words, says) in cases(options.recipe).items():
                took = measure(words, says, folder)
                if i:  # the first reads from disk
                    times[name].append(took)
    rows = {}
    medians = {name: [statistics.median(column) for column in zip(*took, strict=True)] for name, took in times.items()}
    alone = next(iter(medians.values()))
    for name, (wall, cpu) in medians.items():
        rows[name] = {"s": round(wall, 2), "cpu_s": round(cpu, 2), "ratio": round(wall / alone[0], 2)}
        print(f"{name:<34}{wall:>6.2f} s   {cpu:>6.2f} CPU s   x{wall / alone[0]:.2f}   x{cpu / alone[1]:.2f}")
    write_json(options.json, rows)


if __name__ == "__main__":
    main()
