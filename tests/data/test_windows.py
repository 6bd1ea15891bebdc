"""Windows equal those of the published loop, are labelled by either rule, and map back to exact characters."""

import os
from pathlib import Path

import numpy as np
import pytest

from conftest import requires
from lmrecipes.data.tasks.squad.files import Answer, Question, read_squad
from lmrecipes.data.tasks.squad.windows import Windowing, Windows, cut
from lmrecipes.data.tokenizers.wordpiece import WordPiece
from lmrecipes.data.tokenizers.wordpiece_config import load_wordpiece

REAL = Path(os.environ.get("LMRECIPES_TEST_DATA", "/nowhere"))
real_data = requires(REAL.is_dir(), "LMRECIPES_TEST_DATA is not set")
WORDS = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "where", "is", *(f"w{i}" for i in range(100))])


def question(n_context, answer=None, number=0):
    context = " ".join(f"w{i}" for i in range(n_context))
    answers = ()
    if answer is not None:
        text = " ".join(f"w{i}" for i in range(answer[0], answer[1] + 1))
        answers = (Answer(text, context.index(text)),)
    return Question(f"q{number}", "where is", context, answers, not answers)


def published_windows(n_context, room, stride):
    """Start and length of each window, by the loop of BERT's SQuAD reader."""
    result, start = [], 0
    while start < n_context:
        length = min(n_context - start, room)
        result.append((start, length))
        if start + length == n_context:
            break
        start += min(length, stride)
    return result


def window_with_max_context(windows, token):
    """The window in which a token has most context."""
    best, best_score = None, None
    for number, (start, length) in enumerate(windows):
        if start <= token < start + length:
            score = min(token - start, start + length - 1 - token) + 0.01 * length
            if best_score is None or score > best_score:
                best, best_score = number, score
    return best


def test_windows_that_do_not_overlap_are_warned_of():
    short, long = [question(n, number=n) for n in (3, 5)], [question(n, number=n) for n in (3, 97)]
    windowing = Windowing(seq_len=16, max_query_len=6, doc_stride=100)
    cut(short, WORDS, windowing)
    with pytest.warns(match="data.doc_stride is 100, but a window of batch.seq_len 16 has at most"):
        cut(long, WORDS, windowing)


@pytest.mark.filterwarnings("ignore:data.doc_stride is 100")
@pytest.mark.parametrize(("seq_len", "stride"), [(16, 4), (16, 9), (12, 100), (20, 1), (64, 16)])
def test_windows_and_max_context_are_as_published(seq_len, stride):
    questions = [question(n, number=n) for n in (1, 5, 9, 10, 11, 25, 40, 97)]
    result = cut(questions, WORDS, Windowing(seq_len=seq_len, max_query_len=6, doc_stride=stride))
    for number, query in enumerate(questions):
        here = np.flatnonzero(result.question == number)
        n_query = result.query_bounds[number + 1] - result.query_bounds[number]
        n_context = len(query.context.split())
        expected = published_windows(n_context, seq_len - n_query - 3, stride)
        assert list(zip(result.begin[here].tolist(), result.n_context[here].tolist(), strict=True)) == expected
        for index, window in enumerate(here.tolist()):
            start, length = expected[index]
            best = [window_with_max_context(expected, token) == index for token in range(start, start + length)]
            assert result.sees_best(window).tolist() == best


def test_a_window_holds_special_tokens_question_and_context():
    query = question(12, (7, 8))
    result = cut([query], WORDS, Windowing(seq_len=12, max_query_len=2, doc_stride=5))
    texts = [WORDS.decode(result.ids(window, WORDS.cls_id, WORDS.sep_id)) for window in range(len(result))]
    assert texts == [
        "[CLS] where is [SEP] w0 w1 w2 w3 w4 w5 w6 [SEP]",
        "[CLS] where is [SEP] w5 w6 w7 w8 w9 w10 w11 [SEP]",
    ]
    assert result.lengths.tolist() == [12, 12]


