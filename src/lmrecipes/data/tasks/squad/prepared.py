"""Questions and what a model sees of them on disk, prepared once and mapped into memory."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast

from numpy.typing import NDArray

from lmrecipes.data.corpora.hub import local_file
from lmrecipes.data.embedded.squad import make_squad
from lmrecipes.data.prepared.lock import preparing
from lmrecipes.data.tasks.squad.files import Answer, OnMalformed, Question, SquadFile, read_content, read_squad
from lmrecipes.data.tokenizers.base import Vocabulary
from lmrecipes.runtime.atomic_write import write_text

# Other arrays, other embedded questions or another way of cutting: other number.
_VERSION = 6
_EMBEDDED = "embedded:"
_ANSWERED = "1.1/"
# Who writes answers must learn to copy first, and takes more.
_PASSAGES = {"train": 4000, "val": 100, "test": 100, "1.1/train": 12_000, "1.1/val": 100, "1.1/test": 100}


class Pieces(Protocol):
    """What a model sees of questions, piece by piece: `Windows` or `TextPairs`."""

    @property
    def lengths(self) -> NDArray[Any]:
        """Tokens of each piece."""

    def save(self, folder: Path) -> list[Path]:
        """Writes them to a folder; returns the files."""


class Layout(Protocol):
    """How questions become pieces: `Windowing` or `TextLayout`."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def seq_len(self) -> int:
        """Tokens of a piece at most."""

    def cut(self, questions: Sequence[Question], vocabulary: Any, progress: Callable[[int, int], None] = ...) -> Pieces:
        """The pieces of questions."""

    def load(self, folder: Path) -> Pieces:
        """What was saved in a folder."""


@dataclass(frozen=True)
class PreparedSquad:
    """The questions of a file and their pieces."""

    pieces: Any
    """`Pieces`, of the kind that the layout makes."""
    manifest: Mapping[str, Any]
    folder: Path | None = None
    given: tuple[Question, ...] = ()

    @cached_property
    def questions(self) -> Sequence[Question]:
        """The questions, in the order of the file."""
        if self.folder is None:
            return self.given
        content = json.loads((self.folder / "questions.json").read_text(encoding="utf-8"))
        contexts = content["contexts"]
        return [
            Question(id, question, contexts[context], tuple(Answer(*a) for a in answers), impossible, title, language)
            for id, question, context, answers, impossible, title, language in content["questions"]
        ]


@dataclass(frozen=True)
class SquadSource:
    """Where questions come from."""

    path: str
    """A file in SQuAD format (.json, .parquet, also .gz), `hf://datasets/OWNER/NAME/FILE` on the Hugging Face hub, or
    `embedded:train`, `embedded:val` and `embedded:test` for made-up ones, `embedded:1.1/train` and so on for such as
    all have an answer; with {language} one of each language."""
    on_malformed: OnMalformed = "refuse"
    languages: tuple[str, ...] = ()
    """Languages whose files are read, one after the other; none: the path is one file's."""

    @property
    def _files(self) -> dict[str, str]:
        """Each file, by its language."""
        codes = self.languages or ("",)
        return {code: self.path.replace("{language}", code) if code else self.path for code in codes}

    def describe(self) -> dict[str, Any]:
        """What identifies the questions.

        Raises:
            ValueError: if there is no such file.
        """
        found = [self._describe(file) for file in self._files.values()]
        return {"languages": list(self.languages), "files": found} if self.languages else found[0]

    def _describe(self, path: str) -> dict[str, Any]:
        about: dict[str, Any] = {"path": path, "on_malformed": self.on_malformed}
        if "://" not in path and not path.startswith(_EMBEDDED):
            found = local_file(path)
            about |= {"path": str(found.resolve()), "size": found.stat().st_size, "time": found.stat().st_mtime_ns}
        return about

    def read(self) -> SquadFile:
        """The questions.

        Raises:
            ValueError: for a file that cannot be had or read, or is malformed.
        """
        if not self.languages:
            return self._read(self.path)
        questions: list[Question] = []
        skipped: Counter[str] = Counter()
        repaired: Counter[str] = Counter()
        for code, path in self._files.items():
            found = self._read(path)
            # The same questions have the same ids in every language.
            questions += [replace(q, id=f"{code}:{q.id}", language=code) for q in found.questions]
            skipped.update(found.skipped)
            repaired.update(found.repaired)
        return SquadFile(tuple(questions), skipped, repaired)

    def _read(self, path: str) -> SquadFile:
        if path.startswith(_EMBEDDED):
            name = path.removeprefix(_EMBEDDED)
            if name not in _PASSAGES:
                raise ValueError(f"{path} is not there; embedded are {', '.join(_EMBEDDED + s for s in _PASSAGES)}")
            unanswerable = not name.startswith(_ANSWERED)
            made = make_squad(name.removeprefix(_ANSWERED), _PASSAGES[name], unanswerable=unanswerable)
            return read_content(made, path)
        return read_squad(local_file(path), self.on_malformed)


