"""Tokens per second of one core through span corruption, packing and batching, and the share of padding in rows.

Baseline: a plain loop as in tutorials, with one text per row, padded to its end, and spans drawn by `random`.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from lmrecipes.data.corpora.python_text import PythonText
from lmrecipes.data.objectives.row_packing import Packing, index_rows
from lmrecipes.data.objectives.seq2seq_lm import PairTrainingBatches, SpanCorrupter
from lmrecipes.data.objectives.span_corruption import SpanCorruption
from lmrecipes.data.sampling.interleaving import Interleaving
from lmrecipes.data.tokenizers.sentencepiece import SentencePiece
from lmrecipes.data.tokenizers.spm_trainer import learn_pieces
from lmrecipes.trainer_state import DataRank
from reporting import write_json

SETTINGS = {
    "google": (SpanCorruption(), 1024, 256),
    "nemo": (SpanCorruption(spans="nemo", input_eos=False), 512, 128),
}


def documents(path):
    """Texts from JSON lines, or from Python's own documentation."""
    if path is not None:
        return [json.loads(line)["text"] for line in path.read_text("utf-8").splitlines()]
    return ["\n".join(paragraphs) for _, paragraphs in PythonText().documents()]


def plain_loop(encoded, corruption, input_len, target_len, sentinels):
    """Returns the number of tokens read."""
    generator, read = random.Random(0), 0
    longest = corruption.longest_text(input_len, target_len)
    for tokens in encoded:
        for begin in range(0, len(tokens), longest):
            piece = tokens[begin : begin + longest]
            (n_noise,), (n,) = (x.tolist() for x in corruption.counts(np.array([len(piece)])))
            sizes = np.diff([0, *sorted(generator.sample(range(1, n_noise), n - 1)), n_noise])
            gaps = np.diff([0, *sorted(generator.sample(range(1, len(piece) - n_noise), n - 1)), len(piece) - n_noise])
            inputs, targets, at = [], [], 0
            for i, (gap, size) in enumerate(zip(gaps, sizes, strict=True)):
                inputs += [*piece[at : at + gap], sentinels[i]]
                targets += [sentinels[i], *piece[at + gap : at + gap + size]]
                at += gap + size
            for row, width in ((inputs, input_len), (targets, target_len)):
                np.array([*row, 1] + [0] * (width - len(row) - 1))
            read += len(piece)
    return read


def ours(batches, index, n):
    return sum(int(np.diff(index.bounds)[batches.batch(k).questions.numpy()].sum()) for k in range(n))


def tokens_per_s(work, *arguments):
    began = time.process_time()
    tokens = work(*arguments)
    return tokens / (time.process_time() - began)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, help="JSON lines with one text each; default: Python's own documentation")
    parser.add_argument("--vocab_size", type=int, default=8000, help="size of the vocabulary to train")
    parser.add_argument("--repeats", type=int, default=3, help="repetitions, alternating")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()
    texts = [text for text in documents(options.text) if text.strip()]
    vocabulary = SentencePiece(learn_pieces(texts[::10], options.vocab_size, 0.9999))
    began = time.process_time()
    encoded = [vocabulary.encode(text) for text in texts]
    lengths = [len(tokens) for tokens in encoded]
    rows = {"tokenizing": {"tokens_per_cpu_s": round(sum(lengths) / (time.process_time() - began))}}
    print(f"{'tokenizing':<24} {rows['tokenizing']['tokens_per_cpu_s']:>12,} tokens per CPU second")
    for name, (corruption, input_len, target_len) in SETTINGS.items():
        with tempfile.TemporaryDirectory() as folder:
            starts = np.concatenate([[0], np.cumsum(lengths)])
            packing = Packing(corruption=corruption, input_len=input_len, target_len=target_len)
            began = time.process_time()
            index = index_rows(Path(folder) / "rows", starts, [len(texts)], packing)
            indexing = sum(lengths) / (time.process_time() - began)
            corrupter = SpanCorrupter(np.concatenate(encoded).astype(np.uint32), starts, index, vocabulary, seed=1)
            order = Interleaving(index.counts, [1.0], seed=1)
            batches = PairTrainingBatches(corrupter, order, batch_size=8, data_rank=DataRank(0, 1), accumulation=1)
            speeds = {"packed": [], "plain loop": []}
            for _ in range(options.repeats):
                speeds["packed"].append(tokens_per_s(ours, batches, index, max(len(index) // 8, 1)))
                arguments = (encoded, corruption, input_len, target_len, vocabulary.sentinels.tolist())
                speeds["plain loop"].append(tokens_per_s(plain_loop, *arguments))
        pieces = [piece for n in lengths for piece in _cut(n, corruption, packing)]
        used = sum(map(np.sum, corruption.pair_lengths(np.array(pieces))))
        waste = {
            "packed": index.filling.waste(index.packing),
            "plain loop": 1 - used / (len(pieces) * (input_len + target_len)),
        }
        for layout, measured in speeds.items():
            median = statistics.median(measured)
            rows[f"{name} {layout}"] = {"tokens_per_cpu_s": round(median), "waste": round(float(waste[layout]), 4)}
            print(f"{name + ', ' + layout:<24} {median:>12,.0f} tokens per CPU second   {waste[layout]:>6.1%} padding")
        rows[f"{name} indexing"] = {"tokens_per_cpu_s": round(indexing)}
        print(f"{name + ', row index':<24} {indexing:>12,.0f} tokens per CPU second")
    write_json(options.json, rows)


def _cut(length, corruption, packing):
    """Splits a document into pieces that fit into a row each."""
    longest = corruption.longest_text(packing.input_len, packing.target_len)
    return [min(longest, length - begin) for begin in range(0, length, longest)]


if __name__ == "__main__":
    main()