@pytest.mark.parametrize(("rule", "impossible"), [("google", [0, 0, 0, 1, 1, 1]), ("nvidia", [1, 0, 1, 1, 1, 1])])
def test_windows_without_the_answer_follow_the_chosen_rule(rule, impossible):
    questions = [question(17, (5, 7)), question(17)]
    result = cut(questions, WORDS, Windowing(seq_len=12, max_query_len=4, doc_stride=5, rule=rule))
    assert result.begin.tolist() == [0, 5, 10, 0, 5, 10]
    # The first window has w0 to w6 and ends inside the answer; the second begins four tokens before it.
    assert result.start.tolist() == [0, 4, 0, 0, 0, 0]
    assert result.end.tolist() == [0, 6, 0, 0, 0, 0]
    assert result.impossible.astype(int).tolist() == impossible


@pytest.mark.parametrize(
    ("context", "answer"),
    [
        ("Où est L'Élysée ? À Paris — 8e.", "L'Élysée"),
        ("Straße\u00a0der  Freiheit, 17", "Straße\u00a0der  Freiheit"),
        ("e\u0301te\u0301 und Cafe\u0301!", "Cafe\u0301"),
        ("वह किताबें पढ़ता है", "किताबें"),
        ("北京大学位于北京。", "大学"),
        ("a 🙂 smile\u200b and [MASK] here", "[MASK]"),
        ("İstanbul'da", "İstanbul"),
        ("tab\tand\u202fnarrow", "and\u202fnarrow"),
    ],
)
def test_a_span_maps_back_to_exact_characters(context, answer):
    letters = sorted({c.lower() for c in context if not c.isspace()} | set("abcdefghijklmnopqrstuvwxyz"))
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
    vocabulary = WordPiece([t for i, t in enumerate(tokens) if t not in tokens[:i]])
    query = Question("q", "x", context, (Answer(answer, context.index(answer)),))
    result = cut([query], vocabulary, Windowing(seq_len=100))
    start, end = result.characters(0, result.start[:1], result.end[:1])
    assert context[start[0] : end[0]] == answer


def test_windows_load_unchanged_from_disk(tmp_path):
    result = cut([question(40, (30, 31)), question(12)], WORDS, Windowing(seq_len=20, max_query_len=8, doc_stride=3))
    result.save(tmp_path)
    again = Windows.load(tmp_path)
    assert isinstance(again.context_ids, np.memmap)
    for name in vars(Windows(*[np.zeros(0)] * 12)):
        np.testing.assert_array_equal(getattr(again, name), getattr(result, name))


def test_sizes_without_room_for_context_are_rejected():
    with pytest.raises(ValueError, match=r"batch\.seq_len is 60, .* 68 or more would"):
        Windowing(seq_len=60)
    with pytest.raises(ValueError, match=r"data\.doc_stride is 0"):
        Windowing(seq_len=384, doc_stride=0)


def test_a_context_without_a_token_still_has_a_window():
    result = cut([Question("q", "where", "\u200b\u200b", is_impossible=True)], WORDS, Windowing(seq_len=100))
    assert (len(result), result.n_context.tolist(), result.lengths.tolist()) == (1, [0], [4])


@real_data
@pytest.mark.parametrize(("language", "least"), [("de", 1189), ("zh", 1190), ("hi", 1184)])
def test_gold_answers_survive_windows_byte_for_byte(language, least):
    vocabulary = load_wordpiece(str(REAL / "vocab/bert-base-uncased-vocab.txt"))
    questions = read_squad(REAL / f"xquad/xquad.{language}.json").questions
    result = cut(questions, vocabulary, Windowing(seq_len=160, doc_stride=64))
    texts = {}
    for window in np.flatnonzero(result.start).tolist():
        start, end = result.characters(window, result.start[[window]], result.end[[window]])
        query = questions[result.question[window]]
        texts.setdefault(query.id, set()).add(query.context[start[0] : end[0]])
    # The others begin or end within a word.
    assert sum(texts.get(q.id) == {q.answers[0].text} for q in questions) >= least
