"""Synthetic sentence pairs for natural language inference."""

from __future__ import annotations

import random
from typing import NamedTuple

from lmrecipes.data.tasks.nli import LABELS, Inference

EMBEDDED = "embedded:"
_PAIRS = {"train": 1200, "val": 60, "test": 60}


class _Words(NamedTuple):
    """Vocabulary of a language's sentences."""

    names: str
    things: str
    """Of a kind that one may have, in the form that follows a number."""
    premise: str
    entailment: str
    contradiction: str
    neutral: str


# {a} has {n} {t}, and {m} is another number.
_LANGUAGES = {
    "en": _Words(
        "Anna Peter Laura David Nina Oskar",
        "books apples lamps chairs coats",
        "{a} has {n} {t}.",
        "There are {n} {t} that belong to {a}.",
        "{a} has {m} {t}.",
        "{a} likes to sing.",
    ),
    "de": _Words(
        "Anna Peter Laura David Nina Oskar",
        "Bücher Äpfel Lampen Stühle Mäntel",
        "{a} hat {n} {t}.",
        "Es gibt {n} {t}, die {a} gehören.",
        "{a} hat {m} {t}.",
        "{a} singt gern.",
    ),
    "es": _Words(
        "Ana Pedro Laura David Nina Óscar",
        "libros mangos platos bancos abrigos",
        "{a} tiene {n} {t}.",
        "Hay {n} {t} que son de {a}.",
        "{a} tiene {m} {t}.",
        "A {a} le gusta cantar.",
    ),
    "fr": _Words(
        "Anne Pierre Laure David Nina Oscar",
        "livres fruits lits bancs manteaux",
        "{a} possède {n} {t}.",
        "Il y a {n} {t} qui appartiennent à {a}.",
        "{a} possède {m} {t}.",
        "{a} aime chanter.",
    ),
    "zh": _Words(
        "小红 小明 美玲 志强 晓燕 家豪",
        "书 苹果 台灯 椅子 大衣",
        "{a}有{n}个{t}。",
        "有{n}个{t}属于{a}。",
        "{a}有{m}个{t}。",
        "{a}喜欢唱歌。",
    ),
}


def make_nli(name: str, language: str | None) -> list[Inference]:
    """Synthetic pairs, deterministic.

    Args:
        name: embedded:train, embedded:val or embedded:test.
        language: en, de, es, fr or zh; left out, en.

    Raises:
        ValueError: for another split or language.
    """
    split, code = name.removeprefix(EMBEDDED), language or "en"
    if split not in _PAIRS or code not in _LANGUAGES:
        there = ", ".join(EMBEDDED + each for each in _PAIRS)
        raise ValueError(f"{name} in {code} is not there; embedded are {there} in {', '.join(_LANGUAGES)}")
    words = _LANGUAGES[code]
    # The same pairs in every language, as XNLI's are.
    generator = random.Random(f"nli:{split}")
    pairs = []
    for _ in range(_PAIRS[split]):
        name_number, thing = generator.randrange(6), generator.randrange(5)
        n, m = generator.sample(range(11, 20), 2)
        label = generator.choice(LABELS)
        filled = {"a": words.names.split()[name_number], "t": words.things.split()[thing], "n": n, "m": m}
        hypothesis = getattr(words, label).format(**filled)
        pairs.append(Inference(words.premise.format(**filled), hypothesis, label, code))
    return pairs
