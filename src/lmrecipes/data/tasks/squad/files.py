"""Files in SQuAD format: SQuAD 1.1 and 2.0, XQuAD and others."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lmrecipes.data.corpora.rows import is_json_lines, read_rows
from lmrecipes.data.tasks.squad.invisible import difference, nearest_lookalike, shown
from lmrecipes.runtime.open_file import read_json, unpacked_suffix

OnMalformed = Literal["refuse", "skip", "repair"]


class Answer(NamedTuple):
    """A correct answer, and its first character's position in the context."""

    text: str
    start: int


@dataclass(frozen=True)
class Question:
    """A question about a text."""

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...] = ()
    """Correct answers; empty if the context has none, or they are unknown."""
    is_impossible: bool = False
    """Whether the context has no answer."""
    title: str = ""
    language: str = ""
    """Language of its file, if several are read; its id then begins with it."""


@dataclass(frozen=True)
class SquadFile:
    """The questions of a file, and counts of malformed ones by the kind of problem."""

    questions: tuple[Question, ...]
    skipped: Counter[str]
    repaired: Counter[str]

    def complaint(self, name: str) -> str:
        """A one-line summary of malformed questions; empty if there were none."""
        parts = []
        for verb, counts in (("skipped", self.skipped), ("repaired", self.repaired)):
            if counts:
                kinds = ", ".join(f"{number} x {kind}" for kind, number in sorted(counts.items()))
                parts.append(f"{counts.total()} {verb} ({kinds})")
        return f"{name}: of its malformed questions {' and '.join(parts)}" if parts else ""


class _Malformed(Exception):  # noqa: N818  (never leaves this file)
    """A malformed question, paragraph or article."""

    def __init__(self, kind: str, problem: str) -> None:
        super().__init__(problem)
        self.kind = kind


def read_squad(path: Path, on_malformed: OnMalformed = "refuse", *, need_answers: bool = True) -> SquadFile:
    """Reads a .json, .jsonl or .parquet file, each also as .gz: SQuAD's layout of articles, or a question per row.

    Numbers are accepted as ids, and an empty answer as none where `is_impossible` is true, or left out and its start is
    -1.

    Args:
        path: the file.
        on_malformed: what to do about a malformed question: refuse the file, skip the question, or repair it if
            possible (an answer is moved to the nearest occurrence of its text, or of a text that looks the same; the
            second question of an id becomes `ID#2`).
        need_answers: whether a question must list its answers or be marked as impossible.

    Raises:
        ValueError: for a file that cannot be read or has no question; naming a malformed question.
    """
    reader = _Reader(str(path), on_malformed, need_answers)
    if unpacked_suffix(path) == ".json" and not is_json_lines(path):
        return reader.read(_questions(read_json(path), reader))
    return reader.read(_flat(f"row {number}", row) for number, row in read_rows(path))


def read_content(content: Any, name: str) -> SquadFile:
    """The same for the parsed content of a JSON file."""
    reader = _Reader(name, "refuse", True)
    return reader.read(_questions(content, reader))


class _Row(NamedTuple):
    """A question as a file has it."""

    location: str
    title: Any
    context: Any
    question: Any


class _Reader:
    """Checks questions one by one."""

    def __init__(self, name: str, on_malformed: OnMalformed, need_answers: bool) -> None:
        self.name, self.on_malformed, self.need_answers = name, on_malformed, need_answers
        self.skipped: Counter[str] = Counter()
        self.repaired: Counter[str] = Counter()
        self._ids: Counter[str] = Counter()
        # Questions that are marked as impossible, malformed ones too.
        self._unanswerable = 0

    def wrong(self, location: str, problem: _Malformed, number: int = 1) -> None:
        """Refuses, or counts as skipped."""
        if self.on_malformed == "refuse":
            raise ValueError(
                f"{self.name}: {location}: {problem} (on_malformed: skip ignores such questions, repair corrects some)"
            )
        self.skipped[problem.kind] += number

    def read(self, rows: Iterable[_Row]) -> SquadFile:
        """The valid questions, and counts of the others."""
        questions = tuple(self._good(rows))
        file = SquadFile(questions, self.skipped, self.repaired)
        if self.on_malformed == "repair" and self._unanswerable and not any(q.is_impossible for q in questions):
            raise ValueError(
                f"{file.complaint(self.name)}: none of its {self._unanswerable} questions without an answer would be "
                f"left (on_malformed: skip goes on without them)"
            )
        if not questions:
            raise ValueError(file.complaint(self.name) or f"{self.name} has no question")
        return file

    def _good(self, rows: Iterable[_Row]) -> Iterator[Question]:
        for row in rows:
            id = row.question.get("id") if isinstance(row.question, dict) else None
            location = f"question {shown(id)[1:-1] if isinstance(id, str) else id}" if id else row.location
            self._unanswerable += isinstance(row.question, dict) and row.question.get("is_impossible") is True
            try:
                yield self._question(row)
            except _Malformed as problem:
                self.wrong(location, problem)

    def _question(self, row: _Row) -> Question:
        info = _typed(row.question, dict, "question")
        if isinstance(info.get("id"), int) and not isinstance(info["id"], bool):
            info = {**info, "id": str(info["id"])}
        id = _text(info, "id")
        context = row.context
        if not isinstance(context, str):
            raise _Malformed("wrong type", f"context is {shown(context)}, not a string")
        if not context.strip():
            raise _Malformed("empty context", "its context is empty")
        _whole(context, "context")
        question = _text(info, "question")
        repairs: list[str] = []
        answers = tuple(self._answers(info, context, repairs))
        impossible = info.get("is_impossible", not answers and "answers" in info)
        _typed(impossible, bool, "is_impossible")
        if impossible and answers:
            raise _Malformed("impossible with answers", "is_impossible is true, but it has answers")
        if not impossible and not answers and self.need_answers:
            raise _Malformed("no answer", "is_impossible is false, but it has no answer")
        self._ids[id] += 1
        if self._ids[id] > 1:
            if self.on_malformed != "repair":
                raise _Malformed("duplicate id", "another question has the same id")
            repairs.append("duplicate id")
            id = f"{id}#{self._ids[id]}"
        self.repaired.update(repairs)
        title = row.title if isinstance(row.title, str) else ""
        return Question(id, question, context, answers, impossible, title)

    def _answers(self, info: dict[str, Any], context: str, repairs: list[str]) -> Iterator[Answer]:
        if "answers" not in info:
            if self.need_answers:
                raise _Malformed("missing key", "it has no answers")
            return
        for answer in _typed(info["answers"], list, "answers"):
            _typed(answer, dict, "an answer")
            at_no_place = answer.get("answer_start") == -1 and info.get("is_impossible") is not False
            if answer.get("text") == "" and (info.get("is_impossible") is True or at_no_place):
                continue
            text = _text(answer, "text")
            if "answer_start" not in answer:
                raise _Malformed("missing key", f"the answer {shown(text)} has no answer_start")
            start = _typed(answer["answer_start"], int, "answer_start")
            excerpt = context[start : start + len(text)] if start >= 0 else ""
            if excerpt != text:
                span = _nearest(context, text, start) if self.on_malformed == "repair" else None
                if span is None:
                    looks = nearest_lookalike(context, text, start)
                    there = context[slice(*looks)] if looks is not None and looks[0] == start else excerpt
                    why = difference(there, text)
                    raise _Malformed(
                        "answer not at answer_start",
                        f"at answer_start {start} the context has {shown(there)}, not the answer {shown(text)}"
                        + (f": {why}" if why else ""),
                    )
                repairs.append("answer not at answer_start")
                start, text = span[0], context[slice(*span)]
            yield Answer(text, start)


