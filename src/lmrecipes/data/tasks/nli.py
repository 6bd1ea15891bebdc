"""Pairs of premise and hypothesis: MNLI, XNLI and files in the same formats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from lmrecipes.data.corpora.hub import local_file
from lmrecipes.data.corpora.malformed import Flaws, OnMalformedLine
from lmrecipes.data.corpora.rows import read_rows, text_of

LABELS = ("entailment", "neutral", "contradiction")
Prompt = Literal["nemo", "google"]
_WORDS = {**{label: label for label in LABELS}, **{str(i): label for i, label in enumerate(LABELS)}}
_WORDS["contradictory"] = "contradiction"
# Annotators did not agree on a label: dropped, as in the publication.
_UNLABELLED = ("-", "-1")


class Inference(NamedTuple):
    """A premise, a hypothesis and their label."""

    premise: str
    hypothesis: str
    label: str
    """entailment, neutral or contradiction."""
    language: str = "en"


@dataclass(frozen=True)
class NLIFile:
    """The pairs of a file, and a count of malformed lines."""

    pairs: list[Inference]
    flaws: dict[str, list[int | str]]


def asked(pair: Inference, prompt: Prompt) -> tuple[str, str, str]:
    """The input, the part of it that must not be truncated, and the target.

    nemo: as published the slot named hypothesis has the premise, and the other way round; the label is a word.
    google: premise first, and the label is a digit.
    """
    if prompt == "nemo":
        return f"mnli hypothesis: {pair.premise}", f" premise: {pair.hypothesis}", pair.label
    return f"xnli: premise: {pair.premise}", f" hypothesis: {pair.hypothesis}", str(LABELS.index(pair.label))


def read_nli(path: str, on_malformed: OnMalformedLine = "refuse", *, language: str | None = None) -> NLIFile:
    """Reads a file of MNLI or XNLI as published (.tsv, .jsonl) or as on the hub (.parquet), or a .csv; also packed.

    Args:
        path: file, or hf://datasets/OWNER/NAME/FILE.
        on_malformed: what to do about lines without a pair: refuse, or skip.
        language: of the pairs to read from a file of several languages.

    Raises:
        ValueError: for a file that cannot be loaded or read, or has no pair; naming file and line.
    """
    file = local_file(path)
    flaws = Flaws(on_malformed)
    pairs = []
    others: set[str] = set()
    for number, row in read_rows(file, flaws.wrong):
        code = _first(row, "language")
        if language is not None and code not in (None, language):
            others.add(str(code))
            continue
        label = _first(row, "gold_label", "label")
        if str(label) in _UNLABELLED:
            flaws.note("pair without a label", f"{path}:{number}".format)
            continue
        try:
            premise, hypothesis = _sentence(row, "sentence1", "premise"), _sentence(row, "sentence2", "hypothesis")
            if str(label) not in _WORDS:
                raise ValueError(f"has the label {label!r}, which is none of {', '.join(LABELS)}")
        except ValueError as error:
            flaws.wrong("malformed line", f"{path}:{number} {error}")
            continue
        pairs.append(Inference(premise, hypothesis, _WORDS[str(label)], language or str(code or "en")))
    if not pairs:
        existing = f"; it has {', '.join(sorted(others))}" if others else ""
        raise ValueError(f"{path} has no pair of sentences{f' in {language}' if language else ''}{existing}")
    return NLIFile(pairs, flaws.content())


def _first(row: dict[str, Any], *names: str) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _sentence(row: dict[str, Any], *names: str) -> str:
    """The text under the first of these names."""
    name = next((name for name in names if row.get(name) is not None), None)
    sentence = "" if name is None else text_of(row, name)
    if not sentence.strip():
        raise ValueError(f"has no {' or '.join(names)}")
    return sentence
