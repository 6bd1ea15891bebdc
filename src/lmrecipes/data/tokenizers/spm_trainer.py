"""Learning a unigram model of pieces from text, by the `sentencepiece` package."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable

from lmrecipes.data.tokenizers.spm_proto import normalize_as_mt5, parse

# The library's maximum length of a piece.
_LONGEST = 16
# Long words are cut: the library drops lines of more than 4,192 bytes.
_WORD = re.compile(r"▁?[^▁]{1,400}")
# As in SentencePiece, letters, digits and other characters do not mix in a piece.
_RUN = r"▁?(?:[\p{L}\p{M}]+|\p{N}+|[^\p{L}\p{M}\p{N}▁]+)"
_WEIGHT = 16
_TOO_SMALL = re.compile(r"smaller than required_chars\. (\d+) vs (\d+)")
# The result depends on the number of threads, so it is fixed.
_THREADS = 16


def learn_pieces(texts: Iterable[str], vocab_size: int, character_coverage: float) -> bytes:
    """Learns a model with byte fallback for rare characters; the same texts give the same model.

    Args:
        texts: to learn from.
        vocab_size: maximum pieces, with 3 special ones and 256 bytes; fewer for little text.
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
            # The lines are normalized already, with ▁ at the beginning of words.
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            num_threads=_THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        match = _TOO_SMALL.search(str(error))
        if match is None:
            raise ValueError(f"data.sentencepiece: no vocabulary can be learned from the text: {error}") from None
        needed = int(match[2])
        raise ValueError(
            f"data.sentencepiece.vocab_size is {vocab_size:,}, but the text has {needed - 260:,} different characters; "
            f"it must be {needed:,} or more, or character_coverage smaller"
        ) from None
    proto = parse(written.getvalue())
    normalize_as_mt5(proto)
    return bytes(proto.SerializeToString())


def _weighted_lines(texts: Iterable[str]) -> list[str]:
    """Every distinct word with its frequency, in the library's tsv format.

    The library only considers pieces that are followed by different characters. A word that always precedes the same
    punctuation would be none, however frequent: so each repeated run of letters is added with a space after it, at a
    negligible weight.
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
