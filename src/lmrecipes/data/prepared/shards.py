"""Preparing a corpus in shards: by several processes or array jobs, resumable."""

from __future__ import annotations

import hashlib
import json
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from lmrecipes.config.arguments import class_of
from lmrecipes.data.corpora.document_files import Span
from lmrecipes.data.corpora.documents import Corpus, DocumentSource, Part
from lmrecipes.data.corpora.malformed import Flaws
from lmrecipes.data.corpora.text_source import SPLITS
from lmrecipes.data.prepared.cache import Vocabularies
from lmrecipes.data.prepared.corpus import Prepared, check_unchanged, find_prepared, token_dtype, write_manifest
from lmrecipes.data.prepared.examples import join, writing
from lmrecipes.data.prepared.lock import find_or_make, preparing
from lmrecipes.data.prepared.progress_bar import Progress
from lmrecipes.data.tokenizers.base import FILE, Vocabulary
from lmrecipes.data.tokenizers.loading import load_vocabulary
from lmrecipes.runtime.atomic_write import write_text
from lmrecipes.runtime.file_lock import claimed, locked
from lmrecipes.runtime.open_file import read_json

# Names of a part's files: finished, or temporary ones with the id of the writing process.
_PART_FILE = re.compile(rf"\.?\d{{6,}}\.(claim|json|({'|'.join(SPLITS)})\.(tokens|lengths|seconds))(\.\d+(-\d+)?)?")

Make = Callable[[Sequence[str], random.Random], Iterable[tuple[Sequence[int], int]]]
# Objectives of plans by earlier versions, which do not name theirs, by the kind of vocabulary.
_OBJECTIVES = {
    "wordpiece": "lmrecipes.data.objectives.masked_lm.MaskedLM",
    "sentencepiece": "lmrecipes.data.objectives.span_corruption_lm.SpanCorruptionLM",
}


@dataclass(frozen=True)
class Share:
    """One of several equal shares of the parts."""

    number: int
    """Counted from 0."""
    of: int
    """Number of shares."""

    @classmethod
    def parse(cls, text: str) -> Share:
        """A share as given on the command line, 1/8 to 8/8.

        Raises:
            ValueError: for anything else.
        """
        number, _, of = text.partition("/")
        if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise ValueError(f"--shard is {text!r}; give which of how many, such as 1/8 to 8/8")
        return cls(int(number) - 1, int(of))


ALL = Share(0, 1)


class VocabularySettings(Vocabularies, Protocol):
    """Which vocabulary a corpus gets: `WordPieceSettings` or `SentencePieceSettings`."""

    def make(self, sample: Callable[[int], Iterable[str]]) -> Vocabulary:
        """The vocabulary, learned from texts of so many characters at most if it is not read."""


def prepare_examples(
    corpus: Corpus,
    settings: VocabularySettings,
    folder: Path,
    progress: Progress = lambda *_: None,
    vocabulary: Vocabulary | None = None,
    *,
    objective: str,
    workers: int = 1,
    share: Share = ALL,
) -> Prepared | None:
    """Prepares a corpus or finds it prepared; None if other shares have unfinished parts.

    Any number of processes may run at once, on any machines that share the file system, and any may be killed: each
    claims unclaimed parts, and the one that finds all parts finished joins them.

    Args:
        corpus: the documents.
        settings: which vocabulary to make.
        folder: where to put the result.
        progress: called with "parts", finished parts, all parts.
        vocabulary: used instead of making one.
        objective: class path of the objective, whose `maker` turns documents into examples.
        workers: processes.
        share: of the parts to do.

    Raises:
        ValueError: if the text cannot be read, or changes meanwhile.
    """

    def begin() -> _Plan:
        plan = _Plan.read(folder) or _Plan.make(corpus, folder, objective)
        if not (folder / "vocabulary" / FILE).is_file():
            (vocabulary or settings.make(partial(_sample, plan))).save(folder / "vocabulary")
        return plan

    plan = find_or_make(lambda: find_prepared(folder), begin, preparing(folder))
    if isinstance(plan, Prepared):
        return plan
    with _helpers(folder, share, min(workers, len(plan.part_numbers(share))) - 1):
        for wait in (False, True):
            plan.work(share, wait, progress)
    if plan.n_done() < len(plan.parts) and find_prepared(folder) is None:
        return None
    with locked(folder / ".lock"):
        prepared = find_prepared(folder)
        if prepared is None:
            return _join(plan, corpus, settings)
        # A process that waited for a part may have created its claim again after the parts were joined.
        plan.discard()
        return prepared


