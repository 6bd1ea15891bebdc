"""Examples do not depend on workers, shards or interruptions, and are rebuilt when the text changes."""

import hashlib
import json
import random
import subprocess
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

import warm
from conftest import environment, wait_until
from lmrecipes.data.corpora import documents
from lmrecipes.data.corpora.documents import Corpus, DocumentSource
from lmrecipes.data.prepared.cache import folder_for
from lmrecipes.data.prepared.corpus import find_prepared
from lmrecipes.data.prepared.examples import Examples
from lmrecipes.data.prepared.shards import Share, prepare_examples
from lmrecipes.data.tokenizers.wordpiece_config import WordPieceSettings
from unrelated_files import put_files

SETTINGS = WordPieceSettings(vocab_size=200)


def write(folder, n=120, seed=0):
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "the", "dog", "run", "away"]
    generator = random.Random(seed)
    folder.mkdir(exist_ok=True)
    texts = [
        "\n".join(
            " ".join(generator.choices(words, k=generator.randint(3, 12))).capitalize() + "."
            for _ in range(generator.randint(1, 12))
        )
        for _ in range(n)
    ]
    (folder / "a.txt").write_text("\n\n".join(texts))
    return texts


def corpus(*folders, **settings):
    sources = [DocumentSource(name=folder.name, path=str(folder)) for folder in folders]
    return Corpus(sources=sources, seq_len=32, held_out=0.1, **settings)


OBJECTIVE = "lmrecipes.data.objectives.masked_lm.MaskedLM"


def prepared(source, cache, **arguments):
    return prepare_examples(
        source, SETTINGS, folder_for(source, SETTINGS, "test", cache), objective=OBJECTIVE, **arguments
    )


def contents(result):
    files = sorted(path for path in result.folder.glob("*.bin"))
    assert len(files) == 9
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def decoded(result, split):
    examples = Examples(result, split)
    ids, types, lengths = examples.read(np.arange(len(examples)), 32)
    return ids, types, lengths


def test_examples_never_mix_documents_and_each_document_is_in_one_split(tmp_path):
    first = [f"Ones {i} go here. And {i} more of them there." for i in range(200)]
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "a.txt").write_text("\n\n".join(first))
    result = prepared(corpus(tmp_path / "c"), tmp_path / "cache")
    vocabulary = result.vocabulary
    seen = {}
    for split in ("train", "val", "test"):
        for row, length in zip(*decoded(result, split)[::2], strict=True):
            assert (row[length:] == 0).all()
            text = vocabulary.decode(i for i in row[:length] if i not in (vocabulary.cls_id, vocabulary.sep_id))
            numbers = {word for word in text.replace(".", " ").split() if word.isdigit()}
            assert len(numbers) == 1, text
            assert seen.setdefault(numbers.pop(), split) == split
    assert len(seen) == 200
    shares = [sum(where == split for where in seen.values()) for split in ("train", "val", "test")]
    assert 140 < shares[0] < 180
    assert min(shares) > 8
    assert [result.manifest["splits"][split]["documents"] for split in ("train", "val", "test")] == shares


def test_segments_carry_types_and_special_tokens(tmp_path):
    write(tmp_path / "c")
    result = prepared(corpus(tmp_path / "c"), tmp_path / "cache")
    ids, types, lengths = decoded(result, "train")
    vocabulary = result.vocabulary
    assert (ids[:, 0] == vocabulary.cls_id).all()
    assert (ids[np.arange(len(ids)), lengths - 1] == vocabulary.sep_id).all()
    for row, kind, length in zip(ids, types, lengths, strict=True):
        (ends,) = np.nonzero(row == vocabulary.sep_id)
        assert len(ends) in (1, 2)
        assert (kind == ((np.arange(32) > ends[0]) & (np.arange(32) < length))).all()
    assert lengths.max() == 32


