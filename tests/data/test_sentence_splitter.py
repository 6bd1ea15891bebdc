"""Sentences end where a reader would end them, and only white space is lost."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import requires
from lmrecipes.data.corpora.sentence_splitter import split_sentences

REAL = Path(os.environ.get("LMRECIPES_TEST_DATA", "/nowhere"))

CASES = [
    "It was late. | He left.",
    "Mr. Smith met Dr. J. R. Brown on St. Mary's Rd. | They spoke.",
    "It costs 3.14 dollars. | See No. 5 and fig. 2 for more. | No. 6 is lost.",
    "No. | He said no. | Yes!",
    "“Is it?” she asked. | “It is!” | He left (or so he said). | Then nothing.",
    'He said "Go." | Then he went.',
    "She works at Apple Inc. in California. | He lives in the U.S. and in the U.K. | The end.",
    "In the U.S. Senate it passed. | Really?! | Yes... | And so on.",
    "He was born in 1999. | She was not.",
    "Items, e.g. Apples, i.e. fruit, etc. are listed. | Done.",
    "1. First the eggs. | 2. Then the milk.",
    "Wait... what? | Nothing.",
    "¿Qué es? | ¡Es eso! | Él dijo «no». | Ya está.",
    "今日は晴れです。|明日は「雨」でしょう！|本当？|はい。",
    "यह एक वाक्य है। | यह दूसरा है।",
    "هل هذا صحيح؟ | نعم.",
    "Nothing ends here",
    "The temperature at 5 p.m. was high. | We met at 5 p.m. | He was late.",
]


@pytest.mark.parametrize("case", CASES)
def test_sentences_end_where_a_reader_would_end_them(case):
    expected = [sentence.strip() for sentence in case.split("|")]
    text = re.sub(r" ?\| ?", lambda result: result.group().replace("|", "").replace("  ", " "), case)
    assert split_sentences(text) == expected


@given(st.text(alphabet=st.sampled_from(list("aAbB1 .!?…\"')(“”。！」\n\u00a0")), max_size=60))
@settings(max_examples=300, deadline=None)
def test_only_white_space_is_lost(text):
    sentences = split_sentences(text)
    assert "".join("".join(sentences).split()) == "".join(text.split())
    assert all(sentence == sentence.strip() != "" for sentence in sentences)


@requires(REAL.is_dir(), "LMRECIPES_TEST_DATA is not set")
@pytest.mark.parametrize(
    ("language", "share"), [("en", 0.94), ("fr", 0.95), ("es", 0.96), ("ru", 0.88), ("hi", 0.95), ("ja", 0.93)]
)
def test_joined_sentences_of_real_text_are_split_again(language, share):
    lines = (REAL / "languages" / f"{language}.txt").read_text(encoding="utf-8").splitlines()
    ended = [line.strip() for line in lines if line.strip()[-1:] in set(".!?。！？।")]
    result = set(split_sentences(("" if language == "ja" else " ").join(ended)))
    assert sum(line in result for line in ended) > share * len(ended)
