"""Exact match and F1, equal to the last digit to the official SQuAD 1.1, SQuAD 2.0 and MLQA evaluations."""

from __future__ import annotations

import re
import string
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

Figures = dict[str, Any]
Normalize = Callable[[str], str]

# Articles removed by MLQA. XQuAD's other languages have no published list: nothing is removed.
_ARTICLES = {
    "en": r"\b(a|an|the)\b",
    "es": r"\b(un|una|unos|unas|el|la|los|las)\b",
    "vi": r"\b(của|là|cái|chiếc|những)\b",
    "de": r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "ar": "\\s\u0627\u0644^|\u0627\u0644",
}
LANGUAGES = (*_ARTICLES, "hi", "zh", "el", "ro", "ru", "th", "tr")
_HAN = re.compile("[\u4e00-\u9fa5]")
_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ENGLISH = re.compile(_ARTICLES["en"])


class Gold(NamedTuple):
    """A question's right answers."""

    id: str
    answers: tuple[str, ...]
    """Each as it stands in the context; none if the question has no answer."""


def normalizer(language: str | None = None) -> Normalize:
    """The official normalization of answers: case, punctuation, articles, white space.

    Args:
        language: None for the official English SQuAD evaluations; a code for MLQA's, which knows the punctuation of
            all scripts (so that `en` is not quite the same as None).

    Raises:
        ValueError: for an unknown language.
    """
    if language is None:
        return _squad_normalized
    if language not in LANGUAGES:
        raise ValueError(f"language is {language!r}; it must be one of {', '.join(sorted(LANGUAGES))}, or left out")
    articles = re.compile(_ARTICLES[language]) if language in _ARTICLES else None

    def normalize(text: str) -> str:
        text = text.lower().translate(_punctuation())
        if articles is not None:
            text = articles.sub(" ", text)
        if language == "zh":
            text = _HAN.sub(r" \g<0> ", text)
        return " ".join(text.split())

    return normalize


def _squad_normalized(text: str) -> str:
    return " ".join(_ENGLISH.sub(" ", text.lower().translate(_ASCII_PUNCTUATION)).split())


@cache
def _punctuation() -> dict[int, None]:
    """Unicode's punctuation, and ASCII's, which includes symbols."""
    unicode = (i for i in range(sys.maxunicode) if unicodedata.category(chr(i)).startswith("P"))
    return dict.fromkeys([*unicode, *map(ord, string.punctuation)])


def exact_match(prediction: str, gold: str, normalize: Normalize = _squad_normalized) -> int:
    """1 if the normalized answers are equal, else 0."""
    return int(normalize(prediction) == normalize(gold))


def f1(prediction: str, gold: str, normalize: Normalize = _squad_normalized) -> float:
    """Harmonic mean of precision and recall over words; 0 if either answer has none, as in SQuAD 1.1."""
    return _f1(normalize(prediction).split(), normalize(gold).split())


def _f1(predicted: list[str], gold: list[str]) -> float:
    common = sum((Counter(predicted) & Counter(gold)).values())
    if common == 0:
        return 0
    # The order of these operations decides the last digit.
    precision = 1.0 * common / len(predicted)
    recall = 1.0 * common / len(gold)
    return (2 * precision * recall) / (precision + recall)


def exact_string_match(golds: Iterable[Gold], predictions: Mapping[str, str]) -> float:
    """Percent of questions whose prediction equals the first answer exactly, as in NeMo.

    Raises:
        ValueError: if there is no question.
    """
    same = [predictions.get(gold.id) == (gold.answers[0] if gold.answers else "") for gold in golds]
    if not same:
        raise ValueError("there is no question to evaluate")
    return 100.0 * sum(same) / len(same)


def squad11(golds: Iterable[Gold], predictions: Mapping[str, str], language: str | None = None) -> Figures:
    """`exact_match` and `f1` in percent over all questions; one without a prediction scores 0.

    Raises:
        ValueError: if there is no question, or one has no answer.
    """
    normalize = normalizer(language)
    total, exact, overlap = 0, 0, 0.0
    for gold in golds:
        total += 1
        if gold.id not in predictions:
            continue
        if not gold.answers:
            raise ValueError(f"question {gold.id} has no answer, which SQuAD 1.1 does not allow; evaluate as SQuAD 2.0")
        prediction = predictions[gold.id]
        exact += max(exact_match(prediction, answer, normalize) for answer in gold.answers)
        overlap += max(f1(prediction, answer, normalize) for answer in gold.answers)
    if not total:
        raise ValueError("there is no question to evaluate")
    return {"exact_match": 100.0 * exact / total, "f1": 100.0 * overlap / total}


