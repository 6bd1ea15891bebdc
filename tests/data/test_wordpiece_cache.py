"""Splitting each distinct word once gives the same ids as tokenizing the whole text."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import requires
from lmrecipes.data.tokenizers import wordpiece_cache
from lmrecipes.data.tokenizers.wordpiece import SPECIAL, WordPiece
from lmrecipes.data.tokenizers.wordpiece_cache import WordCache
from lmrecipes.data.tokenizers.wordpiece_config import load_wordpiece

REAL = Path(os.environ.get("LMRECIPES_TEST_DATA", "/nowhere"))
LETTERS = [*"abcdeéABÉxyz019.,!?-_$€°#“中文字ßŁİ", "\u2019", "\u0301", "\U0001f600", "\U00010100", "\U0001145b"]
TOKENS = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), "ab", "##cd", "##de"]


@pytest.fixture(scope="module", params=[(True, None), (False, None), (True, False), (False, True)])
def pair(request):
    vocabulary = WordPiece(TOKENS, lower_case=request.param[0], strip_accents=request.param[1])
    return vocabulary, WordCache(vocabulary)


@given(
    text=st.text(
        st.one_of(st.sampled_from([*LETTERS, *" \t\n\r\x00\x1c\x7f\x85\xa0\u200b\u2028\ufffd"]), st.characters())
    )
)
@settings(max_examples=300, deadline=None)
def test_any_text_has_the_tokenizers_ids(pair, text):
    vocabulary, words = pair
    if not any("\ud800" <= character <= "\udfff" for character in text):
        assert words.encode(text) == vocabulary.encode(text)


def test_an_overlong_word_is_one_unknown_token(pair):
    vocabulary, words = pair
    assert words.encode("ab " + "ab" * 60) == vocabulary.encode("ab " + "ab" * 60)
    assert words.encode("ab" * 60) == [vocabulary.unk_id]


def test_the_cache_is_bounded(pair, monkeypatch):
    monkeypatch.setattr(wordpiece_cache, "_MAX_WORDS", 10)
    vocabulary, _ = pair
    words = WordCache(vocabulary)
    for text in (f"{a}{b}{c}" for a in "abc" for b in "abc" for c in "abc"):
        assert words.encode(text) == vocabulary.encode(text)
        assert len(words) <= 10


@requires(REAL.is_dir(), "LMRECIPES_TEST_DATA is not set")
@pytest.mark.parametrize("lower_case", [True, False])
def test_real_text_of_all_languages_has_the_tokenizers_ids(lower_case):
    vocabulary = load_wordpiece(str(REAL / "vocab/bert-base-uncased-vocab.txt"), lower_case)
    words = WordCache(vocabulary)
    lines = [
        line
        for path in sorted((REAL / "languages").glob("*.txt"))
        for line in path.read_text(encoding="utf-8").splitlines()[:200]
    ]
    lines += (REAL / "web/wikipedia_30_articles.txt").read_text(encoding="utf-8").splitlines()
    assert [words.encode(line) for line in lines] == vocabulary.encode_batch(lines)
