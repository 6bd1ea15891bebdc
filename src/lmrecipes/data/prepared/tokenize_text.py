"""Tokenizing a corpus once, into files that training memory-maps."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmrecipes.data.corpora.text_source import SPLITS, Source
from lmrecipes.data.prepared.corpus import Prepared, check_unchanged, find_prepared, token_dtype, write_manifest
from lmrecipes.data.prepared.lock import find_or_make, preparing
from lmrecipes.data.prepared.progress_bar import Progress
from lmrecipes.data.tokenizers.base import Vocabulary
from lmrecipes.data.tokenizers.bpe import train_bpe
from lmrecipes.data.tokenizers.characters import CharacterVocabulary, code_points
from lmrecipes.data.tokenizers.loading import load_vocabulary
from lmrecipes.data.tokenizers.text_config import Tokenizing, load_subwords
from lmrecipes.data.tokenizers.words import EOS, UNK, WordVocabulary, corpus_words
from lmrecipes.runtime.atomic_write import replacing, write_text
from lmrecipes.runtime.open_file import read_json


def prepare(
    source: Source,
    settings: Tokenizing,
    folder: Path,
    progress: Progress = lambda *_: None,
    vocabulary: Vocabulary | None = None,
    splits: Sequence[str] = SPLITS,
) -> Prepared:
    """Tokenizes a corpus or finds it tokenized; of two processes one works and the other waits.

    Args:
        source: the text.
        settings: which vocabulary to make.
        folder: where to put it.
        progress: called with split, characters done, total bytes (or None).
        vocabulary: used instead of making one.
        splits: to tokenize, if the source has them; a vocabulary is made from train.

    Raises:
        ValueError: if a split has no text, cannot be read, or changes meanwhile.
    """

    def make() -> Prepared:
        for name in (*SPLITS, "provisional", "manifest", "state"):
            (folder / f"{name}.part").unlink(missing_ok=True)
        described = source.describe()
        writer = _Writer(source, folder, progress)
        used = vocabulary or writer.vocabulary(settings)
        used.save(folder / "vocabulary")
        for split in splits:
            if source.has(split):
                writer.write(split, used)
        check_unchanged(source, described, source.place(splits[0]), writer.discard_state)
        entries = {"resolved": source.resolved(), "splits": writer.splits}
        prepared = write_manifest(folder, described, settings, used, **entries)
        writer.discard_state()
        return prepared

    return find_or_make(lambda: find_prepared(folder), make, preparing(folder))


class _Writer:
    """Writes the splits one by one, except those that an earlier, interrupted preparation finished."""

    def __init__(self, source: Source, folder: Path, progress: Progress) -> None:
        self.source, self.folder, self.progress = source, folder, progress
        self._state = folder / "state.json"
        try:
            self.splits: dict[str, Any] = read_json(self._state) if self._state.is_file() else {}
        except ValueError:
            raise ValueError(f"{self._state} cannot be read; move {folder} away and prepare again") from None

    def discard_state(self) -> None:
        self._state.unlink(missing_ok=True)

    def _blocks(self, split: str) -> Iterator[str]:
        done, total, blank = 0, self.source.size(split), True
        for block in self.source.blocks(split):
            yield block
            done += len(block)
            blank = blank and not block.strip()
            self.progress(split, done, total)
        if blank:
            raise ValueError(f"{self.source.place(split)} has no text")

    def _lines(self, split: str) -> Iterator[str]:
        """Blocks, of which the last ends with a newline too."""
        block = "\n"
        for block in self._blocks(split):
            yield block
        if not block.endswith("\n"):
            yield "\n"

    def vocabulary(self, tokenizing: Tokenizing) -> Vocabulary:
        """Makes the vocabulary; for counted words the training text is tokenized in the same pass."""
        if self.splits:
            return load_vocabulary(self.folder / "vocabulary")
        if tokenizing.kind == "pretrained":
            assert tokenizing.name is not None
            return load_subwords(tokenizing.name)
        if tokenizing.kind == "bpe":
            return train_bpe(self._blocks("train"), tokenizing.vocab_size)
        if tokenizing.kind in ("char", "byte"):
            return self._count_characters(tokenizing.kind)
        if tokenizing.vocab_file is not None:
            return _words_from_file(tokenizing)
        return self._count_words(tokenizing)

    def _count_characters(self, kind: str) -> CharacterVocabulary:
        """Symbols of all splits, as published for enwik8 and text8."""
        counts: dict[int, int] = defaultdict(int)
        for split in SPLITS:
            for block in self._blocks(split) if self.source.has(split) else ():
                symbols, numbers = np.unique(code_points(block, kind), return_counts=True)
                for symbol, number in zip(symbols.tolist(), numbers.tolist(), strict=True):
                    counts[symbol] += number
        return CharacterVocabulary(sorted(counts, key=lambda s: (-counts[s], s)), kind=kind)

    def _count_words(self, tokenizing: Tokenizing) -> WordVocabulary:
        """Counts words and writes training tokens under provisional ids, renumbered by frequency at the end."""
        line_end = _line_end(tokenizing)
        ids: defaultdict[str, int] = defaultdict(int)
        ids.default_factory = ids.__len__  # a word's id is the number of words before it
        tally = _Tally(words=False)
        temporary = self.folder / "provisional.part"
        with temporary.open("wb") as file:
            for block in self._lines("train"):
                words = corpus_words(block, tokenizing.lower_case, line_end)
                file.write(np.fromiter(map(ids.__getitem__, words), dtype=np.uint32, count=len(words)).data)
                tally.add(block)
        counts = np.zeros(len(ids), dtype=np.int64)
        for part in _parts(temporary):
            counts += np.bincount(part, minlength=len(ids))
        # Dropped words map to <unk>, so it must be kept even if the text's own <unk> is rare.
        has_unknown = UNK in ids and counts[ids[UNK]] >= tokenizing.min_freq
        needs_unknown = tokenizing.min_freq > 1 or not tokenizing.sentence_marks
        special = [*dict.fromkeys(line_end)] + ([UNK] if needs_unknown and not has_unknown else [])
        # Most frequent first; ties in order of first occurrence.
        order = np.argsort(-counts, kind="stable")
        seen = list(ids)
        words = special + [
            seen[i] for i in order.tolist() if seen[i] not in special and counts[i] >= tokenizing.min_freq
        ]
        vocabulary = WordVocabulary(
            words,
            lower_case=tokenizing.lower_case,
            wikitext_style=tokenizing.wikitext_style,
            line_end=line_end,
        )
        final = {word: i for i, word in enumerate(words)}
        table = np.fromiter((final.get(word, final.get(UNK, 0)) for word in seen), dtype=np.uint32, count=len(seen))
        vocabulary.save(self.folder / "vocabulary")
        self._store("train", (table[part] for part in _parts(temporary)), vocabulary, tally)
        temporary.unlink()
        return vocabulary

    def write(self, split: str, vocabulary: Vocabulary) -> None:
        """Tokenizes one split.

        Raises:
            ValueError: for a word or character that the vocabulary lacks, with file and line.
        """
        if split in self.splits:
            return
        tally = _Tally(words=vocabulary.kind != "word")
        blocks = self._lines(split) if vocabulary.kind == "word" else self._blocks(split)

        def encoded() -> Iterator[Any]:
            line = 1
            for block in blocks:
                tally.add(block)
                try:
                    yield vocabulary.encode_block(block)
                except ValueError as error:
                    line += _lines_before_error(block, vocabulary)
                    raise ValueError(f"{self.source.place(split)}:{line}: {error}") from None
                line += block.count("\n")

        self._store(split, encoded(), vocabulary, tally)

    def _store(self, split: str, blocks: Iterator[Any], vocabulary: Vocabulary, tally: _Tally) -> None:
        dtype = token_dtype(vocabulary.size)
        n_tokens = 0
        part = self.folder / f"{split}.part"
        with replacing(self.folder / f"{split}.bin", "wb", part=part, durable=True) as file:
            for block in blocks:
                file.write(block.astype(dtype).data)
                n_tokens += len(block)
        words = n_tokens if vocabulary.kind == "word" else tally.words
        # In a byte vocabulary a character is one byte, as enwik8 is reported.
        characters = n_tokens if vocabulary.kind in ("char", "byte") else tally.characters
        self.splits[split] = {
            "tokens": n_tokens,
            "dtype": dtype.name,
            "words": words,
            "characters": characters,
            "lines": tally.lines,
        }
        write_text(self._state, json.dumps(self.splits), part=self.folder / "state.part")


class _Tally:
    """Counts characters, and optionally words."""

    def __init__(self, words: bool) -> None:
        self._counts_words, self._words, self._last = words, 0, "\n"
        self.characters = self._newlines = 0

    def add(self, block: str) -> None:
        if not block:
            return
        self.characters += len(block)
        newlines = block.count("\n")
        self._newlines += newlines
        if self._counts_words:
            splits_word = not self._last.isspace() and not block[0].isspace()
            self._words += len(block.split()) + newlines - splits_word
        self._last = block[-1]

    @property
    def lines(self) -> int:
        """Lines, the last one even without a newline."""
        return self._newlines + (self._last != "\n")

    @property
    def words(self) -> int:
        """Words and line ends, counting the last line's even without a newline."""
        return self._words + (self._last != "\n")


def _parts(path: Path, size: int = 1 << 20) -> Iterator[Any]:
    with path.open("rb") as file:
        while len(part := np.fromfile(file, dtype=np.uint32, count=size)):
            yield part


def _lines_before_error(block: str, vocabulary: Vocabulary) -> int:
    for number, line in enumerate(block.split("\n")):
        try:
            vocabulary.encode_block(line)
        except ValueError:
            return number
    return 0


def _line_end(tokenizing: Tokenizing) -> tuple[str, ...]:
    """Tokens of a newline: <eos>, or with sentence marks the end of one sentence and the start of the next."""
    return ("<S>", "<S>") if tokenizing.sentence_marks else (EOS,)


def _words_from_file(tokenizing: Tokenizing) -> WordVocabulary:
    words = list(dict.fromkeys(tokenizing.listed_words()))
    line_end = _line_end(tokenizing)
    words = [mark for mark in dict.fromkeys(line_end) if mark not in words] + words
    return WordVocabulary(
        words, lower_case=tokenizing.lower_case, wikitext_style=tokenizing.wikitext_style, line_end=line_end
    )
