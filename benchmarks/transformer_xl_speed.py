"""Training speed of our Transformer-XL and of a conventional one, alternating in one process, medians."""

import argparse
import statistics
import time
from pathlib import Path

import torch

from conventional_transformer_xl import ConventionalTransformerXL
from lmrecipes.models.common.linear import product
from lmrecipes.models.transformer_xl import TransformerXL, TransformerXLConfig
from lmrecipes.optim import build_optimizer
from lmrecipes.runtime.allocator import tune_process
from reporting import write_json

V, D, LAYERS, N, H, FF, P, CUTOFFS, B, T = 33278, 512, 6, 8, 64, 2048, 0.1, [2000, 10000], 4, 192


def zipf_text(length):
    ranks = torch.arange(1, V + 1, dtype=torch.double)
    return torch.multinomial(1 / ranks**1.05, B * (length + 1), replacement=True).view(B, -1)


class Ours:
    def __init__(self, autocast=None):
        torch.manual_seed(0)
        config = TransformerXLConfig(
            vocab_size=V, n_layers=LAYERS, d_model=D, n_heads=N, d_head=H, d_ff=FF, dropout=P, cutoffs=CUTOFFS
        )
        self.model, self.memory, self.autocast = TransformerXL(config), None, autocast
        self.flops = config.flops_per_token(T, T)
        self.optimizer = build_optimizer(lambda p: torch.optim.Adam(p, lr=2.5e-4), self.model.parameters(), fused=True)

    def step(self, ids, targets):
        self.optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.autocast is not None):
            nll, self.memory = self.model(ids, targets, self.memory, mem_len=T)
            loss = nll.mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 0.25)
        self.optimizer.step()
        return loss.item()


class Conventional:
    def __init__(self):
        torch.manual_seed(0)
        self.model, self.memory = ConventionalTransformerXL(V, D, LAYERS, N, H, FF, P, CUTOFFS), None
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=2.5e-4)

    def step(self, ids, targets):
        self.optimizer.zero_grad()
        nll, self.memory = self.model(ids.t().contiguous(), targets.t().contiguous(), self.memory)
        loss = nll.mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 0.25)
        self.optimizer.step()
        return loss.item()


def matrix_peak(dtype):
    """FLOP/s of one square matrix product, by the faster of torch's two libraries."""
    a, b = (torch.randn(2048, 2048).to(dtype) for _ in range(2))
    times = []
    for multiply in (torch.matmul, product):
        began = time.perf_counter()
        multiply(a, b)
        times.append(time.perf_counter() - began)
    return 2 * 2048**3 / min(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8, help="measured steps per implementation")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()
    tuned = tune_process()
    runs = {"conventional fp32": Conventional(), "lmrecipes fp32": Ours(), "lmrecipes bf16": Ours("bf16")}
    text = zipf_text(T * (options.steps + 2))
    times = {name: [] for name in runs}
    peaks = {"fp32": [], "bf16": []}
    for i in range(options.steps + 2):
        ids, targets = (text[:, i * T + s : (i + 1) * T + s] for s in (0, 1))
        for name, run in runs.items():
            began = time.perf_counter()
            run.step(ids, targets)
            if i >= 2:  # the first two fill the memory
                times[name].append(time.perf_counter() - began)
        peaks["fp32"].append(matrix_peak(torch.float32))
        peaks["bf16"].append(matrix_peak(torch.bfloat16))
    base = statistics.median(times["conventional fp32"])
    rows = {}
    for name, measured in times.items():
        median = statistics.median(measured)
        peak = statistics.median(peaks[name.split()[-1]])
        rows[name] = {
            "tokens_per_s": round(B * T / median, 1),
            "ratio": round(base / median, 2),
            "share_of_matrix_peak": round(runs["lmrecipes fp32"].flops * B * T / median / peak, 3),
        }
        print(
            f"{name:<20} {rows[name]['tokens_per_s']:>8.1f} tokens/s  x{rows[name]['ratio']:.2f}  "
            f"{100 * rows[name]['share_of_matrix_peak']:.0f} % of the matrix peak ({peak / 1e12:.2f} TFLOP/s)"
        )
    print(f"{torch.get_num_threads()} threads, allocator tuned: {tuned}; medians of {options.steps} steps in turn")
    write_json(options.json, rows)


if __name__ == "__main__":
    main()
