"""Spans from all windows give one answer per question, in any order, and files in the official formats."""

import itertools
import json
import math

import numpy as np
import pytest
import torch

from lmrecipes.batches import SpanScores
from lmrecipes.data.tasks.squad.answers import (
    Candidate,
    Evidence,
    answer,
    best_candidates,
    evidence_of,
    merged,
    write_answers,
)
from lmrecipes.data.tasks.squad.best_spans import best_spans
from lmrecipes.data.tasks.squad.collators import SpanCollator
from lmrecipes.data.tasks.squad.files import Question
from lmrecipes.data.tasks.squad.prepared import prepare_questions
from lmrecipes.data.tasks.squad.windows import Windowing
from lmrecipes.data.tokenizers.wordpiece import WordPiece

WORDS = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "where", "is", *(f"w{i}" for i in range(100))])
WHOLE = Windowing(seq_len=30, max_query_len=2, doc_stride=3)
CONTEXT = "W0  w1, w2 w3 w4 w5 w6 w7 w8 w9"


def prepared(seq_len=13, stride=3):
    """Windows of one question; positions in a window: [CLS], where, is, [SEP], then the context."""
    windowing = Windowing(seq_len=seq_len, max_query_len=2, doc_stride=stride)
    questions = [Question("a", "where is", CONTEXT), Question("b", "where is", "w1 w2")]
    return prepare_questions(questions, WORDS, windowing)


def scores(rows, null, *, null_is_odds=False):
    """One row per window: its number, and its spans with start and end scores."""
    width = max(len(spans) for _, spans in rows)
    spans = [[*spans, *[(0, 0, -math.inf, 0.0)] * (width - len(spans))] for _, spans in rows]
    starts, ends, a, b = (torch.tensor([[span[i] for span in row] for row in spans]) for i in range(4))
    return SpanScores(torch.tensor([w for w, _ in rows]), starts, ends, a, b, torch.tensor(null), null_is_odds)


def test_candidates_are_exact_texts_and_invalid_spans_are_dropped():
    data = prepared(seq_len=30)
    spans = [
        (4, 5, 1.0, 1.0),  # W0  w1
        (5, 4, 9.0, 9.0),  # ends before it starts
        (3, 4, 9.0, 9.0),  # starts at [SEP]
        (0, 0, 9.0, 9.0),  # [CLS]
        (14, 15, 9.0, 9.0),  # ends at the last [SEP]
        (4, 9, 9.0, 9.0),  # too long
        (7, 7, -math.inf, 0.0),
        (6, 6, 3.0, 0.5),
    ]
    result = evidence_of(scores([(0, spans)], [0.0]), data.pieces, data.questions, max_answer_len=5)
    assert [c.text for c in result["a"].candidates] == [",", "W0  w1"]
    assert result["a"].candidates[0][1:3] == (3.0, 0.5)


def test_a_start_counts_only_in_the_window_with_most_context():
    data = prepared()
    assert data.pieces.begin.tolist() == [0, 3, 0]
    # w2 (token 3) is the first token of the second window and in the middle of the first.
    token = 3
    first, second = (4 + token, 4 + token, 1.0, 1.0), (4 + token - 3, 4 + token - 3, 5.0, 5.0)
    result = evidence_of(scores([(0, [first]), (1, [second])], [0.0, -1.0]), data.pieces, data.questions)
    assert [(c.text, c.score) for c in result["a"].candidates] == [("w2", 2.0)]
    assert result["a"].null == -1.0


def test_merging_results_ignores_order_and_duplicates():
    chance = np.random.default_rng(0)
    data = prepared()
    parts = []
    for window in (0, 1, 0, 1, 1):
        places = chance.integers(0, 9, (12, 2))
        spans = [(int(s), int(s + n), *chance.integers(0, 3, 2).astype(float)) for s, n in places]
        rows = scores([(window, spans)], [float(chance.integers(-3, 3))])
        parts.append(evidence_of(rows, data.pieces, data.questions, n_best=4))
    everything = merged(parts, 4)
    for order in itertools.permutations(parts):
        assert merged(order, 4) == everything
        assert merged([merged(order[:2], 4), merged(order[2:], 4), *order], 4) == everything


def test_padding_windows_are_ignored():
    data = prepared()
    rows = scores([(-1, [(4, 4, 9.0, 9.0)]), (2, [(4, 5, 1.0, 1.0)])], [0.0, 0.0])
    result = evidence_of(rows, data.pieces, data.questions)
    assert list(result) == ["b"]
    assert result["b"].candidates[0].text == "w1 w2"


