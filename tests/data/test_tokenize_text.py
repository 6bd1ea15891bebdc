"""Preparation follows the published vocabulary rules, survives interruption, and rejects unreadable text."""

import os
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import warm
from conftest import requires
from lmrecipes.data import Folder, Tokenizing, load_vocabulary
from lmrecipes.data.prepared.cache import folder_for
from lmrecipes.data.prepared.corpus import find_prepared
from lmrecipes.data.prepared.tokenize_text import prepare

REAL = Path(os.environ.get("LMRECIPES_TEST_DATA", "/nowhere"))
real_data = requires(REAL.is_dir(), "LMRECIPES_TEST_DATA is not set")


def corpus(folder, train="a b a\n\nc b a\n", valid="a c\n", test="b\n"):
    folder.mkdir(exist_ok=True)
    for name, text in (("train", train), ("valid", valid), ("test", test)):
        (folder / f"{name}.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def prepared(folder, cache, **tokenizing):
    source, settings = Folder(folder), Tokenizing(**tokenizing)
    return prepare(source, settings, folder_for(source, settings, "test", cache))


def test_words_are_numbered_by_frequency_and_lines_end_in_eos(tmp_path):
    text = "the cat saw the dog\n\n  a dog  saw a cat and a bird \nunseen\n"
    result = prepared(corpus(tmp_path / "c", train=text, valid="the cat\n"), tmp_path)
    counted = Counter(word for line in text.splitlines() for word in [*line.split(), "<eos>"])
    expected = ["<eos>", "<unk>"] + [word for word, _ in counted.most_common() if word != "<eos>"]
    assert result.vocabulary.words == expected
    decoded = [expected[i] for i in result.tokens("train")]
    assert decoded == [word for line in text.splitlines() for word in [*line.split(), "<eos>"]]
    assert result.tokens("train").dtype == np.uint16


def test_tokens_are_synced_before_they_are_renamed(tmp_path, monkeypatch):
    done, sync, replace = [], os.fsync, os.replace

    def record_sync(handle):
        sync(handle)
        done.append(os.fstat(handle).st_ino)

    def record_rename(source, target):
        if Path(target).suffix == ".bin":
            assert os.stat(source).st_ino in done, target
            done.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(os, "replace", record_rename)
    prepared(corpus(tmp_path / "c"), tmp_path)
    assert [name for name in done if isinstance(name, str)] == ["train.bin", "val.bin", "test.bin"]


def test_rare_and_unseen_words_become_unk(tmp_path):
    result = prepared(corpus(tmp_path / "c", valid="a nowhere\n"), tmp_path, min_freq=2)
    assert result.vocabulary.words == ["<eos>", "<unk>", "a", "b"]
    assert result.vocabulary.decode(result.tokens("val").tolist()) == "a <unk>"


@pytest.mark.parametrize("sentence_marks", [False, True])
def test_rare_words_never_become_line_ends(tmp_path, sentence_marks):
    folder = corpus(tmp_path / "c", train="a a b <unk>\n", valid="a nowhere\n", test="a\n")
    result = prepared(folder, tmp_path, min_freq=2, sentence_marks=sentence_marks)
    unknown = result.vocabulary.words.index("<unk>")
    assert result.tokens("train").tolist().count(unknown) == 2
    assert result.tokens("val").tolist().count(unknown) == 1


def test_sentences_of_one_billion_word_are_enclosed_in_two_marks(tmp_path):
    result = prepared(corpus(tmp_path / "c", train="a b\nb\n", valid="a\nb\n"), tmp_path, sentence_marks=True)
    vocabulary = result.vocabulary
    # <S> a b <S> <S> b <S> as published, rotated
    assert [vocabulary.words[i] for i in result.tokens("train")] == ["a", "b", "<S>", "<S>", "b", "<S>", "<S>"]
    assert [vocabulary.words[i] for i in vocabulary.encode("a\nb")] == ["<S>", "a", "<S>", "<S>", "b"]
    assert vocabulary.decode(result.tokens("train").tolist()) == "a b\nb"


@real_data
def test_wikitext_2_has_the_published_size(tmp_path):
    result = prepared(REAL / "wikitext-2", tmp_path)
    assert result.vocabulary.size == 33_278
    assert result.statistics("train").tokens == 2_088_628
    assert result.statistics("val").tokens == 217_646


@pytest.mark.parametrize("tokenizing", [{"kind": "char"}, {"kind": "byte"}, {"kind": "bpe", "vocab_size": 300}])
def test_lossless_vocabularies_decode_to_the_text(tmp_path, tokenizing):
    text = "héllo wörld, 日本\nsecond line\n" * 3
    result = prepared(corpus(tmp_path / "c", train=text, valid=text, test=text), tmp_path, **tokenizing)
    assert result.vocabulary.decode(result.tokens("val").tolist()) == text
    assert result.statistics("val").characters == len(text.encode() if tokenizing["kind"] == "byte" else text)


@real_data
def test_gpt2_tokens_equal_those_of_transformers(tmp_path):
    from transformers import GPT2Tokenizer

    text = "Hello world, it's 3,000 times well-known.\n\nA second line\n"
    folder = REAL / "vocab" / "gpt2"
    result = prepared(corpus(tmp_path / "c", valid=text), tmp_path, kind="pretrained", name=str(folder))
    reference = GPT2Tokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    lines = [reference(line)["input_ids"] for line in text.splitlines(keepends=True)]
    assert result.tokens("val").tolist() == [i for line in lines for i in line]
    assert result.vocabulary.size == 50_264  # 50,257 rounded up to a multiple of 8


def test_a_saved_vocabulary_loads_unchanged(tmp_path):
    vocabulary = prepared(corpus(tmp_path / "c"), tmp_path).vocabulary
    vocabulary.save(tmp_path / "v")
    assert load_vocabulary(tmp_path / "v").digest() == vocabulary.digest()
    assert load_vocabulary(tmp_path / "v").encode("a b nowhere") == vocabulary.encode("a b nowhere")


def test_changed_text_is_prepared_again_and_damaged_files_are_rejected(tmp_path):
    folder = corpus(tmp_path / "c")
    first = prepared(folder, tmp_path)
    assert prepared(folder, tmp_path).folder == first.folder
    corpus(folder, train="a b c d e f g\n")
    second = prepared(folder, tmp_path)
    assert second.folder != first.folder
    with (second.folder / "train.bin").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match="run `lmrecipes prepare` again"):
        find_prepared(second.folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [(b"fine\nalso\nb\xffd\n", r"train.txt:3 is not UTF-8"), (b"", "train.txt has no text"), (b" \n\n", "has no text")],
)
def test_unreadable_text_is_named_by_file_and_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        prepared(corpus(tmp_path / "c", train=text), tmp_path)