def prepare_squad(
    source: SquadSource,
    vocabulary: Vocabulary,
    how: Layout,
    cache_dir: Path,
    progress: Callable[[int, int], None] = lambda *_: None,
    warn: Callable[[str], None] = lambda _: None,
) -> PreparedSquad:
    """Cuts a file's questions into pieces, or finds that done. Of two processes one works, the other waits.

    Args:
        source: the questions.
        vocabulary: for tokenizing them.
        how: what the pieces are.
        cache_dir: where the result goes, into a folder of its own for everything that it depends on.
        progress: called with how many texts of how many are tokenized.
        warn: called with a line about malformed questions that were left out or mended.

    Raises:
        ValueError: if the questions cannot be had or read, or the prepared files are damaged.
    """
    described = {"source": source.describe(), "vocabulary": vocabulary.digest(), "windows": asdict(cast(Any, how))}
    digest = hashlib.sha256(json.dumps([_VERSION, described], sort_keys=True).encode()).hexdigest()[:12]
    folder = cache_dir / f"squad-{digest}"
    if not (folder / "manifest.json").is_file():
        with preparing(folder):
            if not (folder / "manifest.json").is_file():
                _write(folder, source, vocabulary, how, described, progress)
    found = _load(folder, how)
    if found.manifest["complaint"]:
        warn(found.manifest["complaint"])
    return found


def _write(
    folder: Path,
    source: SquadSource,
    vocabulary: Vocabulary,
    how: Layout,
    described: dict[str, Any],
    progress: Callable[[int, int], None],
) -> None:
    read = source.read()
    if source.describe() != described["source"]:
        raise ValueError(f"{source.path} changed while it was being prepared; prepare it again")
    files = how.cut(read.questions, vocabulary, progress).save(folder)
    numbers: dict[str, int] = {}
    questions = [
        (q.id, q.question, numbers.setdefault(q.context, len(numbers)), q.answers, q.is_impossible, q.title, q.language)
        for q in read.questions
    ]
    files.append(folder / "questions.json")
    _write_json(files[-1], {"contexts": list(numbers), "questions": questions})
    manifest = {
        **described,
        "complaint": read.complaint(source.path),
        "questions": len(questions),
        "impossible": sum(q.is_impossible for q in read.questions),
        "bytes": {file.name: file.stat().st_size for file in files},
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    # Last and at once: what has a manifest is whole.
    _write_json(folder / "manifest.json", manifest)


def _write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, ensure_ascii=False), part=path.with_suffix(".part"), durable=True)


def _load(folder: Path, how: Layout) -> PreparedSquad:
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        expected = manifest["bytes"]
    except (json.JSONDecodeError, KeyError, TypeError):
        raise ValueError(f"{folder / 'manifest.json'} cannot be read; move {folder} away and prepare again") from None
    for name, size in expected.items():
        there = (folder / name).stat().st_size if (folder / name).is_file() else 0
        if there != size:
            raise ValueError(
                f"prepared data {folder / name} has {there} bytes where its manifest says {size}; move {folder} away "
                f"and run `lmrecipes prepare` again"
            )
    return PreparedSquad(how.load(folder), manifest, folder)


def prepare_questions(questions: Sequence[Question], vocabulary: Vocabulary, how: Layout) -> PreparedSquad:
    """Pieces of questions that are asked once."""
    return PreparedSquad(
        how.cut(questions, vocabulary),
        {"questions": len(questions), "impossible": sum(q.is_impossible for q in questions), "complaint": ""},
        given=tuple(questions),
    )