def test_null_odds_are_the_null_score_minus_the_best_span_or_the_classifiers_own():
    spans = (Candidate("x", 2.0, 1.0), Candidate("y", 0.0, 1.0))
    compared = Evidence(spans, null=2.5)
    assert answer(compared).null_odds == -0.5
    assert answer(compared, 0.0).text == "x"
    assert answer(compared, -0.6).text == ""
    assert answer(compared, -0.6).best == "x"
    separate = Evidence(spans, null=2.5, null_is_odds=True)
    assert answer(separate, 2.5).text == "x"
    assert answer(separate, 2.4).text == ""
    # Without a threshold every question is answered.
    assert answer(separate).text == "x"
    assert answer(Evidence((), null=0.0), 5.0).text == ""
    assert math.isfinite(answer(Evidence((), null=0.0)).null_odds)
    assert answer(Evidence((Candidate("", 0.0, 0.0),))).null_odds is None


def test_probabilities_are_a_softmax_of_scores_and_sum_to_one():
    spans = (Candidate("x", 2.0, 1.0), Candidate("y", 0.0, 1.0))
    rows = answer(Evidence(spans, null=2.5)).nbest
    assert [row["text"] for row in rows] == ["x", "y"]
    share = pytest.approx(1 / (1 + math.exp(-2)))
    assert rows[0] == {"text": "x", "probability": share, "start_logit": 2.0, "end_logit": 1.0}
    rows = answer(Evidence(spans, null=2.5), may_lack=True).nbest
    assert [row["text"] for row in rows] == ["x", "", "y"]
    expected = torch.tensor([3.0, 2.5, 1.0]).double().softmax(0).tolist()
    assert [row["probability"] for row in rows] == pytest.approx(expected)
    rows = answer(Evidence(spans, null=0.0, null_is_odds=True), may_lack=True).nbest
    assert {row["text"]: row["probability"] for row in rows}[""] == 0.5
    assert sum(row["probability"] for row in rows) == pytest.approx(1)


def test_a_text_found_twice_keeps_its_better_score():
    result = best_candidates([Candidate("x", 0, 1, (1,)), Candidate("y", 0, 2), Candidate("x", 2, 2, (2,))], 2)
    assert [(c.text, c.score) for c in result] == [("x", 4), ("y", 2)]


def test_best_spans_equal_exhaustive_search():
    data = prepared(seq_len=30)
    batch = SpanCollator().batch(data, np.array([0, 1]), WORDS, WHOLE)
    assert batch.allowed.sum(1).tolist() == [12, 3]
    assert batch.input_ids.shape == (2, 16)
    generator = torch.Generator().manual_seed(0)
    start, end = torch.randn(2, 2, 16, generator=generator).unbind()
    result = best_spans(start, end, batch, n_best=8, max_answer_len=4)
    for row, (first, last) in enumerate([(4, 14), (4, 5)]):
        every = sorted(
            ((start[row, s] + end[row, e]).item(), s, e)
            for s in range(first, last + 1)
            for e in range(s, min(s + 4, last + 1))
        )[::-1][:8]
        real = torch.isfinite(result.start_scores[row] + result.end_scores[row])
        sums = (result.start_scores + result.end_scores)[row, real].tolist()
        spans = list(zip(sums, result.starts[row, real].tolist(), result.ends[row, real].tolist(), strict=True))
        assert spans == [(pytest.approx(score), s, e) for score, s, e in every]
    assert result.null.tolist() == (start[:, 0] + end[:, 0]).tolist()


def test_a_batch_has_context_mask_and_labels(tmp_path):
    data = prepared(seq_len=30)
    batch = SpanCollator().batch(data, np.array([1, 0]), WORDS, WHOLE)
    assert batch.lengths.tolist() == [7, 16]
    assert batch.token_type_ids[0].tolist() == [0] * 4 + [1] * 3 + [0] * 9
    assert batch.allowed[0].tolist() == [True, False, False, False, True, True] + [False] * 10
    assert batch.input_ids[0, 7:].tolist() == [0] * 9
    assert batch.windows.tolist() == [1, 0]
    empty = SpanCollator().batch(data, np.array([], dtype=int), WORDS, WHOLE)
    assert empty.windows.tolist() == [-1]


def test_written_files_have_the_official_formats(tmp_path):
    spans = (Candidate("é", 2.0, 1.0),)
    answered = {"q": answer(Evidence(spans, null=9.0), 0.0, may_lack=True)}
    write_answers(tmp_path, answered, may_lack=True)
    read = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in tmp_path.iterdir()}
    assert read["predictions.json"] == {"q": ""}
    assert read["unthresholded_predictions.json"] == {"q": "é"}
    assert read["null_odds.json"] == {"q": 6.0}
    for row in read["nbest_predictions.json"]["q"]:
        assert sorted(row) == ["end_logit", "probability", "start_logit", "text"]
    write_answers(tmp_path / "b", answered, may_lack=False)
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["nbest_predictions.json", "predictions.json"]
