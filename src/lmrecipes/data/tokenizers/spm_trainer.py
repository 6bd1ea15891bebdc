"""Learning a unigram model of pieces from text, by the `sentencepiece` package."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable

from lmrecipes.data.tokenizers.spm_proto import normalize_as_mt5, parse

# The library's limit of a piece.
_LONGEST = 16
# A text without spaces is cut: the library leaves out lines of more than 4,192 bytes.
_WORD = re.compile(r"▁?[^▁]{1,400}")
# As in SentencePiece no piece has letters and digits, or either and a sign.
_RUN = r"▁?(?:[\p{L}\p{M}]+|\p{N}+|[^\p{L}\p{M}\p{N}▁]+)"
_WEIGHT = 16
_TOO_SMALL = re.compile(r"smaller than required_chars\. (\d+) vs (\d+)")
# Partial sums are added in the order of the threads, so that their number, not the machine, decides the result.
_THREADS = 16


def learn_pieces(texts: Iterable[str], vocab_size: int, character_coverage: float) -> bytes:
    """A model of texts, with bytes for the characters that are too rare to be pieces; the same texts give the same.

    Args:
        texts: what to learn from.
        vocab_size: pieces at most, with the 3 special ones and the 256 bytes; there are fewer where texts are few.
        character_coverage: share of the text's characters that become pieces.

    Returns:
        The content of a `.model` file.

    Raises:
        ValueError: if the characters alone are more than vocab_size.
    """
    from sentencepiece import SentencePieceTrainer

    written = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(_weighted_lines(texts)),
            input_format="tsv",
            model_writer=written,
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            character_coverage=character_coverage,
            max_sentencepiece_length=_LONGEST,
            byte_fallback=True,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            # The lines are normalized already, and begin with ▁ where a word begins.
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            num_threads=_THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        found = _TOO_SMALL.search(str(error))
        if found is None:
            raise ValueError(f"data.sentencepiece: no vocabulary can be learned from the text: {error}") from None
        needed = int(found[2])
        raise ValueError(
            f"data.sentencepiece.vocab_size is {vocab_size:,}, but the text has {needed - 260:,} different characters; "
            f"{needed:,} or more would do, or a smaller character_coverage"
        ) from None
    proto = parse(written.getvalue())
    normalize_as_mt5(proto)
    return bytes(proto.SerializeToString())


def _weighted_lines(texts: Iterable[str]) -> list[str]:
    """Every different word with how often it comes, for the library's tsv format.

    The library takes for a piece only what is followed by different characters somewhere. A word that always stands
    before the same sign would be none, however often it comes: so each run of letters that comes more than once is
    given again with a space behind it, at a weight that hardly counts.
    """
    from sentencepiece import SentencePieceNormalizer
    from tokenizers import Regex, pre_tokenizers

    normalizer = SentencePieceNormalizer(rule_name="nmt_nfkc")
    words = Counter(word for text in texts for word in _WORD.findall(normalizer.normalize(text)))
    split = pre_tokenizers.Split(Regex(_RUN), "isolated").pre_tokenize_str
    runs: Counter[str] = Counter()
    for word, number in words.items():
        for run, _ in split(word):
            runs[run] += number
    again = [run for run, number in runs.items() if number > 1 and len(run) <= _LONGEST]
    return [*(f"{word}\t{_WEIGHT * number}" for word, number in words.items()), *(f"{run}▁\t1" for run in again)]
