"""Text is read losslessly in bounded blocks, and preparing longer text needs no more memory."""

import io
import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmrecipes.data import Folder, Tokenizing
from lmrecipes.data.corpora.block_reader import text_blocks
from lmrecipes.data.prepared.tokenize_text import prepare


@given(text=st.text(alphabet="ab \néß日🙂", max_size=60), size=st.integers(8, 20))
def test_blocks_are_bounded_and_concatenate_to_the_text(text, size):
    blocks = list(text_blocks(io.BytesIO(text.encode()), size))
    assert "".join(block.decode() for block in blocks) == text
    assert all(0 < len(block) <= 3 * size for block in blocks)
    for before, after in pairwise(blocks):
        cut_in_a_word = not before.endswith(b"\n") and not after.startswith(b" ")
        assert not cut_in_a_word or (b" " not in before[1:] and len(before) > size)


short_words = st.sampled_from(["a", "bé", "日", " ", "\t"])


@settings(max_examples=60)
@given(lines=st.lists(st.lists(short_words, max_size=20).map(" ".join), max_size=6), line_end=st.booleans())
def test_tokens_do_not_depend_on_block_boundaries(lines, line_end, tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    text = "\n".join(["ab a", *lines]) + "\n" * line_end
    for split in ("train", "valid"):
        (folder / f"{split}.txt").write_bytes(text.encode())
    whole = text.split("\n")[: -1 if text.endswith("\n") else None]
    words = [word for line in whole for word in [*line.split(), "<eos>"]]

    class Small(Folder):
        def blocks(self, split):
            for block in text_blocks(io.BytesIO(text.encode()), 8):
                yield block.decode()

    result = prepare(Small(folder), Tokenizing(), folder / "words")
    for split in ("train", "val"):
        assert [result.vocabulary.words[i] for i in result.tokens(split)] == words
    characters = prepare(Small(folder), Tokenizing(kind="char"), folder / "characters")
    statistics = characters.statistics("val")
    assert (statistics.characters, statistics.words) == (len(text), len(words))
    assert characters.vocabulary.decode(characters.tokens("val")) == text


PREPARE = """
import resource, sys
from pathlib import Path
from lmrecipes.data import Folder, Tokenizing
from lmrecipes.data.prepared.tokenize_text import prepare
prepare(Folder(Path(sys.argv[1])), Tokenizing(kind=sys.argv[2]), Path(sys.argv[1]) / "prepared")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "line_end"), [("word", "\n"), ("char", " ")])
def test_memory_does_not_grow_with_the_text(tmp_path, kind, line_end):
    peaks = {}
    for megabytes in (1, 60):
        folder = tmp_path / str(megabytes)
        folder.mkdir()
        piece = line_end.join(["the quick", "brown fox", "jumps over", "the", "lazy", "dog"] * 2000) + line_end
        with (folder / "train.txt").open("w") as file:
            for _ in range(megabytes * 10**6 // len(piece)):
                file.write(piece)
        (folder / "valid.txt").write_text("the dog\n" if kind == "word" else "the dog")
        run = subprocess.run([sys.executable, "-c", PREPARE, folder, kind], capture_output=True, text=True, check=True)
        peaks[megabytes] = int(run.stdout) / 1024
    assert peaks[60] - peaks[1] < 30, peaks
