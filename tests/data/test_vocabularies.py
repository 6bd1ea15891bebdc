"""Vocabularies are saved completely or not at all, split lines only at newlines, and know if they are lossless."""

import json
import os
from pathlib import Path

import pytest

from conftest import requires
from lmrecipes.data import Folder, Tokenizing, load_vocabulary
from lmrecipes.data.prepared.tokenize_text import prepare
from lmrecipes.data.tokenizers.bpe import SubwordVocabulary, train_bpe
from lmrecipes.data.tokenizers.text_config import load_subwords
from lmrecipes.data.tokenizers.words import WordVocabulary

REAL = Path(os.environ.get("LMRECIPES_TEST_DATA", "/nowhere"))


def test_only_newlines_end_a_line():
    # Python also splits at other characters; a run of them becomes longer tokens only if it is not split.
    text = "".join(f"x{end * 4}x\n" for end in "\x0b\x0c\x1c\x1e\x85\u2028\r") * 50
    vocabulary = train_bpe(iter([text]), 400)
    tokens = [vocabulary.decode([i]) for i in vocabulary.encode_block(text)]
    assert "".join(tokens) == text
    assert {"\x0c" * 3, "\x0b" * 3, "\r" * 3} <= set(tokens)


def subwords(model, normalizer=None):
    from tokenizers import Tokenizer, decoders, pre_tokenizers

    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    return SubwordVocabulary(tokenizer.to_str())


def byte_level():
    from tokenizers import models, pre_tokenizers

    alphabet = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    return models.BPE(vocab=alphabet, merges=[])


def test_byte_level_is_lossless_unless_the_normalizer_drops_characters():
    from tokenizers import normalizers

    assert train_bpe(iter(["some text\n"]), 300).spells
    assert subwords(byte_level()).spells
    assert not subwords(byte_level(), normalizers.Lowercase()).spells
    assert not subwords(byte_level(), normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])).spells


@requires(REAL.is_dir(), "LMRECIPES_TEST_DATA is not set")
def test_bert_is_lossy_and_gpt2_is_lossless():
    from tokenizers import BertWordPieceTokenizer

    assert load_subwords(str(REAL / "vocab" / "gpt2")).spells
    bert = BertWordPieceTokenizer(str(REAL / "vocab" / "bert-base-uncased-vocab.txt"))
    assert not SubwordVocabulary(bert.to_str()).spells


def test_a_folder_a_file_and_a_runs_vocabulary_give_the_same_subwords(tmp_path):
    vocabulary = train_bpe(iter(["some text, some more text\n"] * 20), 300)
    vocabulary.save(tmp_path / "run")
    (tmp_path / "tokenizer.json").write_text(vocabulary._json, encoding="utf-8")
    tokenizer = tmp_path / "gpt2"
    tokenizer.mkdir()
    model = json.loads(vocabulary._json)["model"]
    (tokenizer / "vocab.json").write_text(json.dumps(model["vocab"]))
    (tokenizer / "merges.txt").write_text("\n".join(" ".join(pair) for pair in model["merges"]))
    for where in (tmp_path, tmp_path / "tokenizer.json", tmp_path / "run"):
        assert load_subwords(str(where)).digest() == vocabulary.digest()
    assert load_subwords(str(tokenizer)).encode("more text") == vocabulary.encode("more text")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", "{}", r"tokenizer.json holds no subword vocabulary"),
        ("tokenizer.json", "version https://git-lfs.github.com/spec/v1\n", r"tokenizer.json holds no subword vocab"),
        ("tokenizer.json", '{"version": "1.0", "mo', r"tokenizer.json holds no subword vocabulary"),
        ("tokenizer.json", "[]", r"tokenizer.json holds no subword vocabulary"),
        ("vocab.json", "{}", "there is no merges.txt beside it"),
        ("notes.txt", "", "has no vocabulary: no tokenizer.json, vocab.json or vocabulary.json"),
        ("vocabulary.json", '{"kind": "char", "symbols": [97]}', "is of kind char, not subword"),
    ],
)
def test_a_folder_without_subwords_is_rejected_with_the_reason(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=rf"^data.tokenizing.name: .*{message}"):
        load_subwords(str(tmp_path))


