"""Preparing a corpus in shards: by several processes or array jobs, resumable."""

from __future__ import annotations

import hashlib
import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lmrecipes.config.arguments import class_of
from lmrecipes.data.corpora.document_files import Span
from lmrecipes.data.corpora.documents import Corpus, DocumentSource, Part
from lmrecipes.data.corpora.malformed import Flaws
from lmrecipes.data.corpora.text_source import SPLITS
from lmrecipes.data.prepared.cache import Vocabularies
from lmrecipes.data.prepared.corpus import Prepared, find_prepared
from lmrecipes.data.prepared.examples import join, writing
from lmrecipes.data.prepared.lock import claimed, locked, preparing
from lmrecipes.data.prepared.progress_bar import Progress
from lmrecipes.data.tokenizers.base import FILE, Vocabulary
from lmrecipes.data.tokenizers.loading import load_vocabulary
from lmrecipes.runtime.atomic_write import write_text

# Names of a part's files, finished or with the writing process's id.
_OF_A_PART = re.compile(rf"\.?\d{{6,}}\.(claim|json|({'|'.join(SPLITS)})\.(tokens|lengths|seconds))(\.\d+(-\d+)?)?")


Make = Callable[[Sequence[str], random.Random], Iterable[tuple[Sequence[int], int]]]
# Objectives of plans by earlier versions, which do not name theirs.
_OBJECTIVES = {
    "wordpiece": "lmrecipes.data.objectives.masked_lm.MaskedLM",
    "sentencepiece": "lmrecipes.data.objectives.span_corruption_lm.SpanCorruptionLM",
}


