"""Short synthetic sentences in mT5's 24 languages, so that a small multilingual model trains without a download.

The sentences were written for this project. Names, places, numbers, times and years change from one to the next;
numbers are from 11 to 19, with which every language's words keep one form.
"""

from __future__ import annotations

import hashlib
import random
from functools import cache
from importlib.resources import files
from typing import NamedTuple

SENTENCES = 400
"""How many each language has."""


class Language(NamedTuple):
    """What the sentences of a language are made of."""

    women: str
    men: str
    places: str
    templates: str
    """A sentence a line: {a} is a woman, {b} a man, {c} a place, {n} a number, {t} a time, {y} a year."""


def _read() -> dict[str, Language]:
    """The languages of languages.txt: each a block of names and templates under its code in brackets."""
    languages = {}
    for block in files("lmrecipes.data.embedded").joinpath("languages.txt").read_text(encoding="utf-8").split("\n\n"):
        code, *names, templates = block.strip("\n").split("\n", 4)
        women, men, places = (line.partition(": ")[2] for line in names)
        languages[code.strip("[]")] = Language(women, men, places, templates)
    return languages


_LANGUAGES = _read()
LANGUAGES = tuple(_LANGUAGES)
DIGEST = hashlib.sha256(repr((SENTENCES, _LANGUAGES)).encode()).hexdigest()[:12]
"""Changes with the sentences."""


@cache
def sentences_of(language: str) -> tuple[str, ...]:
    """The sentences of a language, all different, always the same.

    Raises:
        ValueError: for a language that there is not.
    """
    if language not in _LANGUAGES:
        raise ValueError(f"embedded:{language} is not there; embedded are {' '.join(LANGUAGES)}")
    about = _LANGUAGES[language]
    generator = random.Random(f"{language}:{SENTENCES}")
    templates = about.templates.splitlines()
    made: dict[str, None] = {}
    while len(made) < SENTENCES:
        sentence = generator.choice(templates).format(
            a=generator.choice(about.women.split()),
            b=generator.choice(about.men.split()),
            c=generator.choice(about.places.split()),
            n=generator.randint(11, 19),
            t=f"{generator.randint(6, 11)}:{generator.choice(('05', '10', '15', '20', '30', '45'))}",
            y=generator.randint(1901, 2019),
        )
        made[sentence] = None
    return tuple(made)
