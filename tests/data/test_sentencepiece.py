"""SentencePiece vocabularies are read as they are published, learned from text, and numbered as mT5's are."""

import json
import os
import pickle
import struct
from pathlib import Path

import pytest

from conftest import requires
from lmrecipes.data.tokenizers.loading import load_vocabulary
from lmrecipes.data.tokenizers.sentencepiece import SentencePiece
from lmrecipes.data.tokenizers.sentencepiece_config import SentencePieceSettings, load_sentencepiece
from lmrecipes.data.tokenizers.spm_model import PieceModel, read_model
from lmrecipes.data.tokenizers.spm_trainer import covered_characters, learn_pieces

REAL = Path(os.environ.get("LMRECIPES_TEST_DATA", "/nowhere"))
BYTES = [(f"<0x{i:02X}>", 0.0) for i in range(256)]
SPECIAL = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
PIECES = [
    ("▁", -2.0),
    ("▁the", -3.0),
    ("▁cat", -4.0),
    ("s", -4.5),
    ("▁ca", -5.0),
    ("t", -5.5),
    ("h", -6.0),
    ("e", -6.1),
]


def varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def field(number, kind, value):
    head = varint(number << 3 | kind)
    return head + (varint(value) if kind == 0 else value if kind == 5 else varint(len(value)) + value)


def write_model(path, pieces, kind=1, fallback=True):
    """A file as SentencePiece's sentencepiece_model.proto lays it out."""
    content = b""
    for piece, score in pieces:
        content += field(1, 2, field(1, 2, piece.encode()) + field(2, 5, struct.pack("<f", score)) + field(3, 0, 1))
    content += field(2, 2, field(3, 0, kind) + field(4, 0, len(pieces)) + field(35, 0, int(fallback)))
    path.write_bytes(content + field(3, 2, field(1, 2, b"identity")))
    return path


@pytest.fixture
def published(tmp_path):
    sentinels = [(f"▁<extra_id_{i}>", 0.0) for i in range(99, -1, -1)]
    return write_model(tmp_path / "spiece.model", [*SPECIAL, *BYTES, *PIECES, *sentinels])


def test_a_published_model_is_read_with_its_ids(published):
    vocabulary = load_sentencepiece(str(published))
    n = 3 + 256 + len(PIECES)
    assert (vocabulary.n_pieces, vocabulary.n_sentinels, vocabulary.size) == (n, 100, 384)
    assert vocabulary.sentinel(0) == n + 99  # <extra_id_0> is the last id
    assert vocabulary.sentinels.tolist() == list(range(n + 99, n - 1, -1))
    assert [vocabulary.piece(i) for i in vocabulary.encode("the cats")] == ["▁the", "▁cat", "s"]
    assert vocabulary.decode([*vocabulary.encode("the cats"), vocabulary.sentinel(3), 1, 0]) == "the cats<extra_id_3>"


def test_mt5_is_padded_to_250112():
    pieces = [*SPECIAL, *BYTES, *((f"▁{i}", -float(i)) for i in range(250_000 - 259))]
    vocabulary = SentencePiece(PieceModel(pieces, b"", True))
    assert vocabulary.size == 250_112
    assert vocabulary.sentinel(0) == 250_099


def test_text_that_looks_like_a_mark_stays_text(published):
    vocabulary = load_sentencepiece(str(published))
    for text in ("</s>", "<pad>", "<unk>", "<extra_id_0>", "<0x41>", "the </s> <extra_id_99> <0x0A>", "日本🙂"):
        ids = vocabulary.encode(text)
        assert not {0, 1, 2} & set(ids), text
        assert max(ids) < vocabulary.n_pieces, text
        assert vocabulary.decode(ids) == text


def test_it_encodes_as_transformers_does(published):
    from transformers import T5Tokenizer

    ours = load_sentencepiece(str(published))
    theirs = T5Tokenizer(vocab=ours.model.pieces[: ours.n_pieces], extra_ids=0)
    for text in ("the cats", "cats the  cat", "thes", "hest the"):
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False), text


def test_a_folder_of_transformers_is_read(published, tmp_path):
    ours = load_sentencepiece(str(published))
    folder = tmp_path / "folder"
    folder.mkdir()
    model = {"type": "Unigram", "unk_id": 2, "vocab": ours.model.pieces[: ours.n_pieces], "byte_fallback": True}
    added = [{"id": ours.sentinel(i), "content": f"<extra_id_{i}>"} for i in range(100)]
    (folder / "tokenizer.json").write_text(json.dumps({"model": model, "added_tokens": added, "normalizer": None}))
    theirs = load_sentencepiece(str(folder))
    assert theirs.encode("the cats") == ours.encode("the cats")
    assert theirs.sentinels.tolist() == ours.sentinels.tolist()


