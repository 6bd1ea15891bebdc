"""Training and writing speed of our mT5 beside transformers' MT5 in a plain padded loop, in turn in one process."""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import transformers

from lmrecipes.data.counter_random import keys
from lmrecipes.data.pair_batches import pair_batch
from lmrecipes.data.span_corruption import SpanCorruption, corrupt_pieces
from lmrecipes.models.mt5 import MT5, Decoding, MT5Config, generate
from lmrecipes.optim import build_optimizer
from lmrecipes.runtime import tune_process
from reporting import write_json

D, N, H, FF = 512, 6, 64, 1024
INPUT, TARGET = 512, 128
CORRUPTION = SpanCorruption(spans="google")


def documents(n, vocab_size):
    """Lengths as web pages have them (median 200 tokens, a long tail), tokens by frequency."""
    generator = np.random.default_rng(0)
    lengths = np.clip(np.exp(generator.normal(np.log(200), 0.9, n)), 16, 2000).astype(int)
    return [(generator.zipf(1.2, length) % (vocab_size - 200) + 3).astype(np.uint32) for length in lengths]


def pairs_of(texts, vocab_size):
    """Corrupted texts, none longer than a row has room for."""
    longest = CORRUPTION.longest_text(INPUT, TARGET)
    pieces = [text[i : i + longest] for text in texts for i in range(0, len(text), longest)]
    bounds = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])])
    sentinels = np.arange(vocab_size - 13, vocab_size - 113, -1, dtype=np.uint32)
    numbers = keys(0, np.arange(len(pieces)))
    return corrupt_pieces(np.concatenate(pieces), bounds, CORRUPTION, numbers, sentinels=sentinels, eos_id=1)


class Ours:
    """Packed rows."""

    def __init__(self, layers, vocab_size, family):
        torch.manual_seed(0)
        positions = "relative" if family == "google" else "learned"
        sizes = {"vocab_size": vocab_size, "n_layers": layers, "dropout": 0.0, "attention_dropout": 0.0}
        self.model = MT5(MT5Config(family=family, positions=positions, **sizes))
        make = lambda p: torch.optim.AdamW(p, lr=1e-4)  # noqa: E731
        self.optimizer = build_optimizer(make, self.model.parameters(), fused=True)

    def batches(self, pairs, rows):
        """Pairs one after the other into rows while there is room; so many rows a batch."""
        made, row, room = [], [], [INPUT, TARGET]
        for pair in pairs:
            sizes = [len(pair.inputs), len(pair.targets)]
            if any(size > left for size, left in zip(sizes, room, strict=True)):
                made.append(row)
                row, room = [], [INPUT, TARGET]
            row.append(pair)
            room = [left - size for size, left in zip(sizes, room, strict=True)]
        return [self.batch(made[i : i + rows]) for i in range(0, len(made) - rows + 1, rows)]

    def batch(self, rows):
        found = pair_batch(
            rows, INPUT, TARGET, start_id=0, languages=np.zeros(len(rows)), questions=np.zeros(len(rows))
        )
        names = ("input_ids", "input_pairs", "decoder_input_ids", "targets", "target_pairs")
        return {name: getattr(found, name) for name in names}

    def tokens(self, batch):
        return int((batch["input_pairs"] > 0).sum() + (batch["target_pairs"] > 0).sum())

    def loss(self, batch):
        return self.model(**batch).loss


