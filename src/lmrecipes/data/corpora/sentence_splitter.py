"""Cutting a paragraph into sentences by rules: no model, no download, any script."""

# ruff: noqa: RUF001  (punctuation of many scripts, some of which looks alike)
from __future__ import annotations

import re

_CLOSING = "\"'”’»)\\]"
_OPENING = "\"'“‘«„([¿¡—–- "
# A sentence of an alphabetic script ends before a space; Chinese and Japanese ones need none.
_CANDIDATE = re.compile(rf"[.!?…‼⁇⁈⁉؟۔।॥።]+[{_CLOSING}]*\s+|[。！？｡]+[」』”’）】\"]*\s*")
_WITHOUT_SPACE = "。！？｡"
_ACRONYM = re.compile(r"(?:\w\.)+\w")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Abbreviations that do not end a sentence.
_GO_ON = _words(
    "mr mrs ms dr prof rev gen col capt cpt lt sgt cmdr adm hon gov sen rep pres mt messrs mme mlle "
    "vs cf al e.g i.e viz approx ca esp ed eds trans"
)
# Abbreviations followed by a number.
_BEFORE_NUMBERS = _words("no nos nr fig figs vol vols p pp ch chap sec art eq ref refs op par")
# Abbreviations that may end a sentence: decided by the next word.
_MAY_END = _words(
    "inc ltd co corp bros jr sr etc esq dept est univ assn st ave blvd rd a.m p.m ph.d "
    "jan feb mar apr jun jul aug sept sep oct nov dec"
)
# Words rarely capitalized inside a sentence.
_STARTERS = _words(
    "the a an this that these those he she it they we i you his her its their our my your in on at by for from with "
    "as after before when while where who what why how if although though because since but and or so however there "
    "then thus also one some many most all no not both each other another during under over between"
)


def split_sentences(paragraph: str) -> list[str]:
    """The sentences of a paragraph, in order, stripped of surrounding white space; nothing else is lost."""
    sentences, start = [], 0
    for match in _CANDIDATE.finditer(paragraph):
        if _ends_sentence(paragraph, start, match):
            sentences.append(paragraph[start : match.end()].strip())
            start = match.end()
    sentences.append(paragraph[start:].strip())
    return [sentence for sentence in sentences if sentence]


def _ends_sentence(text: str, start: int, match: re.Match[str]) -> bool:
    """Whether a sentence that begins at `start` ends at this match."""
    mark = match.group()
    if mark[0] in _WITHOUT_SPACE:
        return True
    after = match.end()
    while after < len(text) and text[after] in _OPENING:
        after += 1
    if after < len(text) and text[after].islower():
        return False
    if mark.rstrip() != ".":
        return True
    before = text[max(start, match.start() - 20) : match.start()]
    word = (before.split() or [""])[-1].lstrip(_OPENING)
    return _word_ends_sentence(word, text[after : after + 20], first=start + len(word) == match.start())


def _word_ends_sentence(word: str, following: str, first: bool) -> bool:
    """Whether a full stop after `word` ends a sentence, given what follows; `first`: it starts the paragraph."""
    small = word.lower()
    if small in _GO_ON:
        return False
    if small in _BEFORE_NUMBERS:
        return not following[:1].isdigit()
    if len(word) == 1 and word.isalpha() and word.isupper():
        return False
    if small in _MAY_END or _ACRONYM.fullmatch(word):
        next_word = re.match(r"\w*", following)
        return next_word is not None and next_word.group().lower() in _STARTERS
    # The number of an item in a list.
    return not (first and word.isdigit() and len(word) <= 3)
