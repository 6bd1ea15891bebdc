"""Latency of scoring one segment with full memory: network, exported graph, compiled program, alternating."""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from lmrecipes.batches import SplitPlan
from lmrecipes.models.transformer_xl import TransformerXL, TransformerXLConfig
from lmrecipes.models.transformer_xl.export import ExportedTransformerXL, export, settings_of
from lmrecipes.runtime.allocator import tune_process
from reporting import write_json

PLAN = SplitPlan(batch_size=1, seq_len=64, mem_len=640, clamp_len=400, same_length=True)
SIZES = {"n_layers": 6, "d_model": 512, "n_heads": 8, "d_head": 64, "d_ff": 2048, "cutoffs": [2000, 10000]}
VOCABULARY = 33278


@torch.inference_mode()
def latencies(runtimes, batch_size, repeats):
    """Milliseconds of each call by runtime, with the runtimes alternating."""
    memory = [torch.randn(batch_size, PLAN.mem_len, SIZES["d_model"]) for _ in range(SIZES["n_layers"])]
    times = {name: [] for name in runtimes}
    for i in range(repeats + 2):
        ids, targets = torch.randint(VOCABULARY, (2, batch_size, PLAN.seq_len))
        for name, run in runtimes.items():
            began = time.perf_counter()
            run(ids, targets, memory, **settings_of(PLAN))
            if i >= 2:
                times[name].append(1000 * (time.perf_counter() - began))
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=40, help="measured calls per runtime")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()
    tune_process()
    torch.manual_seed(0)
    network = TransformerXL(TransformerXLConfig(vocab_size=VOCABULARY, **SIZES)).eval()
    runtimes, results = {"network": network}, {}
    with tempfile.TemporaryDirectory() as folder:
        for form in ("torch_export", "aot_inductor"):
            export(network, PLAN, Path(folder) / form, form)
            runtimes[form] = ExportedTransformerXL(Path(folder) / form)
        for batch_size in options.batch_sizes:
            times = latencies(runtimes, batch_size, options.repeats)
            base = statistics.median(times["network"])
            for name, measured in times.items():
                cuts = statistics.quantiles(measured, n=100, method="inclusive")
                row = {"mean_ms": statistics.mean(measured), **{f"p{p}_ms": cuts[p - 1] for p in (50, 90, 95, 99)}}
                row["tokens_per_s"] = 1000 * batch_size * PLAN.seq_len / cuts[49]
                row["ratio"] = base / cuts[49]
                results[f"{name}, batch {batch_size}"] = {key: round(value, 2) for key, value in row.items()}
                print(f"batch {batch_size:<3} {name:<13}", *(f"{key} {value:.2f}" for key, value in row.items()))
    write_json(options.json, results)


if __name__ == "__main__":
    main()