class Transformers:
    """A pair a row, padded to the longest of the batch."""

    def __init__(self, layers, vocab_size):
        torch.manual_seed(0)
        sizes = {"vocab_size": vocab_size, "d_model": D, "d_kv": H, "d_ff": FF, "num_heads": N, "num_layers": layers}
        self.model = transformers.MT5ForConditionalGeneration(transformers.MT5Config(dropout_rate=0.0, **sizes))
        self.model.lm_head.weight = torch.nn.Parameter(torch.randn(vocab_size, D) * D**-0.5)
        self.model.train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)

    def batches(self, pairs, rows):
        made = []
        for i in range(0, len(pairs) - rows + 1, rows):
            found = pairs[i : i + rows]
            ids, labels = (
                torch.nn.utils.rnn.pad_sequence(
                    [torch.from_numpy(getattr(pair, name).astype(np.int64)) for pair in found], True, padding
                )
                for name, padding in (("inputs", 0), ("targets", -100))
            )
            made.append({"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels})
        return made

    def tokens(self, batch):
        return int(batch["attention_mask"].sum() + (batch["labels"] >= 0).sum())

    def loss(self, batch):
        return self.model(**batch).loss


def step(run, batch, bf16):
    run.optimizer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = run.loss(batch)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
    run.optimizer.step()
    return loss.item()


def made(name, options):
    sizes = (options.layers, options.vocab_size)
    return Transformers(*sizes) if name == "transformers" else Ours(*sizes, name.removeprefix("lmrecipes "))


def train(options):
    pairs = pairs_of(documents(15 * options.rows * (options.steps + 2), options.vocab_size), options.vocab_size)
    runs = {name: made(name, options) for name in options.kinds}
    batches = {name: run.batches(pairs, options.rows) for name, run in runs.items()}
    speeds = {name: [] for name in runs}
    for k in range(options.steps + 1):
        for name, run in runs.items():
            batch = batches[name][k % len(batches[name])]
            began, used = time.perf_counter(), time.process_time()
            step(run, batch, options.bf16)
            if k:
                tokens = run.tokens(batch)
                speeds[name].append((tokens / (time.perf_counter() - began), tokens / (time.process_time() - used)))
    return {
        name: {
            "tokens_per_s": round(statistics.median(wall for wall, _ in found), 1),
            "tokens_per_cpu_s": round(statistics.median(cpu for _, cpu in found), 1),
        }
        for name, found in speeds.items()
    }


@torch.no_grad()
def write(options):
    """Seconds to write 20 tokens for inputs of 60, as published."""
    ours, theirs = (
        made("lmrecipes google", options).model.eval(),
        made("transformers", options).model.eval(),
    )
    found = {}
    for rows in options.write_rows:
        ids = torch.randint(3, options.vocab_size - 200, (rows, 60))
        calls = {
            "lmrecipes google": lambda ids=ids: generate(
                ours, ids, ids.clamp(max=1), 0, -1, Decoding(max_new_tokens=20)
            ),
            "transformers": lambda ids=ids: theirs.generate(input_ids=ids, max_new_tokens=20, min_new_tokens=20),
        }
        times = {name: [] for name in calls}
        for k in range(options.steps + 1):
            for name, call in calls.items():
                began = time.perf_counter()
                with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
                    call()
                if k:
                    times[name].append(time.perf_counter() - began)
        found[rows] = {name: round(1000 * statistics.median(seconds), 1) for name, seconds in times.items()}
    return found


def peak_memory(name, options):
    """MiB at most of a process that makes two steps of one kind."""
    words = [sys.executable, __file__, "--kinds", name, "--steps=1", f"--layers={options.layers}", "--peak"]
    words.append(f"--vocab_size={options.vocab_size}")
    words += [f"--rows={options.rows}", *(["--bf16"] if options.bf16 else [])]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5, help="measured steps of each")
    parser.add_argument("--rows", type=int, default=8, help="rows of a batch")
    parser.add_argument("--layers", type=int, default=8, help="layers of encoder and decoder; 8 are the 170M size")
    parser.add_argument("--vocab_size", type=int, default=250112, help="tokens of the vocabulary")
    parser.add_argument("--write_rows", type=int, nargs="*", default=[1, 8], help="texts written at once")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    kinds = ["transformers", "lmrecipes google", "lmrecipes nemo"]
    parser.add_argument("--kinds", nargs="*", default=kinds[:2], choices=kinds)
    parser.add_argument("--peak", action="store_true", help="print the peak memory and nothing else")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()
    tuned = tune_process()
    if options.peak:
        train(options)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    # First, while nothing else is in memory.
    peaks = {name: round(peak_memory(name, options)) for name in options.kinds}
    results = {"tuned": tuned, "training": train(options)}
    for name, figures in results["training"].items():
        figures["peak_mib"] = peaks[name]
        print(f"{name:<18} {figures}", flush=True)
    results["milliseconds_to_write_20_tokens"] = write(options)
    for rows, figures in results["milliseconds_to_write_20_tokens"].items():
        print(f"{rows} texts of 20 tokens, ms: {figures}")
    write_json(options.json, {**results, "rows": options.rows, "layers": options.layers, "bf16": options.bf16})


if __name__ == "__main__":
    main()