SCRIPT = """
import sys
from pathlib import Path
from lmrecipes.data import Folder, Tokenizing
from lmrecipes.data.prepared.cache import folder_for
from lmrecipes.data.prepared.tokenize_text import prepare
source, how = Folder(Path(sys.argv[1])), Tokenizing()
def report(split, done, total):
    print(split, flush=True)
    if sys.argv[3] == "stop" and split == "val":
        import os, signal
        os.kill(os.getpid(), signal.SIGKILL)
prepare(source, how, folder_for(source, how, "test", Path(sys.argv[2])), report)
"""


def start(folder, cache, mode="go"):
    return subprocess.Popen([warm.python(), "-c", SCRIPT, folder, cache, mode], stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_concurrent_preparations_share_the_work_and_a_killed_one_continues(tmp_path):
    folder = corpus(tmp_path / "c", train="a b c d\n" * 200_000, valid="a b\n" * 1000)
    killed = start(folder, tmp_path / "cache", "stop")
    killed.communicate()
    assert killed.returncode == -9
    (entry,) = (tmp_path / "cache").iterdir()
    assert not (entry / "manifest.json").exists()
    both = [start(folder, tmp_path / "cache") for _ in range(2)]
    outputs = [process.communicate()[0].split() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    worked = [output for output in outputs if output]
    assert len(worked) == 1
    assert "train" not in worked[0]  # what the killed one finished is not repeated
    assert find_prepared(entry).statistics("train").tokens == 5 * 200_000