class _Plan:
    """The parts of a corpus, determined once, so that every process has the same."""

    def __init__(self, folder: Path, content: dict[str, Any]) -> None:
        self.folder, self.content = folder, content
        settings = content["corpus"]
        self.corpus = Corpus(**settings | {"sources": [DocumentSource(**source) for source in settings["sources"]]})
        self.parts = [Part(source, [Span(*span) for span in spans]) for source, spans in content["parts"]]

    @classmethod
    def read(cls, folder: Path) -> _Plan | None:
        """The stored plan, if there is one."""
        path = folder / "plan.json"
        return cls(folder, read_json(path)) if path.is_file() else None

    @classmethod
    def make(cls, corpus: Corpus, folder: Path, objective: str) -> _Plan:
        """Determines and stores the plan."""
        corpus = replace(corpus, commits=[source.commit() for source in corpus.sources])
        content = {
            "corpus": asdict(corpus),
            "described": corpus.describe(),
            "objective": objective,
            "parts": corpus.parts(),
        }
        _write_json(folder / "plan.json", content)
        return cls(folder, json.loads(json.dumps(content)))

    def discard(self) -> None:
        """Removes the plan and the parts, but no other files."""
        (self.folder / "plan.json").unlink(missing_ok=True)
        for path in sorted((self.folder / "parts").glob("*")):
            if _PART_FILE.fullmatch(path.name):
                path.unlink(missing_ok=True)
        with suppress(OSError):
            (self.folder / "parts").rmdir()

    def part_numbers(self, share: Share) -> range:
        """Numbers of the parts of a share."""
        return range(share.number, len(self.parts), share.of)

    def stem(self, number: int, suffix: str) -> Path:
        """Path of one of a part's files."""
        return self.folder / "parts" / f"{number:06}.{suffix}"

    def done(self, number: int) -> bool:
        """Whether a part is finished, or all have been joined."""
        return self.stem(number, "json").is_file() or (self.folder / "manifest.json").is_file()

    def n_done(self) -> int:
        """Number of finished parts."""
        return sum(self.stem(number, "json").is_file() for number in range(len(self.parts)))

    def work(self, share: Share, wait: bool, progress: Progress = lambda *_: None) -> None:
        """Does the unfinished parts of a share.

        Args:
            share: of the parts.
            wait: whether to wait for parts of other processes, and do them if those fail, instead of skipping them.
            progress: called as in `prepare_examples`.
        """
        unfinished = [number for number in self.part_numbers(share) if not self.done(number)]
        if not unfinished:
            return
        vocabulary = load_vocabulary(self.folder / "vocabulary")
        objective = self.content.get("objective") or _OBJECTIVES[vocabulary.kind]
        make = class_of(objective).maker(vocabulary, self.corpus.seq_len)
        (self.folder / "parts").mkdir(exist_ok=True)
        for number in unfinished:
            with claimed(self.stem(number, "claim"), wait=wait) as is_mine:
                if is_mine and not self.done(number):
                    self._write(number, make, vocabulary.size)
            progress("parts", self.n_done(), len(self.parts))

    def _write(self, number: int, make: Make, vocab_size: int) -> None:
        dtype = token_dtype(vocab_size)
        documents = dict.fromkeys(SPLITS, 0)
        characters = dict.fromkeys(SPLITS, 0)
        flaws = Flaws(self.corpus.sources[self.parts[number].source].on_malformed)
        with ExitStack() as stack:
            writers = {split: stack.enter_context(writing(self.stem(number, split), dtype)) for split in SPLITS}
            for paragraphs in self.corpus.read(self.parts[number], flaws):
                text = "\n".join(paragraphs)
                split, generator = _assigned(text, self.corpus)
                documents[split] += 1
                characters[split] += len(text)
                for tokens, second in make(paragraphs, generator):
                    writers[split].add(tokens, second)
        splits = {
            split: {
                "examples": writer.examples,
                "tokens": writer.tokens,
                "documents": documents[split],
                "characters": characters[split],
            }
            for split, writer in writers.items()
        }
        _write_json(self.stem(number, "json"), {"splits": splits, "flaws": flaws.content()})