def _nearest(context: str, text: str, start: int) -> tuple[int, int] | None:
    """First and last character (exclusive) of the occurrence of the text, or of one that looks like it, at `start`."""
    occurrences = (i for i in range(len(context)) if context.startswith(text, i))
    nearest = min(occurrences, key=lambda i: abs(i - start), default=None)
    return nearest_lookalike(context, text, start) if nearest is None else (nearest, nearest + len(text))


def _typed(value: Any, kind: type, name: str) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        expected = {dict: "an object", list: "a list", int: "an integer", bool: "true or false"}[kind]
        raise _Malformed("wrong type", f"{name} is {shown(value)}, not {expected}")
    return value


def _text(holder: dict[str, Any], key: str) -> str:
    if key not in holder:
        raise _Malformed("missing key", f"it has no {key}")
    value = holder[key]
    if not isinstance(value, str):
        raise _Malformed("wrong type", f"{key} is {shown(value)}, not a string")
    if not value.strip():
        raise _Malformed(f"empty {key}", f"its {key} is empty")
    _whole(value, key)
    return value


def _whole(text: str, key: str) -> None:
    """Refuses lone surrogates, which JSON escapes can encode and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = json.dumps(text[error.start])[1:-1]
        raise _Malformed("half a character", f"its {key} has half a character, {half}, at {error.start}") from None


def _questions(content: Any, reader: _Reader) -> Iterator[_Row]:
    """Iterates over questions in either layout; checks the structure above them."""
    data = content.get("data") if isinstance(content, dict) else content
    if not isinstance(data, list):
        raise ValueError(
            f'{reader.name} is not in SQuAD format: it must be an object with a list "data", or a question per record '
            f"with id, context, question and answers"
        )
    if data and all(isinstance(one, dict) and "context" in one and "paragraphs" not in one for one in data):
        yield from (_flat(f"data[{i}]", one) for i, one in enumerate(data))
        return
    for i, article in enumerate(data):
        for j, paragraph in enumerate(_items(article, "paragraphs", f"data[{i}]", reader)):
            location = f"data[{i}].paragraphs[{j}]"
            questions = _items(paragraph, "qas", location, reader)
            if questions and "context" not in paragraph:
                first = questions[0].get("id") if isinstance(questions[0], dict) else None
                name = f"question {first}" if isinstance(first, str) else location
                reader.wrong(name, _Malformed("missing key", "its paragraph has no context"), len(questions))
                continue
            for k, question in enumerate(questions):
                yield _Row(f"{location}.qas[{k}]", article.get("title"), paragraph["context"], question)


def _items(holder: Any, key: str, location: str, reader: _Reader) -> list[Any]:
    """The list under a key of an article or paragraph; empty if that is malformed."""
    try:
        _typed(holder, dict, location)
        if key not in holder:
            raise _Malformed("missing key", f"it has no {key}")
        items: list[Any] = _typed(holder[key], list, key)
    except _Malformed as problem:
        reader.wrong(location, problem)
        return []
    return items


def _flat(location: str, row: dict[str, Any]) -> _Row:
    """A question with its context, as on the hub: answers as two lists."""
    info = {key: value for key, value in row.items() if value is not None}
    answers = info.get("answers")
    if isinstance(answers, dict):
        texts, starts = answers.get("text") or [], answers.get("answer_start") or []
        # Lists that do not fit together are shown as they are.
        if isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts):
            pairs = zip(texts, starts, strict=True)
            info["answers"] = [{"text": text, "answer_start": start} for text, start in pairs]
    return _Row(location, info.get("title"), info.get("context"), info)
