"""WordPiece, the vocabulary of BERT and ELECTRA: read from a file or folder, or learned from text."""

from __future__ import annotations

import hashlib
import io
import json
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmrecipes.data.vocabularies import Ids, Vocabulary, load_vocabulary

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# Of other scripts' characters the rare ones would take the room of words.
_ALPHABET = 1000


class WordPiece(Vocabulary):
    """Words, and pieces of words that begin with ##; what a text spells like [MASK] stays text."""

    kind = "wordpiece"
    spells = False

    def __init__(self, tokens: Sequence[str], *, lower_case: bool = True, strip_accents: bool | None = None) -> None:
        """Makes a vocabulary of tokens in the order of their ids.

        Args:
            tokens: the tokens, [PAD], [UNK], [CLS], [SEP] and [MASK] among them.
            lower_case: whether text is lower-cased.
            strip_accents: whether letters lose their accents; left out, where text is lower-cased.

        Raises:
            ValueError: for a special token that is missing, or a token that is there twice.
        """
        self.tokens = list(tokens)
        self.lower_case = lower_case
        self.strip_accents = strip_accents
        self._ids = {token: i for i, token in enumerate(self.tokens)}
        if missing := [token for token in SPECIAL if token not in self._ids]:
            raise ValueError(f"the WordPiece vocabulary has no {', '.join(missing)}; it needs {' '.join(SPECIAL)}")
        if len(self._ids) < len(self.tokens):
            twice = next(token for i, token in enumerate(self.tokens) if self._ids[token] != i)
            raise ValueError(f"the WordPiece vocabulary has the token {twice!r} twice")
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (self._ids[token] for token in SPECIAL)
        self.unknown = self.unk_id
        self.tokenizer = _tokenizer(self._ids, lower_case, strip_accents)

    @property
    def size(self) -> int:
        """Different tokens."""
        return len(self.tokens)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without [CLS] and [SEP]."""
        return [int(i) for i in self.tokenizer.encode(text, add_special_tokens=False).ids]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each of several texts, without [CLS] and [SEP]."""
        return [found.ids for found in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def encode_with_offsets(self, texts: Sequence[str]) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """Ids of each of several texts, and from which to which character each token comes: (tokens,), (tokens, 2)."""
        found = self.tokenizer.encode_batch(texts, add_special_tokens=False)
        return [(np.array(e.ids, np.uint32), np.array(e.offsets, np.int32).reshape(-1, 2)) for e in found]

    def encode_block(self, text: str) -> Ids:
        """Ids of a block of lines, without anything for their ends."""
        encoded = self.encode_batch(io.StringIO(text).readlines())
        return np.concatenate([np.asarray(ids, dtype=np.uint32) for ids in encoded] or [np.empty(0, np.uint32)])

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids, pieces joined to words."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))

    @cached_property
    def fast(self) -> Any:
        """The same as a tokenizer of transformers, which puts [CLS] and [SEP] in place and knows offsets."""
        from transformers import ElectraTokenizerFast

        return ElectraTokenizerFast(
            vocab=dict(self._ids), do_lower_case=self.lower_case, strip_accents=self.strip_accents
        )

    def _content(self) -> dict[str, Any]:
        return {"tokens": self.tokens, "lower_case": self.lower_case, "strip_accents": self.strip_accents}

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (self._content(),)


def _rebuilt(content: dict[str, Any]) -> WordPiece:
    return WordPiece(content.pop("tokens"), **content)


def _tokenizer(ids: dict[str, int], lower_case: bool, strip_accents: bool | None) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    made = Tokenizer(models.WordPiece(vocab=ids, unk_token="[UNK]", max_input_chars_per_word=100))
    made.normalizer = normalizers.BertNormalizer(lowercase=lower_case, strip_accents=strip_accents)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    return made


@dataclass(frozen=True, kw_only=True)
class WordPieceSettings:
    """Which WordPiece vocabulary a corpus gets."""

    name: str | None = None
    """A vocab.txt, a tokenizer.json, a folder with one of them or with a run's vocabulary, or a name on the Hugging
    Face hub; left out, a vocabulary is learned from the corpus."""
    vocab_size: int = 30522
    """Tokens to learn at most."""
    lower_case: bool | None = None
    """Whether text is lower-cased; left out, as the folder says, and else yes."""
    sample_mb: int = 100
    """Text to learn from at most, in millions of characters."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot be.

        Raises:
            ValueError: naming the field and what would work.
        """
        for field, least in (("vocab_size", 100), ("sample_mb", 1)):
            if getattr(self, field) < least:
                raise ValueError(f"data.wordpiece.{field} is {getattr(self, field)}; it must be {least} or more")

    def describe(self) -> dict[str, Any]:
        """What identifies the vocabulary: the settings, and the content of the files that they name."""
        return {**asdict(self), "content": self.content()}

    def content(self) -> str | None:
        """A hash of the files that it is read from; None if they are on the hub, gone, or there are none."""
        files = [] if self.name is None else [path for path in _files(Path(self.name).expanduser()) if path.is_file()]
        if not files:
            return None
        return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)).hexdigest()[:16]

    def make(self, sample: Callable[[int], Iterable[str]]) -> WordPiece:
        """The vocabulary.

        Args:
            sample: gives texts to learn from, of so many characters at most.

        Raises:
            ValueError: if it cannot be read or learned.
        """
        if self.name is not None:
            return load_wordpiece(self.name, self.lower_case)
        texts = list(sample(self.sample_mb * 1_000_000))
        if not texts:
            raise ValueError("data.sources have no text to learn a vocabulary from")
        return train_wordpiece(texts, self.vocab_size, self.lower_case is not False)


