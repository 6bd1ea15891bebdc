"""Synthetic sentence pairs for natural language inference."""

from __future__ import annotations

import random

from lmrecipes.data.embedded.templates import fields, read_blocks
from lmrecipes.data.tasks.nli import LABELS, Inference

EMBEDDED = "embedded:"
_PAIRS = {"train": 1200, "val": 60, "test": 60}
# {a} has {n} {t}, and {m} is another number; `things` are in the form that follows a number.
_LANGUAGES = {code: fields(lines) for code, lines in read_blocks("nli.txt").items()}


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
        known = ", ".join(EMBEDDED + split for split in _PAIRS)
        raise ValueError(f"{name} in {code} does not exist; embedded are {known} in {', '.join(_LANGUAGES)}")
    words = _LANGUAGES[code]
    # The same pairs in every language, as in XNLI.
    generator = random.Random(f"nli:{split}")
    pairs = []
    for _ in range(_PAIRS[split]):
        person, thing = generator.randrange(6), generator.randrange(5)
        n, m = generator.sample(range(11, 20), 2)
        label = generator.choice(LABELS)
        filled = {"a": words["names"].split()[person], "t": words["things"].split()[thing], "n": n, "m": m}
        pairs.append(Inference(words["premise"].format(**filled), words[label].format(**filled), label, code))
    return pairs