@dataclass(frozen=True)
class Share:
    """Which of the parts are to be done here."""

    number: int
    """From 0 on."""
    of: int
    """Shares in all."""

    @classmethod
    def parse(cls, text: str) -> Share:
        """A share as written: 1/8 to 8/8.

        Raises:
            ValueError: if it is not written so.
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
    *,
    objective: str,
    given: Vocabulary | None = None,
    workers: int = 1,
    share: Share = ALL,
) -> Prepared | None:
    """Prepares a corpus or finds it prepared; None if other shares have parts left to do.

    Any number of processes may be started at once, here or on other machines with the same file system, and any may be
    killed: each takes parts that no other has, and whoever finds all of them done joins them.

    Args:
        corpus: the documents.
        settings: which vocabulary to make.
        folder: where to put it all.
        progress: called with a title, parts done, parts in all.
        objective: class path of the objective, whose `maker` turns documents into examples.
        given: a vocabulary to use instead of making one.
        workers: processes.
        share: which of the parts to do.

    Raises:
        ValueError: if the text cannot be read, or changes meanwhile.
    """
    found = find_prepared(folder)
    if found is not None:
        return found
    with preparing(folder):
        found = find_prepared(folder)
        if found is not None:
            return found
        plan = _Plan.read(folder) or _Plan.make(corpus, folder, objective)
        if not (folder / "vocabulary" / FILE).is_file():
            vocabulary = given or settings.make(partial(_sample, plan))
            vocabulary.save(folder / "vocabulary")
    with _helpers(folder, share, min(workers, len(plan.own(share))) - 1):
        for patient in (False, True):
            plan.work(share, patient, progress)
    if plan.n_done() < len(plan.parts) and find_prepared(folder) is None:
        return None
    with locked(folder / ".lock"):
        found = find_prepared(folder)
        if found is None:
            return _join(plan, corpus, settings)
        # Who waited for a part may have made its claim anew behind the process that joined them.
        plan.discard()
        return found


class _Plan:
    """The parts of a corpus, settled once, so that every process has the same."""

    def __init__(self, folder: Path, content: dict[str, Any]) -> None:
        self.folder, self.content = folder, content
        settings = content["corpus"]
        self.corpus = Corpus(**settings | {"sources": [DocumentSource(**source) for source in settings["sources"]]})
        self.parts = [Part(source, [Span(*span) for span in spans]) for source, spans in content["parts"]]

    @classmethod
    def read(cls, folder: Path) -> _Plan | None:
        """The stored plan, if there is one."""
        path = folder / "plan.json"
        return cls(folder, json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None

    @classmethod
    def make(cls, corpus: Corpus, folder: Path, objective: str) -> _Plan:
        """Settles and keeps the plan."""
        corpus = replace(corpus, commits=[source.commit() for source in corpus.sources])
        described = corpus.describe()
        content = {
            "corpus": asdict(corpus),
            "described": described,
            "objective": objective,
            "parts": corpus.parts(),
        }
        _write_json(folder / "plan.json", content)
        plan = cls.read(folder)
        assert plan is not None
        return plan

    def discard(self) -> None:
        """Removes the plan and the parts, and whatever else is there it leaves."""
        (self.folder / "plan.json").unlink(missing_ok=True)
        for path in sorted((self.folder / "parts").glob("*")):
            if _OF_A_PART.fullmatch(path.name):
                path.unlink(missing_ok=True)
        with suppress(OSError):
            (self.folder / "parts").rmdir()

    def own(self, share: Share) -> range:
        """Numbers of the parts of a share."""
        return range(share.number, len(self.parts), share.of)

    def stem(self, number: int, what: str) -> Path:
        """Where something of a part is."""
        return self.folder / "parts" / f"{number:06}.{what}"

    def done(self, number: int) -> bool:
        """Whether a part is finished, or all are and were joined."""
        return self.stem(number, "json").is_file() or (self.folder / "manifest.json").is_file()

    def n_done(self) -> int:
        """Finished parts."""
        return sum(self.stem(number, "json").is_file() for number in range(len(self.parts)))

    def work(self, share: Share, patient: bool, progress: Progress = lambda *_: None) -> None:
        """Does the parts of a share that are not done.

        Args:
            share: which parts.
            patient: whether to wait for other processes' parts, and do them if they fail, instead of leaving them.
            progress: called as in `prepare_examples`.
        """
        left = [number for number in self.own(share) if not self.done(number)]
        if not left:
            return
        vocabulary = load_vocabulary(self.folder / "vocabulary")
        objective = self.content.get("objective") or _OBJECTIVES[vocabulary.kind]
        make = class_of(objective).maker(vocabulary, self.corpus.seq_len)
        (self.folder / "parts").mkdir(exist_ok=True)
        for number in left:
            with claimed(self.stem(number, "claim"), wait=patient) as own:
                if own and not self.done(number):
                    self._write(number, make, vocabulary.size)
            progress("parts", self.n_done(), len(self.parts))

    def _write(self, number: int, make: Make, vocab_size: int) -> None:
        dtype = np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)
        documents = dict.fromkeys(SPLITS, 0)
        characters = dict.fromkeys(SPLITS, 0)
        flaws = Flaws(self.corpus.sources[self.parts[number].source].on_malformed)
        with ExitStack() as stack:
            writers = {split: stack.enter_context(writing(self.stem(number, split), dtype)) for split in SPLITS}
            for paragraphs in self.corpus.read(self.parts[number], flaws):
                text = "\n".join(paragraphs)
                split, generator = _lot(text, self.corpus)
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


def _lot(text: str, corpus: Corpus) -> tuple[str, random.Random]:
    """The split of a document, and its randomness: by its text alone, wherever and by whomever it is read."""
    lot = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, salt=_salt(corpus.seed)).digest()
    place = int.from_bytes(lot[:8]) / 2**64
    split = "val" if place < corpus.held_out else "test" if place < 2 * corpus.held_out else "train"
    return split, random.Random(lot[8:])


def _salt(seed: int) -> bytes:
    return (seed % 2**64).to_bytes(8)


def _sample(plan: _Plan, characters: int) -> Iterator[str]:
    """Training documents from the beginning of every part, so many characters in all at most."""
    room = characters
    for i, part in enumerate(plan.parts):
        share = room // (len(plan.parts) - i)
        for paragraphs in plan.corpus.read(part, Flaws(plan.corpus.sources[part.source].on_malformed)):
            text = "\n".join(paragraphs)
            if _lot(text, plan.corpus)[0] != "train":
                continue
            yield text[:share]
            share, room = share - len(text), room - min(len(text), share)
            if share <= 0:
                break


def _join(plan: _Plan, corpus: Corpus, settings: VocabularySettings) -> Prepared:
    folder = plan.folder
    if corpus.describe() != plan.content["described"]:
        plan.discard()
        (folder / "vocabulary" / FILE).unlink(missing_ok=True)
        raise ValueError("text of data.sources changed while it was being prepared; prepare it again")
    vocabulary = load_vocabulary(folder / "vocabulary")
    abouts = [json.loads(plan.stem(number, "json").read_text(encoding="utf-8")) for number in range(len(plan.parts))]
    counts = [about["splits"] for about in abouts]
    for i, source in enumerate(corpus.sources):
        if not sum(
            about["examples"] for n, of in enumerate(counts) if plan.parts[n].source == i for about in of.values()
        ):
            raise ValueError(f"source {source.name} is empty: {source.path or source.repository} has no text")
    splits = {}
    for split in SPLITS:
        files = join([plan.stem(number, split) for number in range(len(plan.parts))], folder, split)
        of_split = [of[split] for of in counts]
        splits[split] = {
            "tokens": sum(about["tokens"] for about in of_split),
            "dtype": "uint16" if vocabulary.size <= 1 << 16 else "uint32",
            "documents": sum(about["documents"] for about in of_split),
            "characters": sum(about["characters"] for about in of_split),
            "examples": [
                sum(about["examples"] for part, about in zip(plan.parts, of_split, strict=True) if part.source == i)
                for i in range(len(corpus.sources))
            ],
            "files": files,
        }
    manifest = {
        "source": plan.content["described"],
        "resolved": {"commits": plan.corpus.commits},
        "tokenizing": settings.describe(),
        "vocabulary": vocabulary.digest(),
        "vocab_size": vocabulary.size,
        "spells": vocabulary.spells,
        "splits": splits,
        "flaws": _flaws(plan, abouts),
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    _write_json(folder / "manifest.json", manifest)
    plan.discard()
    return Prepared(folder, manifest)


def _flaws(plan: _Plan, abouts: Sequence[dict[str, Any]]) -> dict[str, dict[str, list[Any]]]:
    """What was wrong with the lines of each source."""
    found: dict[str, dict[str, list[Any]]] = {}
    for part, about in zip(plan.parts, abouts, strict=True):
        for kind, (number, first) in about["flaws"].items():
            of_source = found.setdefault(plan.corpus.sources[part.source].name, {})
            of_source.setdefault(kind, [0, first])[0] += number
    return found


def _write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2))


@contextmanager
def _helpers(folder: Path, share: Share, n: int) -> Iterator[None]:
    """Worker processes for a share, which end with this one.

    What makes one of them fail, this process meets when it comes to that part, and says it.
    """
    command = [
        sys.executable,
        "-m",
        "lmrecipes.data.prepared.shard_worker",
        str(folder),
        str(share.number),
        str(share.of),
    ]
    with ExitStack() as stack:
        for _ in range(n):
            helper = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            stack.callback(_end, helper)
        yield


def _end(helper: subprocess.Popen[bytes]) -> None:
    assert helper.stdin is not None
    # Unfinished parts were taken by another process, or this process failed.
    helper.kill()
    helper.stdin.close()
    helper.wait()


def help_with(folder: Path, share: Share) -> None:
    """Works on unclaimed parts until none is left."""
    plan = _Plan.read(folder)
    if plan is not None:
        plan.work(share, patient=False)
