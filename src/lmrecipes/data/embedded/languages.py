"""Short synthetic sentences in mT5's 24 languages, so that a small multilingual model trains without a download.

The sentences were written for this project. Names, places, numbers, times and years change from one to the next;
numbers are from 11 to 19, with which every language's words keep one form.
"""

from __future__ import annotations

import hashlib
import random
from functools import cache
from typing import NamedTuple

from lmrecipes.data.embedded.templates import fields, read_blocks

SENTENCES = 400
"""Number of each language."""


class Language(NamedTuple):
    """Names and sentence templates of a language."""

    women: str
    men: str
    places: str
    templates: str
    """A sentence per line: {a} is a woman, {b} a man, {c} a place, {n} a number, {t} a time, {y} a year."""


_LANGUAGES = {
    code: Language(**fields(lines[:3]), templates="\n".join(lines[3:]))
    for code, lines in read_blocks("languages.txt").items()
}
LANGUAGES = tuple(_LANGUAGES)
DIGEST = hashlib.sha256(repr((SENTENCES, _LANGUAGES)).encode()).hexdigest()[:12]
"""Changes with the sentences."""


@cache
def sentences_of(language: str) -> tuple[str, ...]:
    """The sentences of a language, all different, always the same.

    Raises:
        ValueError: for an unknown language.
    """
    if language not in _LANGUAGES:
        raise ValueError(f"embedded:{language} does not exist; embedded are {' '.join(LANGUAGES)}")
    words = _LANGUAGES[language]
    generator = random.Random(f"{language}:{SENTENCES}")
    templates = words.templates.splitlines()
    sentences: dict[str, None] = {}
    while len(sentences) < SENTENCES:
        sentence = generator.choice(templates).format(
            a=generator.choice(words.women.split()),
            b=generator.choice(words.men.split()),
            c=generator.choice(words.places.split()),
            n=generator.randint(11, 19),
            t=f"{generator.randint(6, 11)}:{generator.choice(('05', '10', '15', '20', '30', '45'))}",
            y=generator.randint(1901, 2019),
        )
        sentences[sentence] = None
    return tuple(sentences)
