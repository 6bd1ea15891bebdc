"""A small text instead of a corpus, for a rehearsal."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path

from lmrecipes.data.corpora.text_source import NAMES, Source

_LINES = {"train": 500, "val": 80, "test": 80}
_PER_LINE = 12
# Of the recipe's own text: enough for a few steps, and quick to tokenize.
_CHARACTERS = 30_000


def write_synthetic(folder: Path, words: Sequence[str] = ()) -> str:
    """Writes lines of random words, all of which occur in the training text.

    Args:
        folder: where train.txt, valid.txt and test.txt go.
        words: to choose from; left out, synthetic lower-case words of two syllables.

    Returns:
        A description of the text.
    """
    generator = random.Random(0)
    vocabulary = list(words) or [first + second for first in _SYLLABLES for second in _SYLLABLES]
    for split, n_lines in _LINES.items():
        lines = [" ".join(generator.choices(vocabulary, k=_PER_LINE)) for _ in range(n_lines)]
        if split == "train":
            lines += [" ".join(vocabulary[i : i + _PER_LINE]) for i in range(0, len(vocabulary), _PER_LINE)]
        _write(folder, split, lines)
    return "synthetic text"


_SYLLABLES = [consonant + vowel for consonant in "bdfgklmn" for vowel in "aeiou"][::4]


def write_sample(folder: Path, source: Source) -> str:
    """Writes the beginning of a training text as every split, so that all words are known.

    Raises:
        ValueError: if training or validation text is missing or cannot be read.
    """
    for split in ("train", "val"):
        source.require(split)
    lines: list[str] = []
    for block in source.blocks("train"):
        lines += block.splitlines()
        if sum(map(len, lines)) >= _CHARACTERS:
            break
    sample = "\n".join(lines)[:_CHARACTERS]
    # Cut at a space: half a word would be a new word.
    text = sample.rpartition(" ")[0] or sample
    for split in _LINES:
        _write(folder, split, text.split("\n"))
    return "a sample of its own text"


def _write(folder: Path, split: str, lines: Iterable[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{NAMES[split][0]}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