def test_what_is_no_such_vocabulary_is_refused_in_a_line(published, tmp_path):
    def refused(match):
        return pytest.raises(ValueError, match=match)

    (tmp_path / "cut.model").write_bytes(published.read_bytes()[:-20])
    with refused("cut.model is no SentencePiece model, or is cut short"):
        load_sentencepiece(str(tmp_path / "cut.model"))
    with refused("must be a unigram model"):
        read_model(write_model(tmp_path / "bpe.model", [*SPECIAL, *PIECES], kind=2))
    with refused("must be <pad>, </s> and <unk>"):
        load_sentencepiece(
            str(write_model(tmp_path / "llama.model", [("<unk>", 0.0), ("<s>", 0.0), *SPECIAL, *PIECES]))
        )
    with refused("<extra_id_0> must be the last piece"):
        load_sentencepiece(
            str(write_model(tmp_path / "up.model", [*SPECIAL, ("<extra_id_0>", 0.0), ("<extra_id_1>", 0.0)]))
        )
    with refused("has no vocabulary: no vocabulary.json, spiece.model"):
        (tmp_path / "empty").mkdir()
        load_sentencepiece(str(tmp_path / "empty"))
    with refused("character_coverage is 2"):
        SentencePieceSettings(character_coverage=2)
    with refused("vocab_size is 10"):
        SentencePieceSettings(vocab_size=10)


TEXTS = [f"the {a} cat and the {b} dogs saw {a} birds" for a in ("small", "old", "red") for b in ("big", "new", "wet")]


def test_one_is_learned_saved_and_loaded(tmp_path):
    vocabulary = SentencePiece(learn_pieces([*TEXTS, "ω"], 320, 0.99))
    assert vocabulary.n_pieces <= 320
    assert [vocabulary.piece(i) for i in (0, 1, 2, 3, 258)] == ["<pad>", "</s>", "<unk>", "<0x00>", "<0xFF>"]
    # The rare letter is spelled in bytes.
    assert [vocabulary.piece(i) for i in vocabulary.encode("ω")] == ["▁", "<0xCF>", "<0x89>"]
    assert len(vocabulary.encode(TEXTS[0])) < len(TEXTS[0])
    vocabulary.save(tmp_path / "saved")
    for again in (load_vocabulary(tmp_path / "saved"), pickle.loads(pickle.dumps(vocabulary))):
        assert again.digest() == vocabulary.digest()
        assert again.encode(TEXTS[0] + " ω 🙂") == vocabulary.encode(TEXTS[0] + " ω 🙂")
        assert again.decode(again.encode("🙂 the cat")) == "🙂 the cat"
    assert vocabulary.spells


def test_a_size_too_small_for_the_characters_says_what_would_do():
    with pytest.raises(ValueError, match=r"vocab_size is 300, but the text has \d+ different characters; \d+ or more"):
        learn_pieces(["".join(map(chr, range(0x4E00, 0x4E80)))], 300, 1.0)


def test_coverage_takes_the_most_frequent_characters():
    assert covered_characters(["aaaa bbb c"], 0.8) == "ab"
    assert covered_characters(["aaaa bbb c"], 1.0) == "abc"


@requires(REAL.is_dir(), "LMRECIPES_TEST_DATA is not set")
def test_every_language_comes_back_as_it_was():
    lines = [
        line for file in sorted((REAL / "languages").glob("*.txt")) for line in file.read_text("utf-8").split("\n")[:40]
    ]
    vocabulary = SentencePiece(learn_pieces(lines, 4000, 0.9995))
    from tokenizers import normalizers

    normal = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC()])
    for line in lines:
        ids = vocabulary.encode(line)
        assert 2 not in ids
        assert vocabulary.decode(ids) == " ".join(x for x in normal.normalize_str(line).split(" ") if x)


def test_frequent_words_are_pieces_and_none_mixes_letters_digits_and_signs():
    towns = ("Mill Bridge", "Oak Haven")
    texts = [f"{town} of old has {n} boats, and sells {n + 7} of them." for town in towns for n in range(100, 300)]
    vocabulary = SentencePiece(learn_pieces(texts, 400, 1.0))
    shown = [vocabulary.piece(i) for i in vocabulary.encode("Oak Haven of old sells boats, and has them.")]
    assert shown == ["▁Oak", "▁Haven", "▁of", "▁old", "▁sells", "▁boats", ",", "▁and", "▁has", "▁them", "."]
    for piece, _ in vocabulary.model.pieces[259:]:
        word = piece.removeprefix("▁")
        assert word.isalpha() or word.isdigit() or not any(c.isalnum() for c in word)
        assert "\uf8ff" not in word
