"""Speed and memory of building masked-language-model examples from documents, and time per masked batch.

Baselines in the same run: a plain loop that only tokenizes the same documents with the same vocabulary by transformers'
fast tokenizer, and transformers' own collator on the same examples. Speeds are per second of CPU time over all threads,
so other load on the machine matters little.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Single-core speed is measured.
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch

from lmrecipes.batches import BatchPlan
from lmrecipes.data.corpora.documents import Corpus, DocumentSource
from lmrecipes.data.corpora.python_text import PythonText
from lmrecipes.data.prepared.shards import prepare_examples
from lmrecipes.data.tokenizers.wordpiece_config import WordPieceSettings, load_wordpiece
from lmrecipes.data.tokenizers.wordpiece_trainer import train_wordpiece
from lmrecipes.datamodules import DocumentsDataModule
from reporting import write_json

PREPARE = """
import json, resource, sys, time
from pathlib import Path
from lmrecipes.data.corpora.documents import Corpus, DocumentSource
from lmrecipes.data.prepared.shards import prepare_examples
from lmrecipes.data.tokenizers.wordpiece_config import WordPieceSettings, load_wordpiece
path, folder, vocabulary, workers = sys.argv[1:]
corpus = Corpus(sources=[DocumentSource(name="text", path=path)], seq_len=128)
began = time.perf_counter()
objective = "lmrecipes.data.objectives.masked_lm.MaskedLM"
arguments = {"vocabulary": load_wordpiece(vocabulary), "objective": objective, "workers": int(workers)}
prepare_examples(corpus, WordPieceSettings(), Path(folder), **arguments)
seconds = time.perf_counter() - began
peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps({"seconds": seconds, "gib": max(peaks) / 2**20}))
"""


def write_corpus(path, megabytes, texts):
    """Documents as JSON lines, repeated; every copy has some words of its own, as a larger text would."""
    with path.open("w", encoding="utf-8") as file:
        for copy in itertools.takewhile(lambda _: file.tell() < megabytes << 20, itertools.count()):
            for i, text in enumerate(texts):
                file.write(json.dumps({"text": f"{text} Copy{copy} of text{i}."}, ensure_ascii=False) + "\n")
    return path


def cpu_seconds(work, *arguments):
    began = time.process_time()
    work(*arguments)
    return time.process_time() - began


def plain_loop(path, tokenizer):
    """Tokenizes documents in batches and keeps the ids, as a simple script would."""
    tokens = 0
    with path.open(encoding="utf-8") as file:
        while lines := list(itertools.islice(file, 1000)):
            texts = [json.loads(line)["text"] for line in lines]
            tokens += sum(map(len, tokenizer(texts, add_special_tokens=False)["input_ids"]))
    return tokens


def ours(path, vocabulary, folder):
    corpus = Corpus(sources=[DocumentSource(name="text", path=str(path))], seq_len=128)
    objective = "lmrecipes.data.objectives.masked_lm.MaskedLM"
    return prepare_examples(corpus, WordPieceSettings(), folder, vocabulary=vocabulary, objective=objective)


def in_new_process(path, folder, vocabulary, workers):
    command = [sys.executable, "-c", PREPARE, path, folder, vocabulary, str(workers)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def batch_times(data, vocabulary):
    """Milliseconds per masked batch, ours and transformers' collator, on the same examples."""
    from transformers import DataCollatorForLanguageModeling

    collator = DataCollatorForLanguageModeling(vocabulary.fast, mlm_probability=0.15)
    batches, ours, theirs = iter(data.train_dataloader()), [], []
    for _ in range(50):
        began = time.perf_counter()
        batch = next(batches)
        ours.append(time.perf_counter() - began)
        rows = [{"input_ids": row[:n]} for row, n in zip(batch.input_ids.tolist(), batch.lengths.tolist(), strict=True)]
        began = time.perf_counter()
        collator(rows)
        theirs.append(time.perf_counter() - began)
    return statistics.median(ours) * 1e3, statistics.median(theirs) * 1e3


def read_texts(path):
    if path is None:
        return ["\n".join(paragraphs) for _, paragraphs in PythonText().documents()]
    source = DocumentSource(name="text", path=str(path))
    return ["\n".join(paragraphs) for part in source.parts(None) for paragraphs in source.read(part, None)]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, help="documents; default: Python's own documentation")
    parser.add_argument("--vocab", type=str, help="vocab.txt or folder; default: train 8,000 tokens")
    parser.add_argument("--speed_mb", type=int, default=20, help="MiB of text to measure speed with")
    parser.add_argument("--memory_mb", type=int, default=200, help="MiB of text to measure peak memory with")
    parser.add_argument("--repeats", type=int, default=3, help="repetitions, alternating")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    texts, rows = read_texts(options.text), {}
    vocabulary = load_wordpiece(options.vocab) if options.vocab else train_wordpiece(texts, 8000)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        vocabulary.save(root / "vocabulary")
        path = write_corpus(root / "corpus.jsonl", options.speed_mb, texts)
        megabytes = path.stat().st_size / 1e6
        times = {"plain loop, tokens only": [], "examples, all of it": []}
        for i in range(options.repeats):
            times["plain loop, tokens only"].append(cpu_seconds(plain_loop, path, vocabulary.fast))
            times["examples, all of it"].append(cpu_seconds(ours, path, vocabulary, root / f"examples{i}"))
        base = statistics.median(times["plain loop, tokens only"])
        for name, measured in times.items():
            speed, ratio = megabytes / statistics.median(measured), statistics.median(measured) / base
            rows[name] = {"mb_per_s_and_core": round(speed, 2), "times_the_plain_loop": round(ratio, 2)}
            print(f"{name:<28} {speed:>8.2f} MB/s per core   {ratio:>5.2f} x the plain loop's time")
        large = write_corpus(root / "large.jsonl", options.memory_mb, texts)
        megabytes = large.stat().st_size / 1e6
        for workers in (1, len(os.sched_getaffinity(0))):
            result = in_new_process(large, root / f"large{workers}", root / "vocabulary", workers)
            speed = megabytes / result["seconds"]
            rows[f"{workers} processes"] = {"mb_per_s": round(speed, 2), "peak_gib_of_one": round(result["gib"], 3)}
            print(f"{f'{workers} processes':<28} {speed:>8.2f} MB/s   {result['gib']:.2f} GiB at most in one of them")
        plan = BatchPlan(global_batch_size=128, seq_len=128)
        source = DocumentSource(name="text", path=str(path))
        settings = WordPieceSettings(name=str(root / "vocabulary"))
        data = DocumentsDataModule(plan, [source], wordpiece=settings, cache_dir=str(root / "cache"))
        for name, milliseconds in zip(
            ("masked batch of 128 x 128", "the same by transformers"), batch_times(data, vocabulary), strict=True
        ):
            rows[name] = {"milliseconds": round(milliseconds, 2)}
            print(f"{name:<28} {milliseconds:>8.2f} ms")
    write_json(options.json, rows)


if __name__ == "__main__":
    main()
