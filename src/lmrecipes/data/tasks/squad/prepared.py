"""Questions and what a model sees of them on disk, prepared once and mapped into memory."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast

from numpy.typing import NDArray

from lmrecipes.data.prepared.cache import short_hash
from lmrecipes.data.prepared.lock import preparing
from lmrecipes.data.tasks.squad.files import Answer, Question
from lmrecipes.data.tasks.squad.source import SquadSource
from lmrecipes.data.tokenizers.base import Vocabulary
from lmrecipes.runtime.atomic_write import write_text

# Increment when arrays, embedded questions or windowing change.
_VERSION = 6


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


def prepare_squad(
    source: SquadSource,
    vocabulary: Vocabulary,
    how: Layout,
    cache_dir: Path,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> PreparedSquad:
    """Prepares a file's questions or finds them prepared; of two processes one works and the other waits.

    Args:
        source: the questions.
        vocabulary: for tokenizing them.
        how: what the pieces are.
        cache_dir: where the result goes, into a folder of its own for everything that it depends on.
        progress: called with how many texts of how many are tokenized.

    Raises:
        ValueError: if the questions cannot be had or read, or the prepared files are damaged.
    """
    described = {"source": source.describe(), "vocabulary": vocabulary.digest(), "windows": asdict(cast(Any, how))}
    folder = cache_dir / f"squad-{short_hash(json.dumps([_VERSION, described], sort_keys=True))}"
    if not (folder / "manifest.json").is_file():
        with preparing(folder):
            if not (folder / "manifest.json").is_file():
                _write(folder, source, vocabulary, how, described, progress)
    return _load(folder, how)


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
    # Written last: a folder with a manifest is complete.
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
    """Prepares questions in memory, for predict.

    Raises:
        ValueError: for no question, or an empty one.
    """
    if not questions:
        raise ValueError("there is no question to answer")
    for number, question in enumerate(questions, start=1):
        for name, text in (("question", question.question), ("context", question.context)):
            if not text.strip():
                raise ValueError(f"the {name} of question {question.id or number} is empty")
    return PreparedSquad(
        how.cut(questions, vocabulary),
        {"questions": len(questions), "impossible": sum(q.is_impossible for q in questions), "complaint": ""},
        given=tuple(questions),
    )