@pytest.mark.slow
@pytest.mark.parametrize("part_bytes", [300, 1000, 1 << 20])
def test_examples_do_not_depend_on_parts_workers_or_shards(tmp_path, monkeypatch, part_bytes):
    for i in range(2):
        write(tmp_path / f"c{i}", n=40, seed=i)
    source = corpus(tmp_path / "c0", tmp_path / "c1")
    expected = contents(prepared(source, tmp_path / "one"))
    monkeypatch.setattr(documents, "PART_BYTES", part_bytes)
    n = len(Corpus(**{**vars(source), "commits": [None, None]}).parts())
    assert (n > 2) == (part_bytes < 1 << 20)
    *_, last = results = [prepared(source, tmp_path / "shards", share=Share(i, 3)) for i in (1, 0, 2)]
    assert results[0] is None
    assert last is not None  # whoever finishes the last part merges them all
    assert contents(last) == expected
    assert not (last.folder / "parts").exists()
    if part_bytes == 1000:
        assert contents(prepared(source, tmp_path / "two", workers=2)) == expected


def test_a_vocabulary_is_trained_on_training_documents_only(tmp_path, monkeypatch):
    write(tmp_path / "c")
    read, make = [], WordPieceSettings.make

    def recorded(settings, sample):
        read.extend(sample(1 << 20))
        return make(settings, sample)

    monkeypatch.setattr(WordPieceSettings, "make", recorded)
    result = prepared(corpus(tmp_path / "c"), tmp_path / "cache")
    splits = json.loads((result.folder / "manifest.json").read_text())["splits"]
    assert len(read) == splits["train"]["documents"]
    assert splits["val"]["documents"] > 0


def test_a_call_without_a_shard_completes_the_remaining_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "PART_BYTES", 500)
    write(tmp_path / "c")
    source = corpus(tmp_path / "c")
    assert prepared(source, tmp_path / "cache", share=Share.parse("2/4")) is None
    done = sorted((folder_for(source, SETTINGS, "test", tmp_path / "cache") / "parts").glob("*.json"))
    before = [path.stat().st_mtime_ns for path in done]
    steps = []
    result = prepared(source, tmp_path / "cache", progress=lambda _, n, total: steps.append((n, total)))
    assert contents(result) == contents(prepared(source, tmp_path / "other"))
    assert steps[0][0] == len(before) + 1  # finished parts are not repeated
    assert steps[-1][0] == steps[-1][1]


@pytest.mark.parametrize("text", ["", "0/2", "3/2", "1", "a/b", "-1/2"])
def test_invalid_shards_are_rejected(text):
    with pytest.raises(ValueError, match=r"--shard is .*; give which of how many, such as 1/8 to 8/8"):
        Share.parse(text)


def test_changed_text_is_prepared_again_and_changed_weights_are_not(tmp_path):
    write(tmp_path / "c")
    first = prepared(corpus(tmp_path / "c"), tmp_path / "cache")
    heavier = Corpus(sources=[DocumentSource(name="c", path=str(tmp_path / "c"), weight=3)], seq_len=32, held_out=0.1)
    assert prepared(heavier, tmp_path / "cache").folder == first.folder
    write(tmp_path / "c", seed=1)
    assert prepared(corpus(tmp_path / "c"), tmp_path / "cache").folder != first.folder
    assert prepared(corpus(tmp_path / "c", seed=7), tmp_path / "cache").folder != first.folder
    with (first.folder / "val.starts.bin").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match=r"val.starts.bin has .* run `lmrecipes prepare` again"):
        find_prepared(first.folder)


def test_documents_that_change_during_preparation_are_not_cached(tmp_path):
    write(tmp_path / "c")
    source = corpus(tmp_path / "c")
    with pytest.raises(ValueError, match="changed while it was being prepared; prepare it again"):
        prepared(source, tmp_path / "cache", progress=lambda *_: write(tmp_path / "c", seed=2))
    assert sum(prepared(corpus(tmp_path / "c"), tmp_path / "cache").manifest["splits"]["train"]["examples"]) > 10


def test_unrelated_files_next_to_the_parts_are_kept(tmp_path):
    write(tmp_path / "c")
    source = corpus(tmp_path / "c")
    folder = folder_for(source, SETTINGS, "test", tmp_path / "cache")
    mine = ("notes.txt", "parts/notes.txt", "parts/000000.txt", "parts/a/000000.json", "vocabulary/mine.json")
    folder.mkdir(parents=True)
    (folder / ".lock").touch()
    checks = [put_files(folder, *mine)]

    def change(*_):
        if len(checks) == 1:
            checks.append(put_files(folder / "parts", "mine.part"))
        write(tmp_path / "c", seed=2)

    with pytest.raises(ValueError, match="changed while it was being prepared; prepare it again"):
        prepare_examples(source, SETTINGS, folder, change, objective=OBJECTIVE)
    ours = {"plan.json", "parts/000000.json", "vocabulary/vocabulary.json"}
    assert not any((folder / name).exists() for name in ours)
    result = prepare_examples(source, SETTINGS, folder, objective=OBJECTIVE)
    assert result is not None
    assert find_prepared(folder)
    assert len(checks) == 2
    assert all(unchanged() for unchanged in checks)
    assert not [path for path in (folder / "parts").iterdir() if path.name.endswith((".tokens", ".claim", ".json"))]


