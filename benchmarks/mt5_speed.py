"""Training and generation speed of our mT5 and of transformers' MT5 in a plain padded loop.

Both train on the same pairs in every step, from the same weights and with the same optimizer: ours packs them into
rows, the loop pads each to the longest. Their losses must be equal.
"""

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

from lmrecipes.data.objectives.seq2seq_lm import pair_batch
from lmrecipes.data.objectives.span_corruption import SpanCorruption, corrupt_pieces
from lmrecipes.data.sampling.counter_random import keys
from lmrecipes.models.mt5 import MT5, Decoding, MT5Config, generate
from lmrecipes.models.mt5.hf import published_names
from lmrecipes.optim import build_optimizer
from lmrecipes.runtime.allocator import tune_process
from reporting import write_json

INPUT, TARGET = 512, 128
CORRUPTION = SpanCorruption(spans="google")
AIMS = {"tokens_per_s": 2.0, "peak_mib": 0.6, "writing": 1.5}


def documents(n, vocab_size):
    """Documents with lengths as of web pages (median 200 tokens, a long tail) and tokens sampled by frequency."""
    generator = np.random.default_rng(0)
    lengths = np.clip(np.exp(generator.normal(np.log(200), 0.9, n)), 16, 2000).astype(int)
    return [(generator.zipf(1.2, length) % (vocab_size - 200) + 3).astype(np.uint32) for length in lengths]


def pairs_of(texts, vocab_size):
    """Corrupted texts, none longer than a row."""
    longest = CORRUPTION.longest_text(INPUT, TARGET)
    pieces = [text[i : i + longest] for text in texts for i in range(0, len(text), longest)]
    bounds = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])])
    sentinels = np.arange(vocab_size - 13, vocab_size - 113, -1, dtype=np.uint32)
    numbers = keys(0, np.arange(len(pieces)))
    return corrupt_pieces(np.concatenate(pieces), bounds, CORRUPTION, numbers, sentinels=sentinels, eos_id=1)


def pack(pairs, n_rows):
    """Batches of n_rows rows: a pair goes into the first row with room; if there is none, a new batch starts."""
    batches = [[[] for _ in range(n_rows)]]
    for pair in pairs:
        if not place(pair, batches[-1]):
            batches.append([[] for _ in range(n_rows)])
            place(pair, batches[-1])
    return batches[:-1]


def place(pair, rows):
    for row in rows:
        if all(sum(len(other[i]) for other in row) + len(pair[i]) <= room for i, room in enumerate((INPUT, TARGET))):
            row.append(pair)
            return True
    return False


class Ours:
    """Packed rows."""

    def __init__(self, layers, vocab_size, family):
        torch.manual_seed(0)
        positions = "relative" if family == "google" else "learned"
        sizes = {"vocab_size": vocab_size, "n_layers": layers, "dropout": 0.0, "attention_dropout": 0.0}
        self.model = MT5(MT5Config(family=family, positions=positions, **sizes))
        make = lambda p: torch.optim.AdamW(p, lr=1e-4)  # noqa: E731
        self.optimizer = build_optimizer(make, self.model.parameters(), fused=True)

    def batch(self, rows):
        numbers = np.zeros(len(rows))
        by_name = pair_batch(rows, INPUT, TARGET, start_id=0, languages=numbers, questions=numbers)
        names = ("input_ids", "input_pairs", "decoder_input_ids", "targets", "target_pairs")
        return {name: getattr(by_name, name) for name in names}

    def loss(self, batch):
        return self.model(**batch).loss


class Transformers:
    """One pair per row, padded to the longest of the batch."""

    def __init__(self, layers, vocab_size):
        ours = Ours(layers, vocab_size, "google").model
        c = ours.config
        sizes = {"d_model": c.d_model, "d_kv": c.d_head, "d_ff": c.d_ff, "num_heads": c.n_heads, "num_layers": layers}
        config = transformers.MT5Config(vocab_size=vocab_size, dropout_rate=0.0, **sizes)
        self.model = transformers.MT5ForConditionalGeneration(config).train()
        # Published mT5s have an untied output embedding.
        self.model.lm_head.weight = torch.nn.Parameter(torch.empty(0))
        # Shared storage, not copies: only one network is in memory.
        theirs, weights = dict(self.model.named_parameters()), dict(ours.named_parameters())
        for name, their_name in published_names(c):
            weight = weights.pop(name).data
            theirs.pop(their_name).data = weight.t().contiguous() if name.endswith("distances") else weight
        assert not (left := [*theirs, *weights]), f"parameters of one network only: {left}"
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)

    def batch(self, rows):
        ids, labels = (
            torch.nn.utils.rnn.pad_sequence(
                [torch.from_numpy(pair[i].astype(np.int64)) for row in rows for pair in row], True, padding
            )
            for i, padding in ((0, 0), (1, -100))
        )
        return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}

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


def build(name, options):
    sizes = (options.layers, options.vocab_size)
    return Transformers(*sizes) if name == "transformers" else Ours(*sizes, name.removeprefix("lmrecipes "))


def train(name, options):
    """Speed of one implementation in this process, its losses, and its peak memory in MiB."""
    pairs = pairs_of(documents(15 * options.rows * (options.steps + 2), options.vocab_size), options.vocab_size)
    run = build(name, options)
    speeds, losses = [], []
    for k, rows in enumerate(pack(pairs, options.rows)[: options.steps + 1]):
        batch = run.batch(rows)
        began, used = time.perf_counter(), time.process_time()
        losses.append(step(run, batch, options.bf16))
        if k:
            tokens = sum(len(ids) for row in rows for pair in row for ids in pair)
            speeds.append((tokens / (time.perf_counter() - began), tokens / (time.process_time() - used)))
    return {
        "speeds": speeds,
        "losses": losses,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "parameters": sum(p.numel() for p in run.model.parameters()),
    }