def _files(path: Path) -> list[Path]:
    """What a vocabulary may be read from, the best first."""
    names = ("vocabulary.json", "tokenizer.json", "vocab.txt", "tokenizer_config.json")
    return [path, *(path / name for name in names)]


def load_wordpiece(name: str, lower_case: bool | None = None) -> WordPiece:
    """A WordPiece vocabulary by file, folder or hub name.

    Args:
        name: what `WordPieceSettings.name` takes.
        lower_case: whether text is lower-cased; left out, as the folder says, and else yes.

    Raises:
        ValueError: if there is none that can be read.
    """
    path = Path(name).expanduser()
    saved, tokenizer, vocab, config = (path / file.name for file in _files(path)[1:])
    if path.is_file():
        return _from_json(path, lower_case) if path.suffix == ".json" else _from_lines(path, lower_case)
    if saved.is_file():
        vocabulary = load_vocabulary(path)
        if not isinstance(vocabulary, WordPiece):
            raise ValueError(f"the vocabulary in {path} is one of kind {vocabulary.kind}, not WordPiece")
        return vocabulary if lower_case is None else WordPiece(vocabulary.tokens, lower_case=lower_case)
    if tokenizer.is_file():
        return _from_json(tokenizer, lower_case)
    if vocab.is_file():
        said = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
        lower = said.get("do_lower_case", True) if lower_case is None else lower_case
        return _from_lines(vocab, lower, said.get("strip_accents"))
    if path.exists():
        raise ValueError(f"{path} has no vocabulary: no vocab.txt, tokenizer.json or vocabulary.json")
    return _from_hub(name, lower_case)


def _from_lines(path: Path, lower_case: bool | None, strip_accents: bool | None = None) -> WordPiece:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        tokens = [line.rstrip("\r") for line in lines]
        while tokens and not tokens[-1]:
            tokens.pop()
        return WordPiece(tokens, lower_case=lower_case is not False, strip_accents=strip_accents)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as a vocab.txt, a token per line: {error}") from None


def _from_json(path: Path, lower_case: bool | None) -> WordPiece:
    try:
        return _of_tokenizer(json.loads(path.read_text(encoding="utf-8")), lower_case)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no WordPiece tokenizer: {error}") from None


def _of_tokenizer(content: dict[str, Any], lower_case: bool | None) -> WordPiece:
    model, normalizer = content["model"], content.get("normalizer") or {}
    if model.get("type") != "WordPiece":
        raise ValueError(f"its model is {model.get('type')}")
    if normalizer.get("type") != "BertNormalizer":
        raise ValueError(f"its normalizer is {normalizer.get('type')}, not BertNormalizer")
    ids = {**model["vocab"], **{added["content"]: added["id"] for added in content.get("added_tokens", [])}}
    tokens = sorted(ids, key=ids.__getitem__)
    if [ids[token] for token in tokens] != list(range(len(tokens))):
        raise ValueError("its ids have gaps")
    lower = normalizer["lowercase"] if lower_case is None else lower_case
    return WordPiece(tokens, lower_case=lower, strip_accents=normalizer.get("strip_accents"))


def _from_hub(name: str, lower_case: bool | None) -> WordPiece:
    try:
        from transformers import AutoTokenizer

        found = json.loads(AutoTokenizer.from_pretrained(name).backend_tokenizer.to_str())
    except Exception as error:
        raise ValueError(
            f"{name} is no file or folder with a WordPiece vocabulary, and could not be loaded from the Hugging Face "
            f"hub ({type(error).__name__})"
        ) from error
    try:
        return _of_tokenizer(found, lower_case)
    except ValueError as error:
        raise ValueError(f"{name} on the hub is no WordPiece tokenizer: {error}") from None


def train_wordpiece(texts: Sequence[str], vocab_size: int, lower_case: bool = True) -> WordPiece:
    """Learns a vocabulary from texts; the same texts give the same vocabulary.

    Args:
        texts: what to learn from.
        vocab_size: tokens at most; there are fewer where the texts have fewer that occur twice.
        lower_case: whether text is lower-cased.

    Raises:
        ValueError: if the characters of the texts alone are more than vocab_size.
    """
    from tokenizers import trainers

    made = _tokenizer(dict(zip(SPECIAL, range(len(SPECIAL)), strict=True)), lower_case, None)
    alphabet = _alphabet(texts, made.normalizer)
    # Learned in the order in which threads meet them, pieces of one character would be numbered anew every time.
    fixed = [*SPECIAL, *alphabet, *(f"##{character}" for character in alphabet if _within_words(character))]
    if len(fixed) > vocab_size:
        raise ValueError(f"data.wordpiece.vocab_size is {vocab_size}, but the characters alone are {len(fixed)} tokens")
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=fixed,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    ids = made.get_vocab()
    return WordPiece(sorted(ids, key=ids.__getitem__), lower_case=lower_case)


def _alphabet(texts: Sequence[str], normalizer: Any) -> list[str]:
    """The most frequent characters of the texts as they are encoded, in the order of their code points."""
    counts: NDArray[Any] = np.zeros(0x110000, dtype=np.int64)
    for text in texts:
        points = np.frombuffer(normalizer.normalize_str(text).encode("utf-32-le"), dtype=np.uint32)
        found, numbers = np.unique(points, return_counts=True)
        counts[found] += numbers
    frequent = np.argsort(-counts, kind="stable")[:_ALPHABET]
    return sorted(chr(i) for i in frequent.tolist() if counts[i] and not chr(i).isspace())


def _within_words(character: str) -> bool:
    """Whether a word may go on with this character: punctuation and Chinese characters are words of their own."""
    ascii_sign = character.isascii() and not character.isalnum()
    chinese = "CJK" in unicodedata.name(character, "")
    return not (ascii_sign or chinese or unicodedata.category(character).startswith("P"))