def squad20(
    golds: Iterable[Gold],
    predictions: Mapping[str, str],
    null_odds: Mapping[str, float] | None = None,
    na_threshold: float = 1.0,
    language: str | None = None,
    *,
    missing_are_wrong: bool = False,
) -> Figures:
    """All metrics of the official SQuAD 2.0 evaluation, in its order; the answer `""` means "no answer".

    Args:
        golds: the questions; of two with one id the last counts.
        predictions: answers by question.
        null_odds: no-answer odds by question; with them the best thresholds are computed.
        na_threshold: odds above which a prediction counts as "no answer".
        language: see `normalizer`.
        missing_are_wrong: whether a question without a prediction counts as a wrong answer, at any threshold.

    Raises:
        ValueError: if no question has a prediction, or one lacks its prediction or its odds.
    """
    by_id = {gold.id: gold for gold in golds}
    predicted = [gold for gold in by_id.values() if gold.id in predictions]
    if not predicted:
        raise ValueError(f"none of the {len(by_id)} questions has a prediction; are these predictions for this data?")
    missing = [gold for gold in by_id.values() if gold.id not in predictions]
    if missing and not missing_are_wrong:
        raise ValueError(f"{len(missing):,} of {len(by_id):,} questions have no prediction: {_named(missing)}")
    odds: Mapping[str, float] = dict.fromkeys(predictions, 0.0) if null_odds is None else null_odds
    for gold in predicted:
        if gold.id not in odds:
            raise ValueError(f"question {gold.id} has a prediction, but no null odds")
    exact, overlap = _raw_scores(predicted, predictions, normalizer(language))
    everyone = list(by_id.values())
    groups = {"": everyone, "HasAns_": [g for g in everyone if g.answers]}
    groups["NoAns_"] = [g for g in everyone if not g.answers]
    metrics: Figures = {}
    for prefix, group in groups.items():
        if group:
            for name, raw in (("exact", exact), ("f1", overlap)):
                scores = [_with_threshold(g, raw[g.id], odds[g.id] > na_threshold) if g.id in raw else 0 for g in group]
                metrics[prefix + name] = 100.0 * sum(scores) / len(scores)
            metrics[prefix + "total"] = len(group)
    if null_odds is not None:
        for name, raw in (("exact", exact), ("f1", overlap)):
            best, threshold = _best_threshold({g.id: g for g in predicted}, predictions, raw, odds)
            # Of all questions: those without a prediction are wrong at any threshold.
            best *= len(predicted) / len(everyone) if missing else 1
            metrics[f"best_{name}"], metrics[f"best_{name}_thresh"] = best, threshold
    return metrics


def _named(golds: Sequence[Gold]) -> str:
    return ", ".join(gold.id for gold in golds[:3]) + (", ..." if len(golds) > 3 else "")


def _raw_scores(
    golds: Sequence[Gold], predictions: Mapping[str, str], normalize: Normalize
) -> tuple[dict[str, float], dict[str, float]]:
    """Exact match and F1 by question, whatever the odds."""
    exact: dict[str, float] = {}
    overlap: dict[str, float] = {}
    for gold in golds:
        predicted = normalize(predictions[gold.id])
        # An answer of punctuation and articles alone normalizes to nothing: it counts as no answer.
        answers = [text for text in map(normalize, gold.answers) if text] or [""]
        exact[gold.id] = max(int(predicted == answer) for answer in answers)
        overlap[gold.id] = max(_f1_or_both_empty(predicted.split(), answer.split()) for answer in answers)
    return exact, overlap


def _f1_or_both_empty(predicted: list[str], gold: list[str]) -> float:
    return _f1(predicted, gold) if predicted and gold else int(predicted == gold)


def _with_threshold(gold: Gold, score: float, unanswered: bool) -> float:
    return float(not gold.answers) if unanswered else score


def _best_threshold(
    golds: Mapping[str, Gold], predictions: Mapping[str, str], scores: Mapping[str, float], odds: Mapping[str, float]
) -> tuple[float, float]:
    """The best metric over all thresholds, and its threshold: of equal ones the first in the order of the odds."""
    current: float = sum(not gold.answers for gold in golds.values())
    best, threshold = current, 0.0
    # A stable sort: equal odds keep the order of the file.
    for id in sorted(odds, key=lambda id: odds[id]):
        if id not in scores:
            continue
        if golds[id].answers:
            current += scores[id]
        elif predictions[id]:
            current -= 1
        if current > best:
            best, threshold = current, odds[id]
    return 100.0 * best / len(scores), threshold
