"""From scored spans of windows to one answer per question, with its n-best list."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lmrecipes.batches import SpanScores
from lmrecipes.data.tasks.squad.files import Question
from lmrecipes.data.tasks.squad.windows import Windows
from lmrecipes.runtime.atomic_write import write_text

# Null odds of a question without candidates: JSON has no infinity.
_NO_SPAN = 1e6


class Candidate(NamedTuple):
    """A possible answer."""

    text: str
    start_score: float
    end_score: float
    place: tuple[int, ...] = ()
    """Its position; of candidates with equal scores the first counts."""

    @property
    def score(self) -> float:
        """Sum of both scores."""
        return self.start_score + self.end_score


@dataclass(frozen=True)
class Evidence:
    """Candidates for the answer to a question, from some of its windows."""

    candidates: tuple[Candidate, ...]
    """Best first, each text once."""
    null: float | None = None
    """Score, or log odds, of no answer; None from a model that writes an empty text instead."""
    null_is_odds: bool = False
    """Whether `null` is log odds instead of a score that compares with the candidates'."""


@dataclass(frozen=True)
class Answered:
    """The answer to a question."""

    text: str
    """Empty for no answer."""
    best: str
    """The best candidate, whatever the odds of no answer."""
    null_odds: float | None
    """Log odds of no answer; None if unknown."""
    nbest: list[dict[str, Any]]
    """The best candidates in the published format: text, probability, start_logit, end_logit."""


def best_candidates(candidates: Iterable[Candidate], n_best: int) -> tuple[Candidate, ...]:
    """The best candidates, best first, each text once."""
    best: dict[str, Candidate] = {}
    for candidate in sorted(candidates, key=lambda c: (-c.score, c.place)):
        best.setdefault(candidate.text, candidate)
    return tuple(best.values())[:n_best]


def merged(evidence: Iterable[Mapping[str, Evidence]], n_best: int) -> dict[str, Evidence]:
    """Merges evidence by question, independent of order; duplicates count once."""
    by_question: dict[str, list[Evidence]] = {}
    for part in evidence:
        for id, one in part.items():
            by_question.setdefault(id, []).append(one)
    return {id: _joined(parts, n_best) for id, parts in by_question.items()}


def _joined(parts: Sequence[Evidence], n_best: int) -> Evidence:
    if len(parts) == 1:
        return parts[0]
    nulls = [part.null for part in parts if part.null is not None]
    return Evidence(
        best_candidates((c for part in parts for c in part.candidates), n_best),
        min(nulls) if nulls else None,
        any(part.null_is_odds for part in parts),
    )


def evidence_of(
    scores: SpanScores, windows: Windows, questions: Sequence[Question], *, n_best: int = 20, max_answer_len: int = 30
) -> dict[str, Evidence]:
    """Valid spans as texts of their contexts, by question.

    Args:
        scores: of a step; windows with number -1 are skipped.
        windows: of the split.
        questions: of the windows.
        n_best: candidates to keep per question.
        max_answer_len: maximum tokens of an answer.
    """
    numbers = scores.windows.cpu().numpy()
    starts, ends = (positions.cpu().numpy() for positions in (scores.starts, scores.ends))
    start_scores, end_scores = (
        x.float().cpu().numpy().astype(np.float64) for x in (scores.start_scores, scores.end_scores)
    )
    null = scores.null.float().cpu().numpy().astype(np.float64)
    first = windows.context_position(numbers)[:, None]
    behind = first + windows.n_context[numbers][:, None]
    legal = (starts >= first) & (ends < behind) & (ends >= starts) & (ends - starts < max_answer_len)
    legal &= np.isfinite(start_scores + end_scores)
    evidence: list[dict[str, Evidence]] = []
    for row, number in enumerate(numbers.tolist()):
        if number < 0:
            continue
        columns = np.flatnonzero(legal[row])
        columns = columns[windows.sees_best(number)[starts[row, columns] - first[row]]]
        begin, end = windows.characters(number, starts[row, columns], ends[row, columns])
        question = questions[int(windows.question[number])]
        candidates = [
            Candidate(question.context[a:b], *score, place=(number, *place))
            for a, b, score, place in zip(
                begin.tolist(),
                end.tolist(),
                zip(start_scores[row, columns].tolist(), end_scores[row, columns].tolist(), strict=True),
                zip(starts[row, columns].tolist(), ends[row, columns].tolist(), strict=True),
                strict=True,
            )
        ]
        best = best_candidates(candidates, n_best)
        evidence.append({question.id: Evidence(best, float(null[row]), scores.null_is_odds)})
    return merged(evidence, n_best)


def answer(evidence: Evidence, null_threshold: float | None = None, *, may_lack: bool = False) -> Answered:
    """Decides on an answer.

    Args:
        evidence: of all windows.
        null_threshold: log odds above which the answer is empty; None: it never is.
        may_lack: whether "no answer" is listed among the best candidates.
    """
    best = evidence.candidates[0] if evidence.candidates else None
    odds = evidence.null
    if odds is not None and not evidence.null_is_odds:
        odds = odds - best.score if best is not None else _NO_SPAN
    text = "" if best is None else best.text
    unanswered = odds is not None and null_threshold is not None and odds > null_threshold
    return Answered("" if unanswered else text, text, odds, _listed(evidence, may_lack))


def _listed(evidence: Evidence, may_lack: bool) -> list[dict[str, Any]]:
    """Candidates with their probabilities: a softmax of scores, after the share of a separate no-answer classifier.

    Scores of generated answers, which have no null, are log-probabilities of the whole texts.
    """
    rows = [(c.text, c.start_score, c.end_score) for c in evidence.candidates]
    null, nothing = evidence.null, 0.0
    if null is None and rows:
        return [_row(text, math.exp(start + end), start, end) for text, start, end in rows]
    if null is not None and may_lack:
        if evidence.null_is_odds:
            nothing = 0.5 * (1 + math.tanh(null / 2)) if rows else 1.0
        else:
            rows.append(("", null, 0.0))
    if not rows:
        return [_row("", 1.0, 0.0 if null is None else null, 0.0)]
    rows.sort(key=lambda row: -(row[1] + row[2]))
    top = rows[0][1] + rows[0][2]
    weights = [math.exp(start + end - top) for _, start, end in rows]
    total = sum(weights)
    listed = [
        _row(text, (1 - nothing) * weight / total, start, end)
        for (text, start, end), weight in zip(rows, weights, strict=True)
    ]
    if nothing and null is not None:
        listed.append(_row("", nothing, null, 0.0))
        listed.sort(key=lambda row: -row["probability"])
    return listed


def _row(text: str, probability: float, start: float, end: float) -> dict[str, Any]:
    return {"text": text, "probability": probability, "start_logit": start, "end_logit": end}


def write_answers(folder: Path, answered: Mapping[str, Answered], *, may_lack: bool) -> None:
    """Writes predictions.json and nbest_predictions.json, and for questions that may lack an answer null_odds.json
    and unthresholded_predictions.json, each atomically.
    """
    _write(folder / "predictions.json", {id: a.text for id, a in answered.items()})
    _write(folder / "nbest_predictions.json", {id: a.nbest for id, a in answered.items()})
    odds = {id: a.null_odds for id, a in answered.items() if a.null_odds is not None}
    if may_lack and odds:
        _write(folder / "null_odds.json", odds)
        _write(folder / "unthresholded_predictions.json", {id: a.best for id, a in answered.items()})


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, ensure_ascii=False, indent=4) + "\n")
