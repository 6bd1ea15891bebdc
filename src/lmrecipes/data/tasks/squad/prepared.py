"""Questions and the pieces that a model reads, prepared once and mapped into memory."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast

from lmrecipes.data.prepared.arrays import Arrays
from lmrecipes.data.prepared.cache import short_hash
from lmrecipes.data.prepared.corpus import check_sizes, check_unchanged, read_manifest
from lmrecipes.data.prepared.lock import find_or_make, preparing
from lmrecipes.data.tasks.squad.files import Answer, Question
from lmrecipes.data.tasks.squad.source import SquadSource
from lmrecipes.data.tokenizers.base import Vocabulary
from lmrecipes.runtime.atomic_write import write_text
from lmrecipes.runtime.open_file import read_json

# Increment when arrays, embedded questions or windowing change.
_VERSION = 6


class Layout(Protocol):
    """How questions become pieces, that is, inputs of a model: `Windowing` or `TextLayout`."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def seq_len(self) -> int:
        """Maximum tokens of a piece."""

    @property
    def pieces(self) -> type[Arrays]:
        """`Windows` or `TextPairs`."""

    def cut(self, questions: Sequence[Question], vocabulary: Any, progress: Callable[[int, int], None] = ...) -> Arrays:
        """The pieces of questions."""


@dataclass(frozen=True)
class PreparedSquad:
    """The questions of a file and their pieces."""

    pieces: Any
    """`Windows` or `TextPairs`."""
    manifest: Mapping[str, Any]
    folder: Path | None = None
    """Where the questions are stored; None: in memory."""
    in_memory: tuple[Question, ...] = ()

    @cached_property
    def questions(self) -> Sequence[Question]:
        """The questions, in the order of the file."""
        if self.folder is None:
            return self.in_memory
        content = read_json(self.folder / "questions.json")
        contexts = content["contexts"]
        return [
            Question(id, question, contexts[context], tuple(Answer(*a) for a in answers), impossible, title, language)
            for id, question, context, answers, impossible, title, language in content["questions"]
        ]


def prepare_squad(
    source: SquadSource,
    vocabulary: Vocabulary,
    layout: Layout,
    cache_dir: Path,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> PreparedSquad:
    """Prepares a file's questions or finds them prepared; of two processes one works and the other waits.

    Args:
        source: the questions.
        vocabulary: to tokenize them with.
        layout: of the pieces.
        cache_dir: where the result goes, in a folder named after a hash of everything that it depends on.
        progress: called with the number of tokenized texts and of all.

    Raises:
        ValueError: if the questions cannot be loaded or read, or the prepared files are damaged.
    """
    described = {"source": source.describe(), "vocabulary": vocabulary.digest(), "windows": asdict(cast(Any, layout))}
    folder = cache_dir / f"squad-{short_hash(json.dumps([_VERSION, described], sort_keys=True))}"

    def find() -> PreparedSquad | None:
        manifest = read_manifest(folder, "bytes")
        if manifest is None:
            return None
        check_sizes(folder, manifest["bytes"])
        return PreparedSquad(layout.pieces.load(folder), manifest, folder)

    def make() -> PreparedSquad:
        _write(folder, source, vocabulary, layout, described, progress)
        prepared = find()
        assert prepared is not None
        return prepared

    return find_or_make(find, make, preparing(folder))


def _write(
    folder: Path,
    source: SquadSource,
    vocabulary: Vocabulary,
    layout: Layout,
    described: dict[str, Any],
    progress: Callable[[int, int], None],
) -> None:
    file = source.read()
    check_unchanged(source, described["source"], source.path, lambda: None)
    paths = layout.cut(file.questions, vocabulary, progress).save(folder)
    contexts: dict[str, int] = {}
    questions = [
        (
            *(q.id, q.question, contexts.setdefault(q.context, len(contexts)), q.answers, q.is_impossible),
            *(q.title, q.language),
        )
        for q in file.questions
    ]
    paths.append(folder / "questions.json")
    _write_json(paths[-1], {"contexts": list(contexts), "questions": questions})
    manifest = {
        **described,
        "complaint": file.complaint(source.path),
        "questions": len(questions),
        "impossible": sum(q.is_impossible for q in file.questions),
        "bytes": {path.name: path.stat().st_size for path in paths},
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    # Written last: a folder with a manifest is complete.
    _write_json(folder / "manifest.json", manifest)


def _write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, ensure_ascii=False), part=path.with_suffix(".part"), durable=True)


def prepare_questions(questions: Sequence[Question], vocabulary: Vocabulary, layout: Layout) -> PreparedSquad:
    """Prepares questions in memory, for predict.

    Raises:
        ValueError: if there are none, or one is empty.
    """
    if not questions:
        raise ValueError("there is no question to answer")
    for number, question in enumerate(questions, start=1):
        for name, text in (("question", question.question), ("context", question.context)):
            if not text.strip():
                raise ValueError(f"the {name} of question {question.id or number} is empty")
    return PreparedSquad(
        layout.cut(questions, vocabulary),
        {"questions": len(questions), "impossible": sum(q.is_impossible for q in questions), "complaint": ""},
        in_memory=tuple(questions),
    )
