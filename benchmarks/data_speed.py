"""Speed and memory of text preparation next to a loop that only reads, splits and counts; time per training batch."""

import argparse
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from lmrecipes.batches import BatchPlan
from lmrecipes.data import Folder, Tokenizing
from lmrecipes.data.corpora.python_text import PythonText
from lmrecipes.data.prepared.cache import folder_for
from lmrecipes.data.prepared.tokenize_text import prepare
from lmrecipes.datamodules import TextFolder
from reporting import write_json

PREPARE = """
import resource, sys
from pathlib import Path
from lmrecipes.data import Folder, Tokenizing
from lmrecipes.data.prepared.tokenize_text import prepare
prepare(Folder(Path(sys.argv[1])), Tokenizing(kind=sys.argv[3]), Path(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def write_corpus(folder, megabytes, line_end="\n"):
    """Text from Python's own documentation, repeated; every copy has some words of its own, as a larger text would."""
    folder.mkdir()
    source = PythonText()
    text = "".join(source.blocks("train"))
    with (folder / "train.txt").open("w", newline="") as file:
        for copy in itertools.count():
            lines = text.split("\n")
            lines[::40] = [f"{line} name{copy}_{i}" for i, line in enumerate(lines[::40])]
            file.write(line_end.join(lines))
            if file.tell() > megabytes << 20:
                break
    (folder / "valid.txt").write_text("".join(source.blocks("val")))
    return folder


def bare_loop(path):
    counts = Counter()
    with path.open(encoding="utf-8") as file:
        for line in file:
            counts.update(line.split())
    return counts


def ours(folder, kind, cache):
    source, tokenizing = Folder(folder), Tokenizing(kind=kind)
    return prepare(source, tokenizing, folder_for(source, tokenizing, "speed", cache))


def seconds(work, *arguments):
    began = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - began


def peak_gib(folder, cache, kind):
    run = subprocess.run(
        [sys.executable, "-c", PREPARE, folder, cache, kind], capture_output=True, text=True, check=True
    )
    return int(run.stdout) / 2**20


def microseconds_per_batch(folder, cache, batches=2000):
    plan = BatchPlan(global_batch_size=16, seq_len=64)
    loader = TextFolder(plan, path=str(folder), cache_dir=str(cache)).train_dataloader()
    times, batch = [], iter(loader)
    for _ in range(min(batches, loader.batches_per_epoch)):
        times.append(seconds(next, batch))
    return statistics.median(times) * 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--speed_mb", type=int, default=50, help="MiB of text to measure speed with")
    parser.add_argument("--memory_mb", type=int, default=500, help="MiB of text to measure peak memory with")
    parser.add_argument("--repeats", type=int, default=3, help="repetitions, alternating")
    parser.add_argument(
        "--step_ms", type=float, default=100.0, help="length of a training step to compare a batch with"
    )
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        corpus = write_corpus(root / "corpus", options.speed_mb)
        megabytes = (corpus / "train.txt").stat().st_size / 1e6
        times = {"bare loop": [], "words": [], "characters": []}
        for i in range(options.repeats):
            times["bare loop"].append(seconds(bare_loop, corpus / "train.txt"))
            times["words"].append(seconds(ours, corpus, "word", root / f"cache{i}"))
            times["characters"].append(seconds(ours, corpus, "char", root / f"cache{i}"))
        base = statistics.median(times["bare loop"])
        for name, measured in times.items():
            median = statistics.median(measured)
            rows[name] = {"mb_per_s": round(megabytes / median, 1), "times_the_bare_loop": round(median / base, 2)}
            print(f"{name:<28} {megabytes / median:>8.1f} MB/s   {median / base:>5.2f} x the bare loop's time")
        for name, line_end, kind in (("words, many lines", "\n", "word"), ("characters, one line", " ", "char")):
            large = write_corpus(root / kind, options.memory_mb, line_end)
            gib = peak_gib(large, root / f"{kind}_cache", kind)
            rows[f"peak of {name}"] = {"megabytes": options.memory_mb, "gib": round(gib, 3)}
            print(f"{'peak of ' + name:<28} {gib:>8.2f} GiB    for {options.memory_mb} MiB of text")
            (large / "train.txt").unlink()
        microseconds = microseconds_per_batch(corpus, root / "batches")
        share = microseconds / options.step_ms / 1000
        rows["batch of 16 x 64"] = {"microseconds": round(microseconds, 1), "share_of_step": round(share, 6)}
        print(f"{'batch of 16 x 64':<28} {microseconds:>8.1f} us     {share:.3%} of a step of {options.step_ms:g} ms")
    write_json(options.json, rows)


if __name__ == "__main__":
    main()