def test_a_source_without_text_is_named(tmp_path):
    write(tmp_path / "c")
    (tmp_path / "blank").mkdir()
    (tmp_path / "blank" / "a.txt").write_text("\n \n")
    with pytest.raises(ValueError, match=r"source blank is empty: .*blank has no text"):
        prepared(corpus(tmp_path / "c", tmp_path / "blank"), tmp_path / "cache")


def test_input_that_is_not_text_is_named_from_any_worker(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "PART_BYTES", 500)
    write(tmp_path / "c")
    with (tmp_path / "c" / "a.txt").open("ab") as file:
        file.write(b"\n\nb\xff")
    n = (tmp_path / "c" / "a.txt").read_bytes().count(b"\n") + 1
    prepared_folder = tmp_path / "cache"
    with pytest.raises(ValueError, match=rf"a.txt:{n} is not UTF-8 text"):
        prepared(corpus(tmp_path / "c"), prepared_folder)


SCRIPT = """
import os, signal, sys
from pathlib import Path
from lmrecipes.data.corpora import documents
from lmrecipes.data.prepared import shards
from lmrecipes.data.prepared.cache import folder_for
from lmrecipes.data.corpora.documents import Corpus, DocumentSource
from lmrecipes.data.tokenizers.wordpiece_config import WordPieceSettings
documents.PART_BYTES = 3000
source, cache, workers, stop = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
what = Corpus(sources=[DocumentSource(name="c", path=str(source))], seq_len=32, held_out=0.1)
settings = WordPieceSettings(vocab_size=200)
write = shards._Plan._write
def counted(plan, number, *rest):
    write(plan, number, *rest)
    print("part", number, flush=True)
shards._Plan._write = counted
def report(_, done, total):
    if done >= stop:
        os.kill(os.getpid(), signal.SIGKILL)
folder, objective = folder_for(what, settings, "test", cache), "lmrecipes.data.objectives.masked_lm.MaskedLM"
shards.prepare_examples(what, settings, folder, report, objective=objective, workers=workers)
"""


def start(folder, cache, workers=1, stop=10**6):
    command = [warm.python(), "-c", SCRIPT, folder, cache, str(workers), str(stop)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment())


def worker_processes(folder) -> list[Path]:
    """Worker processes that prepare into a folder."""
    result = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if b"lmrecipes.data.prepared.shard_worker" in words and str(folder).encode() in words:
                result.append(path.parent)
    return result


def finished_parts(output):
    return [int(line.split()[1]) for line in output.splitlines()]


@pytest.mark.slow
def test_a_killed_preparation_continues_and_concurrent_ones_share_the_work(tmp_path):
    write(tmp_path / "c", n=1500)
    source = corpus(tmp_path / "c")
    killed = start(tmp_path / "c", tmp_path / "cache", workers=2, stop=6)
    first = finished_parts(killed.communicate()[0])
    assert killed.returncode == -9
    folder = folder_for(source, SETTINGS, "test", tmp_path / "cache")
    assert not (folder / "manifest.json").exists()
    n_parts = len(json.loads((folder / "plan.json").read_text())["parts"])
    wait_until("end of the helper", lambda: not worker_processes(folder), 60)
    helped = {int(path.name[:6]) for path in (folder / "parts").glob("*.json")}
    assert 6 <= len(helped) < n_parts
    both = [start(tmp_path / "c", tmp_path / "cache") for _ in range(2)]
    outputs = [finished_parts(process.communicate()[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert set(first) <= helped
    assert sorted(outputs[0] + outputs[1] + list(helped)) == list(range(n_parts))  # nothing is done twice
    assert contents(find_prepared(folder)) == contents(prepared(source, tmp_path / "other"))
