"""Synthetic passages about people, towns and workshops, with questions, in SQuAD format: no download."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from lmrecipes.data.embedded.templates import fields, read_blocks


@dataclass(frozen=True)
class _Fact:
    """A fact about an entity, with several wordings; {e} is the entity, {v} the value."""

    value: str
    """What kind of value it takes."""
    statements: tuple[str, ...]
    questions: tuple[str, ...]


def _facts(lines: list[str]) -> tuple[_Fact, ...]:
    """Facts of three lines each: the kind of value, statements and questions."""
    triples = zip(lines[::3], lines[1::3], lines[2::3], strict=True)
    return tuple(_Fact(value, tuple(a.split(" | ")), tuple(b.split(" | "))) for value, a, b in triples)


_BLOCKS = read_blocks("squad.txt")
_WORDS = {kind: tuple(words.split()) for kind, words in fields(_BLOCKS.pop("words")).items()}
_KINDS = {kind: _facts(lines) for kind, lines in _BLOCKS.items()}
# Of which words a name consists, and how they are joined.
_NAMES = {
    "person": ("first", "last", "{} {}"),
    "town": ("before", "after", "{} {}"),
    "workshop": ("last", "before", "{} and {}"),
}
# Training and evaluation differ in which wrapping goes with which wording.
_WRAPPINGS = ("{q}?", "say, {q}?", "now, {q}?", "tell me, {q}?")
# Entities belong to a split by a number from 0 to 9.
_SPLITS = {"train": (0, 1, 2, 3, 4, 5), "val": (6, 7), "test": (8, 9)}
# Share of passages about two entities of one kind, where the question alone does not give the answer away.
_ALIKE = 0.25
# Facts stated about each entity, and how often a question asks for one that is not stated.
_STATED, _UNSTATED = 2, 0.7


def make_squad(split: str, passages: int, *, unanswerable: bool = True, seed: int = 1111) -> dict[str, Any]:
    """Questions in SQuAD 2.0 format, or 1.1 without unanswerable ones.

    No two splits share an entity, and training shares no form of question with evaluation, though all share the words.

    Args:
        split: train, val or test.
        passages: their number.
        unanswerable: whether a quarter of the questions have no answer in their passages.
        seed: of the passages.
    """
    paragraphs = [_passage(random.Random(f"{seed} {split} {i}"), split, i, unanswerable) for i in range(passages)]
    article = {"title": "Invented", "paragraphs": paragraphs}
    return {"version": "v2.0" if unanswerable else "1.1", "data": [article]}


class Invented(ABC):
    """Synthetic documents about the entities of the training split."""

    name: ClassVar[str]
    number: ClassVar[int]
    """Documents."""
    version: ClassVar[int] = 2

    def describe(self) -> dict[str, Any]:
        """Identifies the generator and its version."""
        return {f"invented_{self.name}s": self.number, "version": self.version}

    def documents(self) -> Iterator[tuple[str, list[str]]]:
        """Name and paragraphs of every document."""
        for i in range(self.number):
            yield str(i), self.document(random.Random(f"{self.name} {i}"), i)

    @abstractmethod
    def document(self, generator: random.Random, number: int) -> list[str]:
        """Paragraphs of one document."""


class InventedPassages(Invented):
    """Passages as text, each with an answered question."""

    name, number = "passage", 4000

    def document(self, generator: random.Random, number: int) -> list[str]:
        """A passage, and a question with its answer."""
        passage = _passage(generator, "train", number, unanswerable=False)
        qa = generator.choice(passage["qas"])
        return [passage["context"], f"{qa['question']} {_capitalized(qa['answers'][0]['text'])}."]


class InventedFacts(Invented):
    """Single facts with question and answer, in T5's input format."""

    name, number = "fact", 8000

    def document(self, generator: random.Random, number: int) -> list[str]:
        """Question and statement, and the answer."""
        kind = generator.choice(sorted(_KINDS))
        entity, fact = _entity(generator, kind, "train", set()), generator.choice(_KINDS[kind])
        value = _value(generator, fact.value, {entity})
        statement = _statement(generator, fact, entity).replace("{v}", value)
        question = _question(generator, fact, entity, "train")
        return [f"question: {question} context: {statement}", _capitalized(value)]