def train_alternating(options):
    """Results of `train` for each implementation, alternating in separate processes, so that only one is in memory."""
    by_name = {name: [] for name in options.kinds}
    for _ in range(options.rounds):
        for name in options.kinds:
            words = [sys.executable, __file__, f"--only={name}", f"--steps={options.steps}", f"--rows={options.rows}"]
            words += [f"--layers={options.layers}", f"--vocab_size={options.vocab_size}"]
            words += ["--bf16"] if options.bf16 else []
            done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
            by_name[name].append(json.loads(done.stdout.splitlines()[-1]))
    return {
        name: {
            "tokens_per_s": round(statistics.median(wall for run in runs for wall, _ in run["speeds"]), 1),
            "tokens_per_cpu_s": round(statistics.median(cpu for run in runs for _, cpu in run["speeds"]), 1),
            "peak_mib": round(max(run["peak"] for run in runs)),
            "parameters": runs[0]["parameters"],
            "losses": [round(loss, 4) for loss in runs[0]["losses"]],
        }
        for name, runs in by_name.items()
    }


def check_losses(training, bf16):
    """Largest difference between our losses of the google family and transformers', over all steps."""
    if not {"transformers", "lmrecipes google"} <= set(training):
        return None
    ours, theirs = (training[name]["losses"] for name in ("lmrecipes google", "transformers"))
    apart = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    assert apart < (0.05 if bf16 else 2e-3), f"the losses differ by {apart}"
    return round(apart, 4)


@torch.no_grad()
def generate_texts(options):
    """Milliseconds to generate 20 tokens for inputs of 60, as published, alternating; both generate the same."""
    ours, theirs = (build(name, options).model.eval() for name in ("lmrecipes google", "transformers"))
    theirs.generation_config.eos_token_id = None
    by_name = {}
    for rows in options.write_rows:
        ids = torch.randint(3, options.vocab_size - 200, (rows, 60), generator=torch.Generator().manual_seed(rows))
        real = torch.ones_like(ids)
        calls = {
            "lmrecipes google": lambda ids=ids, real=real: (
                generate(ours, ids, real, 0, -1, Decoding(max_new_tokens=20)).tokens
            ),
            "transformers": lambda ids=ids, real=real: theirs.generate(
                input_ids=ids, attention_mask=real, max_new_tokens=20, do_sample=False
            )[:, 1:],
        }
        times, texts = {name: [] for name in calls}, {}
        for k in range(options.write_times + 1):
            for name, call in calls.items():
                began = time.perf_counter()
                with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
                    texts[name] = call()
                if k:
                    times[name].append(time.perf_counter() - began)
        same = (texts["lmrecipes google"] == texts["transformers"]).float().mean().item()
        assert options.bf16 or same == 1, f"of the tokens written only {same:.0%} are the same"
        by_name[rows] = {name: round(1000 * statistics.median(seconds), 1) for name, seconds in times.items()}
        by_name[rows] |= {"ratio": round(by_name[rows]["transformers"] / by_name[rows]["lmrecipes google"], 2)}
        by_name[rows] |= {"share_of_equal_tokens": round(same, 3), "aim": AIMS["writing"]}
    return by_name


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2, help="measured steps per implementation and round")
    parser.add_argument("--rounds", type=int, default=2, help="rounds, alternating between implementations")
    parser.add_argument("--rows", type=int, default=4, help="packed rows per batch")
    parser.add_argument("--layers", type=int, default=2, help="layers of encoder and of decoder; the 170M size has 8")
    parser.add_argument("--vocab_size", type=int, default=250112, help="vocabulary size")
    parser.add_argument("--write_rows", type=int, nargs="*", default=[1, 8], help="batch sizes of generation")
    parser.add_argument("--write_times", type=int, default=7, help="repetitions of each generation")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    kinds = ["transformers", "lmrecipes google", "lmrecipes nemo"]
    parser.add_argument("--kinds", nargs="*", default=kinds[:2], choices=kinds)
    parser.add_argument("--only", choices=kinds, help="train only this one in this process and print its results")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()
    tuned = tune_process()
    if options.only:
        print(json.dumps(train(options.only, options)))
        return
    training = train_alternating(options)
    for name, figures in training.items():
        print(f"{name:<18} {figures}", flush=True)
    apart = check_losses(training, options.bf16)
    print(f"losses at most {apart} apart", flush=True)
    theirs, ratios = training.get("transformers"), {}
    for name, figures in training.items():
        if theirs is not None and figures is not theirs:
            ratios[name] = {key: round(figures[key] / theirs[key], 2) for key in ("tokens_per_s", "peak_mib")}
            speed, memory = ratios[name].values()
            print(f"{name}: {speed} times the tokens/s of transformers, {memory} of its peak memory", flush=True)
    writing = generate_texts(options)
    for rows, by_name in writing.items():
        print(f"{rows} texts of 20 tokens, ms: {by_name}", flush=True)
    training_results = {"kinds": training, "ratios": ratios, "aims": AIMS, "losses_apart": apart}
    conditions = {name: getattr(options, name) for name in ("rows", "layers", "vocab_size", "steps", "rounds", "bf16")}
    results = {"training": training_results, "milliseconds_to_write_20_tokens": writing}
    write_json(options.json, {**results, "tuned": tuned, **conditions})


if __name__ == "__main__":
    main()
