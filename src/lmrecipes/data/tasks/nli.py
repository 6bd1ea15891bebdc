"""Premise and hypothesis: MNLI, XNLI and what is laid out as they are."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lmrecipes.data.corpora.hub import local_file
from lmrecipes.data.corpora.malformed import Flaws, OnMalformedLine
from lmrecipes.runtime.open_file import parquet_rows, read_text

LABELS = ("entailment", "neutral", "contradiction")
Prompt = Literal["nemo", "google"]
_WORDS = {**{label: label for label in LABELS}, **{str(i): label for i, label in enumerate(LABELS)}}
_WORDS["contradictory"] = "contradiction"
# Annotators did not agree on a label: dropped, as in the publication.
_NONE = ("-", "-1")


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
    """Reads MNLI's or XNLI's own files (.tsv, .jsonl), or the hub's (.parquet); also .gz.

    Args:
        path: file, or hf://datasets/OWNER/NAME/FILE.
        on_malformed: what to do about lines that have no pair: refuse, or skip.
        language: which one's pairs are wanted, of a file that has several.

    Raises:
        ValueError: for a file that cannot be had or read, or has no pair; naming file and line.
    """
    file = local_file(path)
    flaws = Flaws(on_malformed)
    rows = enumerate(parquet_rows(file), start=1) if ".parquet" in file.suffixes else _lines(file, flaws)
    pairs = []
    others: Counter[str] = Counter()
    for number, row in rows:
        said = _first(row, "language")
        if language is not None and said not in (None, language):
            others[str(said)] += 1
            continue
        label = _first(row, "gold_label", "label")
        if str(label) in _NONE:
            flaws.note("pair without a label", f"{path}:{number}".format)
            continue
        premise, hypothesis = _first(row, "sentence1", "premise"), _first(row, "sentence2", "hypothesis")
        problem = _problem(premise, hypothesis, label)
        if problem:
            flaws.wrong("malformed line", f"{path}:{number} {problem}")
            continue
        pairs.append(Inference(str(premise), str(hypothesis), _WORDS[str(label)], language or str(said or "en")))
    if not pairs:
        there = f"; it has {', '.join(sorted(others))}" if others else ""
        raise ValueError(f"{path} has no pair of sentences{f' in {language}' if language else ''}{there}")
    return NLIFile(pairs, flaws.content())


def _first(row: dict[str, Any], *names: str) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _problem(premise: Any, hypothesis: Any, label: Any) -> str:
    for name, value in (("sentence1 or premise", premise), ("sentence2 or hypothesis", hypothesis)):
        if not isinstance(value, str) or not value.strip():
            return f"has no {name}"
    return "" if str(label) in _WORDS else f"has the label {label!r}, which is none of {', '.join(LABELS)}"


def _lines(file: Path, flaws: Flaws) -> Iterator[tuple[int, dict[str, Any]]]:
    text = read_text(file)
    if ".tsv" in file.suffixes:
        # Quotes are plain text in MNLI's tsv, and rows may have more columns than the header.
        rows = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
        yield from enumerate(rows, start=2)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            flaws.wrong("malformed line", f"{file}:{number} is no JSON: {error.msg}")
            continue
        if isinstance(row, dict):
            yield number, row
        else:
            flaws.wrong("malformed line", f"{file}:{number} is {type(row).__name__}, not keys and values")