def test_truncation_and_padding_saved_with_a_tokenizer_are_switched_off(tmp_path):
    from tokenizers import Tokenizer

    plain = train_bpe(iter(["some text, some more text\n"] * 20), 300)
    tokenizer = Tokenizer.from_str(plain._json)
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=20)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    used, text = load_subwords(str(tmp_path)), "some more text, and more\nsome\n"
    assert used.encode_block(text).tolist() == plain.encode_block(text).tolist()
    used.save(tmp_path / "run")
    assert load_vocabulary(tmp_path / "run").encode(text) == plain.encode(text)


def without_unknown(model):
    """A tokenizer of the words "the sea" without an unknown token; `<end>` is not among the model's own tokens."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    words = {"the": 0, "sea": 1}
    letters = {letter: i for i, letter in enumerate(["t", "h", "e", "s", "a", "th"])}
    kinds = {
        "WordLevel": lambda: models.WordLevel(words),
        "WordPiece": lambda: models.WordPiece(words, unk_token="[UNK]"),
        "BPE": lambda: models.BPE(letters, [("t", "h")]),
        "Unigram": lambda: models.Unigram([(piece, -1.0) for piece in (*letters, *words)]),
    }
    tokenizer = Tokenizer(kinds[model]())
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken("<end>")])
    return tokenizer


@pytest.mark.parametrize("model", ["WordLevel", "WordPiece", "BPE", "Unigram"])
def test_a_tokenizer_without_unknown_refuses_what_it_does_not_know_by_file_and_line(tmp_path, model):
    tokenizer = without_unknown(model)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    vocabulary = load_subwords(str(tmp_path))
    known = "the sea the\nsea <end>\n"
    assert vocabulary.encode_block(known).tolist() == tokenizer.encode(known).ids
    assert vocabulary.size == -(-tokenizer.get_vocab_size() // 8) * 8
    for split, text in (("train", "the sea\n" * 3), ("valid", "the\nthe sky sea\n")):
        (tmp_path / f"{split}.txt").write_text(text)
    part = "cannot encode the text" if model == "Unigram" else "is not in the tokenizer .*, which has no unknown token"
    with pytest.raises(ValueError, match=rf"valid.txt:2: .*{part}"):
        prepare(Folder(tmp_path), Tokenizing(kind="pretrained", name=str(tmp_path)), tmp_path / "prepared")


def test_a_byte_order_mark_in_a_file_of_a_vocabulary_is_no_part_of_it(tmp_path):
    bpe = train_bpe(iter(["some text, some more text\n"] * 20), 300)
    model = json.loads(bpe._json)["model"]
    files = {
        "words.txt": "the\r\nsea 12\r\n<eos>\r\n<unk>\r\n",
        "tokenizer.json": bpe._json,
        "gpt2/vocab.json": json.dumps(model["vocab"]),
        "gpt2/merges.txt": "#version: 0.2\n" + "\n".join(" ".join(pair) for pair in model["merges"]),
    }
    (tmp_path / "gpt2").mkdir()
    read, contents = {}, {}
    for encoding in ("utf-8", "utf-8-sig"):
        for name, text in files.items():
            (tmp_path / name).write_text(text, encoding=encoding, newline="")
        words = Tokenizing(vocab_file=str(tmp_path / "words.txt"))
        subwords = [load_subwords(str(folder)).digest() for folder in (tmp_path, tmp_path / "gpt2")]
        read[encoding], contents[encoding] = [words.listed_words(), *subwords], words.content()
    assert read["utf-8"] == read["utf-8-sig"]
    assert read["utf-8"][0] == ["the", "sea", "<eos>", "<unk>"]
    # What an earlier version prepared with the mark is prepared again.
    assert contents["utf-8"] != contents["utf-8-sig"]


def test_a_failed_save_keeps_the_previous_vocabulary(tmp_path, monkeypatch):
    WordVocabulary(["<eos>", "a"]).save(tmp_path)

    def raise_disk_full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", raise_disk_full)
    with pytest.raises(OSError, match="no space"):
        WordVocabulary(["<eos>", "a", "b"]).save(tmp_path)
    assert load_vocabulary(tmp_path).words == ["<eos>", "a"]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_prepared_corpus_reads_its_vocabulary_once(tmp_path):
    for split in ("train", "valid"):
        (tmp_path / f"{split}.txt").write_text("a b\n")
    prepared = prepare(Folder(tmp_path), Tokenizing(), tmp_path / "prepared")
    assert prepared.vocabulary is prepared.vocabulary
