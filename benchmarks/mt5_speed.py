"""Training and writing speed of our mT5 beside transformers' MT5 in a plain padded loop, in turn in one process."""

import argparse
import json
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


def train(name, options):
    """Tokens per second of one kind in this process, and its peak memory in MiB."""
    pairs = pairs_of(documents(15 * options.rows * (options.steps + 2), options.vocab_size), options.vocab_size)
    run = made(name, options)
    batches = run.batches(pairs, options.rows)
    speeds = []
    for k in range(options.steps + 1):
        batch = batches[k % len(batches)]
        began, used = time.perf_counter(), time.process_time()
        step(run, batch, options.bf16)
        if k:
            tokens = run.tokens(batch)
            speeds.append((tokens / (time.perf_counter() - began), tokens / (time.process_time() - used)))
    return {"speeds": speeds, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def train_in_turn(options):
    """What `train` finds of each kind: in processes of their own, so that only one is in memory, A B A B."""
    found = {name: [] for name in options.kinds}
    for _ in range(options.rounds):
        for name in options.kinds:
            words = [sys.executable, __file__, f"--only={name}", f"--steps={options.steps}", f"--rows={options.rows}"]
            words += [f"--layers={options.layers}", f"--vocab_size={options.vocab_size}"]
            done = subprocess.run(
                [*words, *(["--bf16"] if options.bf16 else [])], stdout=subprocess.PIPE, text=True, check=True
            )
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    return {
        name: {
            "tokens_per_s": round(statistics.median(wall for run in runs for wall, _ in run["speeds"]), 1),
            "tokens_per_cpu_s": round(statistics.median(cpu for run in runs for _, cpu in run["speeds"]), 1),
            "peak_mib": round(max(run["peak"] for run in runs)),
        }
        for name, runs in found.items()
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


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3, help="measured steps of each, in each round")
    parser.add_argument("--rounds", type=int, default=2, help="times that each kind is trained, in turn")
    parser.add_argument("--rows", type=int, default=8, help="rows of a batch")
    parser.add_argument("--layers", type=int, default=2, help="layers of encoder and decoder; 8 are the 170M size")
    parser.add_argument("--vocab_size", type=int, default=250112, help="tokens of the vocabulary")
    parser.add_argument("--write_rows", type=int, nargs="*", default=[1, 8], help="texts written at once")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    kinds = ["transformers", "lmrecipes google", "lmrecipes nemo"]
    parser.add_argument("--kinds", nargs="*", default=kinds[:2], choices=kinds)
    parser.add_argument("--only", choices=kinds, help="train this kind here, and print what was found")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()
    tuned = tune_process()
    if options.only:
        print(json.dumps(train(options.only, options)))
        return
    training = train_in_turn(options)
    for name, figures in training.items():
        print(f"{name:<18} {figures}", flush=True)
    theirs = training.get("transformers")
    for name, figures in training.items():
        if theirs is not None and figures is not theirs:
            speed, memory = (figures[key] / theirs[key] for key in ("tokens_per_s", "peak_mib"))
            print(
                f"{name}: {speed:.2f} times the tokens/s of transformers, {memory:.2f} of its peak memory", flush=True
            )
    writing = write(options)
    for rows, found in writing.items():
        ratio = found["transformers"] / found["lmrecipes google"]
        print(f"{rows} texts of 20 tokens, ms: {found}; {ratio:.2f} times as fast", flush=True)
    results = {"tuned": tuned, "training": training, "milliseconds_to_write_20_tokens": writing}
    write_json(options.json, {**results, "rows": options.rows, "layers": options.layers, "bf16": options.bf16})


if __name__ == "__main__":
    main()
