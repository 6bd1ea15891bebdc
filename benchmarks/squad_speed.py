"""Question answering with our ELECTRA and with a simple loop over transformers' model, alternating in one process.

Three measurements on the same windows and from the same weights, without dropout: fine-tuning, inference, latency.
Ours uses the batches of SquadDataModule, with windows of similar length, and computes little for padding. The simple
loop pads windows to 384 tokens beforehand, as transformers' question answering example does. Windows of a long context
start 128 tokens apart.

Times include building batches; ours also finding the 20 best spans of each window, where the other returns logits.
Batches are evenly spread over an epoch or an evaluation; medians are over rounds. Latency percentiles are of single
calls, not means of the fastest calls as in published tables. Without --data, several synthetic passages form a context,
so that contexts are as long as XQuAD's.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import transformers

import squad_data
from lmrecipes.batches import BatchPlan, EvalBatchPlan
from lmrecipes.data.tasks.squad.best_spans import best_spans
from lmrecipes.data.tasks.squad.windows import Windowing
from lmrecipes.data.tokenizers.wordpiece_config import WordPieceSettings
from lmrecipes.datamodules import SquadDataModule
from lmrecipes.models.electra import ElectraReader, ReaderConfig
from lmrecipes.optim import GroupSettings, build_optimizer, parameter_groups
from lmrecipes.runtime.allocator import tune_process
from reporting import write_json

SEQ_LEN, MAX_ANSWER_LEN = 384, 30
# Speed-up to reach.
AIMS = {"fine-tuning": 2.5, "inference": 3.0}
PERCENTILES = (50, 90, 95, 99)
# Rounding error allowed in a loss, and in the score of a window's best span.
TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2}


class Run:
    """Shared by both implementations; `rows` are always window numbers of a split."""

    def __init__(self, network, optimizer, data, device, autocast):
        self.network, self.optimizer, self.data, self.device = network, optimizer, data, device
        self.autocast = lambda: torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast)

    def step(self, rows):
        self.optimizer.zero_grad()
        with self.autocast():
            loss = self.loss(rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        return loss.item()


class Ours(Run):
    def __init__(self, config, data, device, autocast):
        torch.manual_seed(0)
        network = ElectraReader(config).to(device)
        groups = parameter_groups(network, GroupSettings())
        optimizer = build_optimizer(
            lambda p: torch.optim.AdamW(p, lr=1e-4, eps=1e-6, weight_decay=0.01), groups, fused=True
        )
        super().__init__(network, optimizer, data, device, autocast)

    def batch(self, split, rows):
        data = self.data
        return data.collator.batch(data.prepared(split), rows, data.vocabulary, Windowing(seq_len=SEQ_LEN)).to(
            self.device
        )

    def out(self, batch):
        return self.network(**{name: x for name, x in batch._asdict().items() if name != "windows"})

    def loss(self, rows):
        return self.out(self.batch("train", rows)).loss

    def read(self, rows):
        """Starts and ends of the best spans of each window, and their scores."""
        batch = self.batch("test", rows)
        with torch.inference_mode(), self.autocast():
            start, end = self.out(batch).logits
            batch = batch._replace(allowed=batch.allowed[:, : start.shape[1]])
            result = best_spans(start, end, batch, max_answer_len=MAX_ANSWER_LEN)
        return [x.cpu() for x in (result.starts, result.ends, result.start_scores, result.end_scores)]


class Straightforward(Run):
    """Starts with the weights of our network."""

    def __init__(self, ours, data, device, autocast):
        network = transformers.ElectraForQuestionAnswering(ours.config.transformers()).to(device)
        groups = parameter_groups(network, GroupSettings())
        optimizer = torch.optim.AdamW(groups, lr=1e-4, eps=1e-6, weight_decay=0.01)
        super().__init__(network, optimizer, data, device, autocast)
        self.begin_as(ours)
        self.features = {split: features(data, split) for split in ("train", "test")}

    def begin_as(self, ours):
        self.network.electra.load_state_dict(ours.electra.state_dict())
        self.network.qa_outputs.load_state_dict(ours.head.outputs.state_dict())

    def batch(self, split, rows):
        result = transformers.default_data_collator([self.features[split][row] for row in rows])
        return {name: x.to(self.device, non_blocking=True) for name, x in result.items()}

    def loss(self, rows):
        batch = self.batch("train", rows)
        starts, ends = batch.pop("start_positions"), batch.pop("end_positions")
        out = self.network(**batch)
        # transformers' own loss allows answers to start or end in padding.
        padding = batch["attention_mask"] == 0
        start = out.start_logits.float().masked_fill(padding, -torch.inf)
        end = out.end_logits.float().masked_fill(padding, -torch.inf)
        return (F.cross_entropy(start, starts) + F.cross_entropy(end, ends)) / 2

    def read(self, rows):
        """Start and end logits."""
        batch = self.batch("test", rows)
        with torch.inference_mode(), self.autocast():
            out = self.network(**{name: x for name, x in batch.items() if "positions" not in name})
        return [out.start_logits.float().cpu(), out.end_logits.float().cpu()]


def features(data, split):
    """Windows as lists, padded to 384."""
    windows, vocabulary = data.prepared(split).pieces, data.vocabulary
    positions, result = windows.context_position(np.arange(len(windows))), []
    for row, position in enumerate(positions.tolist()):
        ids = windows.ids(row, vocabulary.cls_id, vocabulary.sep_id).tolist()
        padding = [0] * (SEQ_LEN - len(ids))
        result.append(
            {
                "input_ids": ids + padding,
                "attention_mask": [1] * len(ids) + padding,
                "token_type_ids": [0] * position + [1] * (len(ids) - position) + padding,
                "start_positions": int(windows.start[row]),
                "end_positions": int(windows.end[row]),
            }
        )
    return result


def steps_across_lengths(data, number):
    """Training batches of an epoch, evenly spread over the lengths of its batches."""
    order = data.training_order()
    epoch = order.epoch(0)
    by_length = epoch[np.argsort(order.lengths[epoch].mean(axis=1))]
    return by_length[evenly_spread(len(by_length), number)]


def evenly_spread(n, number):
    """`number` evenly spread integers below n."""
    return np.unique(((np.arange(number) + 0.5) * n / number).astype(int))


def alternate(runs, works, rounds):
    """Seconds per item of work for each run, medians over rounds, with the runs alternating.

    Args:
        runs: functions that do one item of work, by name.
        works: list of work items of each run, by name; lists may differ in length.
        rounds: number of repetitions.
    """
    times = {name: [[] for _ in works[name]] for name in runs}
    results = {name: [[] for _ in works[name]] for name in runs}
    for _ in range(rounds):
        for i in range(max(map(len, works.values()))):
            for name, run in runs.items():
                if i < len(works[name]):
                    began = time.perf_counter()
                    results[name][i].append(run(works[name][i]))
                    times[name][i].append(time.perf_counter() - began)
    return {name: [statistics.median(taken) for taken in result] for name, result in times.items()}, results


def compare(measurement, lengths, times, summary):
    """Windows per second and their ratio, printed next to the target."""
    took = {name: sum(result) for name, result in times.items()}
    ours, theirs = took.values()
    rows = {
        name: {"windows_per_s": round(len(lengths) / s, 2), "ratio": round(theirs / s, 2)} for name, s in took.items()
    }
    for name, row in rows.items():
        print(f"{measurement:<12} {name:<16} {row['windows_per_s']:>9.2f} windows/s  x{row['ratio']:.2f}")
    print(f"{measurement:<12} {summary}; {len(lengths)} windows of {lengths.mean():.0f} tokens on average")
    print(f"{measurement:<12} x{theirs / ours:.2f}, aim x{AIMS[measurement]:.1f}")
    return rows | {"aim": AIMS[measurement], "windows": len(lengths), "mean_tokens": round(float(lengths.mean()), 1)}


def fine_tuning(runs, data, options, tolerance):
    works = steps_across_lengths(data, options.steps)
    for run in runs.values():
        run.network.train()
    first = {name: run.step(works[len(works) // 2]) for name, run in runs.items()}
    difference = abs(first["lmrecipes"] - first["straightforward"])
    assert difference < tolerance, f"the losses of the same windows and weights differ by {difference}"
    times, losses = alternate(
        {name: run.step for name, run in runs.items()}, dict.fromkeys(runs, works), options.rounds
    )
    last = np.abs(np.subtract(*losses.values())).max()
    summary = f"losses {difference:.1e} apart at first (tolerance {tolerance:g}), {last:.1e} at most in later steps"
    return compare("fine-tuning", data.prepared("train").pieces.lengths[works.ravel()], times, summary) | {
        "losses_apart": difference
    }


def inference(runs, data, options, tolerance):
    ours, theirs = runs.values()
    theirs.begin_as(ours.network)
    for run in runs.values():
        run.network.eval()
    order = data.evaluation_order("test")
    chosen = [order[i] for i in evenly_spread(len(order), options.eval_batches)]
    windows = np.random.default_rng(0).permutation(np.concatenate(chosen))
    by_number = np.array_split(windows, range(options.eval_batch_size, len(windows), options.eval_batch_size))
    works = {"lmrecipes": chosen, "straightforward": by_number}
    for name, run in runs.items():
        run.read(works[name][0])
    times, results = alternate({name: run.read for name, run in runs.items()}, works, options.rounds)
    equal, difference = answers_agree(data, works, {name: [r[0] for r in result] for name, result in results.items()})
    assert difference < tolerance, f"a window's best span scores {difference} less than the other network's"
    summary = (
        f"best spans of {equal} of {len(windows)} windows are the same, others' scores at most {difference:.1e} apart"
    )
    return compare("inference", data.prepared("test").pieces.lengths[windows], times, summary) | {
        "best_spans_equal": equal
    }


def answers_agree(data, works, results):
    """Number of windows with equal best spans, and the largest loss in score elsewhere, by transformers' logits.

    The best span by transformers' logits is found as in its pipeline: by the sum of every start and every end.
    """
    windows = data.prepared("test").pieces
    spans = {}
    for rows, (starts, ends, _, _) in zip(works["lmrecipes"], results["lmrecipes"], strict=True):
        spans |= zip(rows.tolist(), zip(starts[:, 0].tolist(), ends[:, 0].tolist(), strict=True), strict=True)
    equal, difference = 0, 0.0
    for rows, logits in zip(works["straightforward"], results["straightforward"], strict=True):
        for row, start, end in zip(rows.tolist(), *(x.numpy() for x in logits), strict=True):
            context = slice(int(windows.context_position(np.array(row))), int(windows.lengths[row]) - 1)
            sums = start[context, None] + end[None, context]
            allowed = np.tril(np.triu(np.ones_like(sums, dtype=bool)), MAX_ANSWER_LEN - 1)
            best = np.unravel_index(np.where(allowed, sums, -np.inf).argmax(), sums.shape)
            span = spans[row][0] - context.start, spans[row][1] - context.start
            assert allowed[span], f"window {row} has no span {span}"
            equal += span == tuple(best)
            difference = max(difference, float(sums[best] - sums[span]))
    return equal, difference


def latency(runs, data, batch_size, options):
    n, chance = len(data.prepared("test").pieces), np.random.default_rng(0)
    works = [chance.choice(n, batch_size, replace=batch_size > n) for _ in range(options.repeats)]
    for run in runs.values():
        run.network.eval()
        run.read(works[0])
    times, _ = alternate({name: run.read for name, run in runs.items()}, dict.fromkeys(runs, works), 1)
    rows = {}
    for name, taken in times.items():
        cuts = statistics.quantiles(taken, n=100, method="inclusive")
        ms = {"mean_ms": statistics.mean(taken), **{f"p{p}_ms": cuts[p - 1] for p in PERCENTILES}}
        row = {key: round(1000 * value, 2) for key, value in ms.items()}
        row["windows_per_s"] = round(batch_size / statistics.mean(taken), 2)
        rows[name] = row | {"ratio": round(statistics.median(times["straightforward"]) / cuts[49], 2)}
        print(f"batch {batch_size:<6} {name:<16}", *(f"{key} {value:.2f}" for key, value in rows[name].items()))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="embedded:train", help="file in SQuAD format, such as XQuAD's or SQuAD's")
    parser.add_argument("--steps", type=int, default=6, help="training steps per round")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of training and of inference")
    parser.add_argument("--batch_size", type=int, default=8, help="windows per training step")
    parser.add_argument("--eval_batches", type=int, default=3, help="our batches per round of inference")
    parser.add_argument("--eval_batch_size", type=int, default=16, help="windows per padded batch at inference")
    parser.add_argument(
        "--batch_sizes", type=int, nargs="*", default=[1, 8], help="batch sizes to measure latency with"
    )
    parser.add_argument("--repeats", type=int, default=20, help="calls per implementation to measure latency with")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--d_model", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument(
        "--vocab_size", type=int, default=30522, help="rows of the embedding; also the largest vocabulary"
    )
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16 (default: float32)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()
    tuned, device = tune_process(), torch.device(options.device)
    precision = "bf16" if options.bf16 else "fp32"
    config = ReaderConfig(
        vocab_size=options.vocab_size,
        d_model=options.d_model,
        n_layers=options.layers,
        n_heads=options.heads,
        d_ff=4 * options.d_model,
        dropout=0.0,
        attention_dropout=0.0,
    )
    with tempfile.TemporaryDirectory() as folder:
        file = squad_data.write(squad_data.read(options.data), Path(folder) / "questions.json")
        data = SquadDataModule(
            BatchPlan(
                global_batch_size=options.batch_size,
                seq_len=SEQ_LEN,
                test=EvalBatchPlan(batch_size=options.eval_batch_size),
            ),
            train=file,
            test=file,
            wordpiece=WordPieceSettings(vocab_size=options.vocab_size),
            cache_dir=folder,
        )
        data.prepare(progress=False)
        ours = Ours(config, data, device, options.bf16)
        runs = {"lmrecipes": ours, "straightforward": Straightforward(ours.network, data, device, options.bf16)}
        lengths = data.prepared("train").pieces.lengths
        results = {
            "fine-tuning": fine_tuning(runs, data, options, TOLERANCE[precision]),
            "inference": inference(runs, data, options, TOLERANCE[precision]),
            **{f"latency, batch {size}": latency(runs, data, size, options) for size in options.batch_sizes},
        }
    print(
        f"ELECTRA of {options.layers} layers, d_model {options.d_model}, {precision}, {device.type}; windows of "
        f"{', '.join(f'{x:.0f}' for x in np.percentile(lengths, [5, 50, 95]))} tokens (percentiles 5, 50, 95), mean "
        f"{lengths.mean():.0f}; {torch.get_num_threads()} threads, allocator tuned: {tuned}; medians of "
        f"{options.rounds} rounds in turn"
    )
    write_json(options.json, results | {"precision": precision, "device": device.type})


if __name__ == "__main__":
    main()