def _assigned(text: str, corpus: Corpus) -> tuple[str, random.Random]:
    """The split of a document and its random generator, which depend on its text and the seed alone."""
    salt = (corpus.seed % 2**64).to_bytes(8)
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, salt=salt).digest()
    draw = int.from_bytes(digest[:8]) / 2**64
    split = "val" if draw < corpus.held_out else "test" if draw < 2 * corpus.held_out else "train"
    return split, random.Random(digest[8:])


def _sample(plan: _Plan, characters: int) -> Iterator[str]:
    """Training documents from the beginning of every part, at most `characters` characters in all."""
    room = characters
    for i, part in enumerate(plan.parts):
        share = room // (len(plan.parts) - i)
        for paragraphs in plan.corpus.read(part, Flaws(plan.corpus.sources[part.source].on_malformed)):
            text = "\n".join(paragraphs)
            if _assigned(text, plan.corpus)[0] != "train":
                continue
            yield text[:share]
            share, room = share - len(text), room - min(len(text), share)
            if share <= 0:
                break


def _join(plan: _Plan, corpus: Corpus, settings: VocabularySettings) -> Prepared:
    folder = plan.folder

    def discard() -> None:
        plan.discard()
        (folder / "vocabulary" / FILE).unlink(missing_ok=True)

    check_unchanged(corpus, plan.content["described"], "text of data.sources", discard)
    vocabulary = load_vocabulary(folder / "vocabulary")
    infos = [read_json(plan.stem(number, "json")) for number in range(len(plan.parts))]
    splits: dict[str, Any] = {}
    for split in SPLITS:
        counts = [info["splits"][split] for info in infos]
        examples, documents = [0] * len(corpus.sources), [0] * len(corpus.sources)
        for part, count in zip(plan.parts, counts, strict=True):
            examples[part.source] += count["examples"]
            documents[part.source] += count["documents"]
        splits[split] = {
            **{name: sum(count[name] for count in counts) for name in ("tokens", "documents", "characters")},
            "dtype": token_dtype(vocabulary.size).name,
            "examples": examples,
            "documents_of_sources": documents,
        }
    for i, source in enumerate(corpus.sources):
        if not any(split["examples"][i] for split in splits.values()):
            raise ValueError(f"source {source.name} is empty: {source.path or source.repository} has no text")
    for split, info in splits.items():
        info["files"] = join([plan.stem(number, split) for number in range(len(plan.parts))], folder, split)
    entries = {"resolved": {"commits": plan.corpus.commits}, "splits": splits, "flaws": _flaws(plan, infos)}
    prepared = write_manifest(folder, plan.content["described"], settings, vocabulary, **entries)
    plan.discard()
    return prepared


def _flaws(plan: _Plan, infos: Sequence[dict[str, Any]]) -> dict[str, dict[str, list[Any]]]:
    """Number and first location of each kind of malformed lines, by source."""
    flaws: dict[str, dict[str, list[Any]]] = {}
    for part, info in zip(plan.parts, infos, strict=True):
        for kind, (number, first) in info["flaws"].items():
            of_source = flaws.setdefault(plan.corpus.sources[part.source].name, {})
            of_source.setdefault(kind, [0, first])[0] += number
    return flaws


def _write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2))


@contextmanager
def _helpers(folder: Path, share: Share, n: int) -> Iterator[None]:
    """Worker processes for a share, which end with this one.

    Their errors need no report: this process runs into the same error when it comes to that part.
    """
    module, arguments = "lmrecipes.data.prepared.shard_worker", (str(folder), str(share.number), str(share.of))
    with ExitStack() as stack:
        for _ in range(n):
            helper = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            stack.callback(_end, helper)
        yield


def _end(helper: subprocess.Popen[bytes]) -> None:
    assert helper.stdin is not None
    # Its unfinished part was done by another process, or this process failed.
    helper.kill()
    helper.stdin.close()
    helper.wait()


def help_with(folder: Path, share: Share) -> None:
    """Works on unclaimed parts until none remains."""
    plan = _Plan.read(folder)
    if plan is not None:
        plan.work(share, wait=False)
