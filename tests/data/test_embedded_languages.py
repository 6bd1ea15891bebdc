"""Sentences in 24 languages are deterministic, distinct, and in the right script."""

import unicodedata

import pytest

from lmrecipes.data.embedded.languages import LANGUAGES, SENTENCES, sentences_of

SCRIPTS = {
    "el": "GREEK",
    "hi": "DEVANAGARI",
    "ja": "CJK|HIRAGANA|KATAKANA",
    "ko": "HANGUL",
    "ru": "CYRILLIC",
    "zh": "CJK",
}


def test_the_languages_are_those_of_the_recipe():
    assert " ".join(LANGUAGES) == "cs da de el en es fi fr hi hu it ja ko lt lv nl no pl pt ro ru sk sv zh"


@pytest.mark.parametrize("language", LANGUAGES)
def test_sentences_are_complete_and_in_the_languages_script(language):
    sentences = sentences_of(language)
    assert len(set(sentences)) == len(sentences) == SENTENCES
    assert not any(mark in sentence for sentence in sentences for mark in "{}\n")
    assert all(sentence[-1] in ".?;।。？" or sentence.endswith("다.") for sentence in sentences)
    letters = "".join(character for sentence in sentences for character in sentence if character.isalpha())
    names = SCRIPTS.get(language, "LATIN").split("|")
    script = sum(any(name in unicodedata.name(letter) for name in names) for letter in letters)
    assert script == len(letters)
    sentences_of.cache_clear()
    assert sentences_of(language) == sentences


def test_an_unknown_language_is_rejected_with_the_known_ones():
    with pytest.raises(ValueError, match="embedded:xx does not exist; embedded are cs da"):
        sentences_of("xx")
