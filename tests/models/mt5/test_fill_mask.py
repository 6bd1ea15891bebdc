"""A text with blanks is encoded as in pretraining: tokens of the full text, with a sentinel for each blank."""

import pytest

from lmrecipes.data.tokenizers.sentencepiece import SentencePiece
from lmrecipes.data.tokenizers.spm_trainer import learn_pieces
from lmrecipes.models.mt5.fill_mask import masked


@pytest.fixture(scope="module")
def vocabulary():
    who, does, what = "我你他她", "喝有要买", "茶水奶酒"
    texts = [f"Anna drinks {n} cups, and {n + 1} of tea." for n in range(200)]
    texts += [f"{who[n % 4]}{does[n // 4 % 4]}{what[n // 16 % 4]}。" for n in range(200)]
    return SentencePiece(learn_pieces(texts, 400, 1.0))


@pytest.mark.parametrize(
    ("text", "blanks"),
    [
        ("Anna drinks 7 cups.", ["7"]),
        ("Anna drinks tea.", ["tea"]),
        ("Anna drinks tea, and 7 cups of tea.", ["tea", "cups"]),
        ("我喝茶。", ["我喝茶"]),
        ("tea and cups.", ["tea"]),
    ],
)
def test_blanks_change_no_other_token(vocabulary, text, blanks):
    whole, shown = vocabulary.encode(text), text
    for number, blank in enumerate(blanks):
        shown = shown.replace(blank, "<mask>", 1)
        hidden = vocabulary.encode(blank)
        at = next(i for i in range(len(whole)) if whole[i : i + len(hidden)] == hidden)
        whole[at : at + len(hidden)] = [vocabulary.sentinel(number)]
    assert masked(shown, vocabulary) == whole