def _passage(generator: random.Random, split: str, number: int, unanswerable: bool) -> dict[str, Any]:
    kinds = generator.sample(sorted(_KINDS), 2)
    alike = generator.random() < _ALIKE
    if alike:
        kinds[1] = kinds[0]
    entities: list[tuple[str, str]] = []
    for kind in kinds:
        entities.append((kind, _entity(generator, kind, split, {name for _, name in entities})))
    values: dict[tuple[str, int], str] = {}
    sentences: list[tuple[str, tuple[str, int]]] = []
    for (kind, name), chosen in zip(entities, _chosen(generator, kinds, alike), strict=True):
        for index in chosen:
            fact, key = _KINDS[kind][index], (name, index)
            values[key] = _value(generator, fact.value, {*values.values(), *(other for _, other in entities)})
            sentences.append((_statement(generator, fact, name), key))
    generator.shuffle(sentences)
    context, starts = "", {}
    for sentence, key in sentences:
        context += " " if context else ""
        starts[key] = len(context) + sentence.index("{v}")
        context += sentence.replace("{v}", values[key])
    questions: list[dict[str, Any]] = []
    for kind, name in entities:
        facts = range(len(_KINDS[kind]))
        chosen = [index for index in facts if (name, index) in values]
        if unanswerable and generator.random() < _UNSTATED:
            chosen.append(generator.choice([index for index in facts if index not in chosen]))
        for key in ((name, index) for index in chosen):
            answers = [{"text": values[key], "answer_start": starts[key]}] if key in values else []
            question = _question(generator, _KINDS[kind][key[1]], name, split)
            questions.append({"id": f"{split}-{number}-{len(questions)}", "question": question, "answers": answers})
            if unanswerable:
                questions[-1]["is_impossible"] = not answers
    return {"context": context, "qas": questions}


def _chosen(generator: random.Random, kinds: list[str], alike: bool) -> list[list[int]]:
    """The facts stated about each entity; unless `alike`, no two values of a passage are of one kind."""
    while True:
        chosen = [sorted(generator.sample(range(len(_KINDS[kind])), _STATED)) for kind in kinds]
        values = [_KINDS[kind][i].value for kind, facts in zip(kinds, chosen, strict=True) for i in facts]
        if alike or len(set(values)) == len(values):
            return chosen


def _entity(generator: random.Random, kind: str, split: str, taken: set[str]) -> str:
    """A name unique to the split, combined of parts that all splits share."""
    first, second, joined = _NAMES[kind]
    while True:
        a, b = generator.randrange(len(_WORDS[first])), generator.randrange(len(_WORDS[second]))
        name = joined.format(_WORDS[first][a], _WORDS[second][b])
        if (a + 3 * b) % 10 in _SPLITS[split] and name not in taken:
            return name


def _value(generator: random.Random, kind: str, taken: set[str]) -> str:
    while True:
        if kind in _NAMES:
            first, second, joined = _NAMES[kind]
            value = joined.format(generator.choice(_WORDS[first]), generator.choice(_WORDS[second]))
        elif kind in _WORDS:
            value = generator.choice(_WORDS[kind])
        else:
            value = str(generator.randrange(*{"year": (1700, 2000), "number": (21, 1000)}[kind]))
        if value not in taken:
            return value


def _statement(generator: random.Random, fact: _Fact, name: str) -> str:
    """A sentence with {v} in place of the value."""
    return _capitalized(generator.choice(fact.statements).replace("{e}", name) + ".")


def _question(generator: random.Random, fact: _Fact, name: str, split: str) -> str:
    """A question in a combination of wrapping and wording that belongs to training or to evaluation."""
    while True:
        wrapping, wording = generator.randrange(len(_WRAPPINGS)), generator.randrange(len(fact.questions))
        if ((wrapping + wording) % 4 == 0) == (split != "train"):
            return _capitalized(_WRAPPINGS[wrapping].format(q=fact.questions[wording].replace("{e}", name)))


def _capitalized(text: str) -> str:
    return text[0].upper() + text[1:]
