"""Synthetic passages about people, towns and workshops, with questions, in SQuAD format: no download."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_FIRST = _words(
    "Ada Boris Carla Dario Edith Felix Greta Hugo Irene Jonas Karin Lukas Mira Nils Olga Paul Rosa Simon Tessa Viktor "
    "Wanda Anton Bella Conrad Diana Emil"
)
_LAST = _words(
    "Arden Brook Castle Dover Ember Fisher Garner Holt Irving Jasper Keller Lowell Marlow Norton Oakes Porter Quill "
    "Rivers Stone Turner Vale Webber York Zander Baker Carver"
)
_BEFORE = _words(
    "Ash Birch Cold Deer Elm Fair Green High Iron King Lake Mill North Oak Pine Red Salt Summer West White"
)
_AFTER = _words("Bridge Bury Cross Dale Field Ford Gate Grove Haven Hill Market Mouth Port Ridge Square Well")
_RIVERS = _words("Alder Bree Calder Dunn Esk Fenn Garry Humble Isen Leven Mardle Nidd Orr Rother Severn Tamar")
_TRADES = _words(
    "baker carpenter clockmaker dancer doctor engineer farmer gardener glassblower judge lawyer miller nurse painter "
    "pilot poet sailor sculptor singer teacher"
)
_INSTRUMENTS = _words("accordion banjo bassoon cello clarinet drum flute guitar harp oboe organ piano trumpet violin")
_GOODS = _words(
    "bells bicycles boats boots candles carpets clocks cups hats kites knives lamps locks mirrors paper pens"
)


@dataclass(frozen=True)
class _Fact:
    """A fact about an entity, with several wordings of statement and question; {e} is the entity, {v} the value."""

    told: tuple[str, ...]
    asked: tuple[str, ...]
    value: str
    """What kind of value it takes."""


_PERSON = (
    _Fact(
        ("{e} was born in {v}", "{e} came into the world in {v}", "the birthplace of {e} is {v}"),
        ("where was {e} born", "in which town was {e} born", "what is the birthplace of {e}"),
        "town",
    ),
    _Fact(
        ("{e} works as a {v}", "{e} earns a living as a {v}", "the trade of {e} is that of a {v}"),
        ("what does {e} work as", "what is the trade of {e}", "as what does {e} earn a living"),
        "trade",
    ),
    _Fact(
        ("{e} plays the {v}", "{e} has played the {v} since childhood", "the instrument of {e} is the {v}"),
        ("what does {e} play", "which instrument does {e} play", "what is the instrument of {e}"),
        "instrument",
    ),
    _Fact(
        ("{e} married {v}", "{e} has been married to {v} for years", "the partner of {e} is {v}"),
        ("who married {e}", "to whom has {e} been married", "who is the partner of {e}"),
        "person",
    ),
)
_TOWN = (
    _Fact(
        ("{e} was founded in {v}", "{e} became a town in {v}", "the founding of {e} took place in {v}"),
        ("when was {e} founded", "in which year was {e} founded", "when did {e} become a town"),
        "year",
    ),
    _Fact(
        ("{e} lies on the river {v}", "{e} stands on the banks of the {v}", "the river at {e} is the {v}"),
        ("on which river does {e} lie", "which river is at {e}", "on the banks of which river does {e} stand"),
        "river",
    ),
    _Fact(
        ("{e} has {v} inhabitants", "{e} is home to {v} people", "the population of {e} is {v}"),
        ("how many inhabitants has {e}", "what is the population of {e}", "to how many people is {e} home"),
        "number",
    ),
    _Fact(
        ("{e} is governed by {v}", "{e} chose {v} as its mayor", "the mayor of {e} is {v}"),
        ("who is the mayor of {e}", "who governs {e}", "whom did {e} choose as its mayor"),
        "person",
    ),
)
_WORKSHOP = (
    _Fact(
        ("{e} makes {v}", "{e} sells the {v} that it makes", "the product of {e} is {v}"),
        ("what does {e} make", "what does {e} sell", "what is the product of {e}"),
        "goods",
    ),
    _Fact(
        ("{e} was opened by {v}", "{e} had {v} as its first owner", "the first owner of {e} was {v}"),
        ("who opened {e}", "who was the first owner of {e}", "by whom was {e} opened"),
        "person",
    ),
    _Fact(
        ("{e} has its rooms in {v}", "{e} is found in {v}", "the seat of {e} is {v}"),
        ("where is {e} found", "in which town does {e} have its rooms", "what is the seat of {e}"),
        "town",
    ),
    _Fact(
        ("{e} employs {v} people", "{e} gives work to {v} people", "the number of people at {e} is {v}"),
        ("how many people does {e} employ", "to how many people does {e} give work", "how many people are at {e}"),
        "number",
    ),
)
_KINDS = {"person": _PERSON, "town": _TOWN, "workshop": _WORKSHOP}
# Which wrapping a question has for its wording tells the splits apart.
_ASKED_IN = ("{q}?", "say, {q}?", "now, {q}?", "tell me, {q}?")
_PLACES = {"train": (0, 1, 2, 3, 4, 5), "val": (6, 7), "test": (8, 9)}
_FOLDS = 10
# Share of passages about two of a kind, where what is asked for does not give the answer away.
_ALIKE = 0.25
# Facts told of an entity, and how often one that is not told is asked for too.
_TOLD, _UNTOLD = 2, 0.7


def make_squad(split: str, passages: int, *, unanswerable: bool = True, seed: int = 1111) -> dict[str, Any]:
    """Questions in SQuAD 2.0 format, or 1.1 without unanswerable ones.

    No entity that a question of one split is about is in another split, and neither is a way of asking: its words are,
    in other company.

    Args:
        split: train, val or test.
        passages: how many.
        unanswerable: whether a quarter of the questions have no answer in their passages.
        seed: other seed, other passages.
    """
    data = [
        _passage(random.Random(f"{seed} {split} {number}"), split, number, unanswerable) for number in range(passages)
    ]
    article = {"title": "Invented", "paragraphs": data}
    return {"version": "v2.0" if unanswerable else "1.1", "data": [article]}


class InventedPassages:
    """Passages as text, each with an answered question, about the entities of the training split."""

    NUMBER = 4000
    VERSION = 2

    def describe(self) -> dict[str, Any]:
        """Identifies the generator and its version."""
        return {"invented_passages": self.NUMBER, "version": self.VERSION}

    def documents(self) -> Iterator[tuple[str, list[str]]]:
        """Name and paragraphs of every passage."""
        for number in range(self.NUMBER):
            chance = random.Random(f"passage {number}")
            passage = _passage(chance, "train", number, unanswerable=False)
            asked = chance.choice(passage["qas"])
            yield str(number), [passage["context"], f"{asked['question']} {_capital(asked['answers'][0]['text'])}."]


class InventedFacts:
    """Single facts with question and answer, about the entities of the training split."""

    NUMBER = 8000
    VERSION = 2

    def describe(self) -> dict[str, Any]:
        """Identifies the generator and its version."""
        return {"invented_facts": self.NUMBER, "version": self.VERSION}

    def documents(self) -> Iterator[tuple[str, list[str]]]:
        """Name and paragraphs of every fact."""
        for number in range(self.NUMBER):
            chance = random.Random(f"fact {number}")
            kind = chance.choice(sorted(_KINDS))
            name, fact = _entity(chance, kind, "train", set()), chance.choice(_KINDS[kind])
            value = _value(chance, fact.value, {name})
            told = _told(chance, fact, name).replace("{v}", value)
            # As T5 puts questions to a model.
            yield str(number), [f"question: {_asked(chance, fact, name, 'train')} context: {told}", _capital(value)]


def _passage(chance: random.Random, split: str, number: int, unanswerable: bool) -> dict[str, Any]:
    entities: list[tuple[str, str]] = []
    kinds = chance.sample(sorted(_KINDS), 2)
    alike = chance.random() < _ALIKE
    if alike:
        kinds[1] = kinds[0]
    for kind in kinds:
        entities.append((kind, _entity(chance, kind, split, {name for _, name in entities})))
    told: dict[tuple[str, int], str] = {}
    sentences: list[tuple[str, str, tuple[str, int]]] = []
    for (kind, name), chosen in zip(entities, _chosen(chance, kinds, alike), strict=True):
        for index in chosen:
            value = _value(chance, _KINDS[kind][index].value, {*told.values(), *(other for _, other in entities)})
            told[name, index] = value
            sentences.append((_told(chance, _KINDS[kind][index], name), value, (name, index)))
    chance.shuffle(sentences)
    context, places = "", {}
    for sentence, value, key in sentences:
        before, after = sentence.split("{v}")
        context += " " if context else ""
        places[key] = len(context) + len(before)
        context += f"{before}{value}{after}"
    questions: list[dict[str, Any]] = []
    for kind, name in entities:
        asked = [index for index in range(len(_KINDS[kind])) if (name, index) in told]
        if unanswerable and chance.random() < _UNTOLD:
            asked.append(chance.choice([index for index in range(len(_KINDS[kind])) if index not in asked]))
        for index in asked:
            known = (name, index) in told
            answers = [{"text": told[name, index], "answer_start": places[name, index]}] if known else []
            question = {"id": f"{split}-{number}-{len(questions)}"}
            question["question"] = _asked(chance, _KINDS[kind][index], name, split)
            questions.append(question | {"answers": answers} | ({"is_impossible": not known} if unanswerable else {}))
    return {"context": context, "qas": questions}


def _chosen(chance: random.Random, kinds: list[str], alike: bool) -> list[list[int]]:
    """The facts stated of each entity; unless `alike`, no two values of a passage are of one kind."""
    while True:
        chosen = [sorted(chance.sample(range(len(_KINDS[kind])), _TOLD)) for kind in kinds]
        values = [_KINDS[kind][i].value for kind, facts in zip(kinds, chosen, strict=True) for i in facts]
        if alike or len(set(values)) == len(values):
            return chosen


def _entity(chance: random.Random, kind: str, split: str, taken: set[str]) -> str:
    """A name unique to the split, combined of parts that all splits share."""
    firsts, seconds, joined = {
        "person": (_FIRST, _LAST, "{} {}"),
        "town": (_BEFORE, _AFTER, "{} {}"),
        "workshop": (_LAST, _BEFORE, "{} and {}"),
    }[kind]
    while True:
        a, b = chance.randrange(len(firsts)), chance.randrange(len(seconds))
        name = joined.format(firsts[a], seconds[b])
        if (a + 3 * b) % _FOLDS in _PLACES[split] and name not in taken:
            return name


def _value(chance: random.Random, kind: str, taken: set[str]) -> str:
    while True:
        if kind == "person":
            value = f"{chance.choice(_FIRST)} {chance.choice(_LAST)}"
        elif kind == "town":
            value = f"{chance.choice(_BEFORE)} {chance.choice(_AFTER)}"
        elif kind == "year":
            value = str(chance.randrange(1700, 2000))
        elif kind == "number":
            value = str(chance.randrange(21, 1000))
        else:
            known = {
                "river": _RIVERS,
                "trade": _TRADES,
                "instrument": _INSTRUMENTS,
                "goods": _GOODS,
            }
            value = chance.choice(known[kind])
        if value not in taken:
            return value


def _told(chance: random.Random, fact: _Fact, name: str) -> str:
    """A sentence with {v} in place of the value."""
    return _capital(chance.choice(fact.told).replace("{e}", name) + ".")


def _asked(chance: random.Random, fact: _Fact, name: str, split: str) -> str:
    """A question in a wrapping and wording whose combination belongs to training or to evaluation."""
    while True:
        wrapping, wording = chance.randrange(len(_ASKED_IN)), chance.randrange(len(fact.asked))
        if ((wrapping + wording) % 4 == 0) == (split != "train"):
            return _capital(_ASKED_IN[wrapping].format(q=fact.asked[wording].replace("{e}", name)))


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
