"""Texts that look the same and differ: no-break spaces, zero-width characters, combining marks."""

from __future__ import annotations

import json
import unicodedata


def shown(value: object, limit: int = 60) -> str:
    """A value as JSON, with characters that cannot be seen written as escapes."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    text = text if len(text) <= limit else f"{text[: limit - 3]}..."
    return "".join(c if c == " " or _is_visible(c) else json.dumps(c)[1:-1] for c in text)


def _is_visible(character: str) -> bool:
    return unicodedata.category(character) not in ("Zs", "Zl", "Zp", "Cf", "Cc", "Cs", "Mn", "Me")


def folded(text: str) -> tuple[str, list[int]]:
    """A text in which characters that look the same are the same, and the place in the text of each of its characters.

    All white space is a space, characters of no width are left out, and compatible characters and accents are
    decomposed (Unicode NFKD).
    """
    characters: list[str] = []
    places: list[int] = []
    for place, character in enumerate(text):
        if unicodedata.category(character) == "Cf":
            continue
        for part in " " if character.isspace() else unicodedata.normalize("NFKD", character):
            characters.append(part)
            places.append(place)
    return "".join(characters), places


def nearest_lookalike(context: str, text: str, start: int) -> tuple[int, int] | None:
    """First and last character (exclusive) of the part of a context that looks like a text; the nearest to `start`."""
    look, places = folded(context)
    wanted, _ = folded(text)
    wanted = wanted.strip()
    if not wanted:
        return None
    found = []
    at = look.find(wanted)
    while at >= 0:
        end = at + len(wanted)
        # Not in the middle of a character that is decomposed.
        if (at == 0 or places[at - 1] != places[at]) and (end == len(look) or places[end] != places[end - 1]):
            found.append((places[at], places[end - 1] + 1))
        at = look.find(wanted, at + 1)
    if not found:
        return None
    first, last = min(found, key=lambda span: abs(span[0] - start))
    # With the characters of no width that belong to the last one.
    while last < len(context) and unicodedata.category(context[last]) in ("Mn", "Me"):
        last += 1
    return first, last


def difference(one: str, other: str) -> str:
    """Where two texts that look the same differ; empty if they look different.

    Returns:
        Such as "they differ at character 2, NO-BREAK SPACE and SPACE".
    """
    if one == other or folded(one)[0].strip() != folded(other)[0].strip():
        return ""
    at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    names = (_name(text[at]) if at < len(text) else "the end" for text in (one, other))
    return f"they differ at character {at + 1}, {' and '.join(names)}"


def _name(character: str) -> str:
    return unicodedata.name(character, f"U+{ord(character):04X}")
