"""WordPiece vocabularies equal those of transformers in every form, and training one is deterministic."""

import json
import os
import pickle
import subprocess
from pathlib import Path

import pytest

import warm
from conftest import environment, requires
from lmrecipes.data import load_vocabulary
from lmrecipes.data.tokenizers.wordpiece import SPECIAL, WordPiece
from lmrecipes.data.tokenizers.wordpiece_cache import WordCache
from lmrecipes.data.tokenizers.wordpiece_config import load_wordpiece
from lmrecipes.data.tokenizers.wordpiece_trainer import train_wordpiece

REAL = Path(os.environ.get("LMRECIPES_TEST_DATA", "/nowhere"))
real_data = requires(REAL.is_dir(), "LMRECIPES_TEST_DATA is not set")
BERT = REAL / "vocab" / "bert-base-uncased-vocab.txt"
TOKENS = [*SPECIAL, "un", "##aff", "##able", "hello", ",", "world", "é"]


@real_data
def test_wordpiece_ids_equal_those_of_transformers(tmp_path):
    from transformers import ElectraTokenizerFast

    ours, theirs = load_wordpiece(str(BERT)), ElectraTokenizerFast(str(BERT))
    assert (ours.pad_id, ours.unk_id, ours.cls_id, ours.sep_id, ours.mask_id) == (0, 100, 101, 102, 103)
    assert ours.size == 30_522
    texts = [json.loads(line)["text"] for line in (REAL / "web/c4_300_documents.jsonl").read_text().splitlines()][:60]
    expected = [theirs.encode(text, add_special_tokens=False) for text in texts]
    assert ours.encode_batch(texts) == expected
    assert ours.encode(texts[0]) == expected[0]
    assert [ours.fast.encode(text) for text in texts[:5]] == [[101, *ids, 102] for ids in expected[:5]]
    cased = load_wordpiece(str(BERT), lower_case=False)
    assert cased.encode(texts[1]) == ElectraTokenizerFast(str(BERT), do_lower_case=False).encode(
        texts[1], add_special_tokens=False
    )


@pytest.mark.parametrize("lower_case", [True, False])
@pytest.mark.parametrize("form", ["vocab.txt", "vocabulary.json", "tokenizer.json", "folder"])
def test_every_saved_form_loads_unchanged(tmp_path, form, lower_case):
    first = WordPiece(TOKENS, lower_case=lower_case, strip_accents=False)
    if form == "vocab.txt":
        (tmp_path / form).write_text("\n".join(TOKENS) + "\n", encoding="utf-8")
        (tmp_path / "tokenizer_config.json").write_text(
            json.dumps({"do_lower_case": lower_case, "strip_accents": False})
        )
        again = load_wordpiece(str(tmp_path))
    elif form == "vocabulary.json":
        first.save(tmp_path)
        again = load_wordpiece(str(tmp_path))
        assert load_vocabulary(tmp_path).digest() == first.digest()
    else:
        first.fast.save_pretrained(tmp_path)
        again = load_wordpiece(str(tmp_path / "tokenizer.json") if form == "tokenizer.json" else str(tmp_path))
    assert again.digest() == first.digest() == pickle.loads(pickle.dumps(first)).digest()
    text = "Hello, unaffable é World"
    assert again.encode(text) == first.encode(text)
    assert first.encode(text) == first.fast.encode(text, add_special_tokens=False)


CHINESE = [*TOKENS, "日", "本", "日本", "東京", "e", "E", "É"]


@pytest.mark.parametrize("form", ["vocab.txt", "tokenizer.json", "both"])
@pytest.mark.parametrize(
    "settings",
    [
        {"do_lower_case": False, "tokenize_chinese_chars": False},
        {"do_lower_case": False, "tokenize_chinese_chars": True},
        {"do_lower_case": True, "strip_accents": False, "tokenize_chinese_chars": False},
        {"do_lower_case": False, "strip_accents": True},
    ],
    ids=str,
)
def test_the_settings_of_a_folder_take_effect(tmp_path, form, settings):
    from transformers import ElectraTokenizerFast

    theirs = ElectraTokenizerFast(vocab={token: i for i, token in enumerate(CHINESE)}, **settings)
    if form == "vocab.txt":
        (tmp_path / form).write_text("\n".join(CHINESE) + "\n", encoding="utf-8")
    else:
        # In a folder with both, the configuration decides.
        saved = theirs if form == "tokenizer.json" else ElectraTokenizerFast(vocab=theirs.get_vocab())
        saved.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    if form != "tokenizer.json":
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8-sig")
    ours = load_wordpiece(str(tmp_path))
    for text in ("日本 東京 日 É e E hello", "hello, 日本語"):
        expected = theirs.encode(text, add_special_tokens=False)
        assert ours.encode(text) == WordCache(ours).encode(text) == expected, text
        assert ours.fast.encode(text, add_special_tokens=False) == expected
    ours.save(tmp_path / "saved")
    for again in (load_vocabulary(tmp_path / "saved"), pickle.loads(pickle.dumps(ours))):
        assert again.encode("日本 É") == ours.encode("日本 É")


def test_a_setting_that_cannot_be_read_is_named(tmp_path):
    content = json.loads(WordPiece(TOKENS).fast.backend_tokenizer.to_str())
    for place, key, value in (("normalizer", "clean_text", False), ("model", "continuing_subword_prefix", "@@")):
        changed = {**content, place: {**content[place], key: value}}
        (tmp_path / "tokenizer.json").write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=rf"tokenizer.json holds no WordPiece .*: its {place} has {key} {value!r}"):
            load_wordpiece(str(tmp_path))


def test_a_broken_configuration_is_named(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(TOKENS), encoding="utf-8-sig")
    for content, problem in (("", "is not valid JSON"), ("[]", "holds list, not keys and values")):
        (tmp_path / "tokenizer_config.json").write_text(content)
        with pytest.raises(ValueError, match=rf"tokenizer_config.json\S* {problem}"):
            load_wordpiece(str(tmp_path))
    assert load_wordpiece(str(tmp_path / "vocab.txt")).tokens == TOKENS


def test_text_equal_to_a_special_token_stays_text():
    vocabulary = WordPiece([*TOKENS, "[", "]", "mask"])
    assert vocabulary.mask_id not in vocabulary.encode("hello [MASK]")
    assert vocabulary.unk_id not in vocabulary.encode("hello [MASK]")


def test_pairs_have_token_types_and_offsets():
    result = WordPiece(TOKENS).fast("hello", "Unaffable world", return_offsets_mapping=True)
    assert result["input_ids"] == [2, 8, 3, 5, 6, 7, 10, 3]
    assert result["token_type_ids"] == [0, 0, 0, 1, 1, 1, 1, 1]
    assert result["offset_mapping"][3:7] == [(0, 2), (2, 5), (5, 9), (10, 15)]


LEARN = """
import sys
from lmrecipes.data.tokenizers.wordpiece_trainer import train_wordpiece
text = open(sys.argv[1], encoding="utf-8").read()
print(train_wordpiece(text.split("\\n"), 600).digest())
"""


@pytest.mark.slow
def test_training_is_deterministic_and_special_tokens_come_first(tmp_path):
    words = " ".join(f"{a}{b}{c}" for a in "bdfg" for b in ("an", "éo", "ui") for c in ("ing", "ed", "er", "!?"))
    (tmp_path / "text").write_text("\n".join([words, words.upper(), "日本 hapax"] * 30), encoding="utf-8")
    vocabularies = [
        subprocess.run(
            [warm.python(), "-c", LEARN, tmp_path / "text"],
            capture_output=True, text=True, check=True, env=environment(),
        ).stdout
        for _ in range(2)
    ]  # fmt: skip
    assert len(set(vocabularies)) == 1
    vocabulary = train_wordpiece((tmp_path / "text").read_text(encoding="utf-8").split("\n"), 600)
    assert tuple(vocabulary.tokens[:5]) == SPECIAL
    assert vocabulary.pad_id == 0
    assert vocabulary.unk_id not in vocabulary.encode(words)
    assert len(vocabulary.encode("baning banED")) == 2


def test_a_small_text_gives_few_tokens_and_too_small_a_size_is_rejected():
    assert train_wordpiece(["a b a b ab ab"], 500).size < 20
    with pytest.raises(ValueError, match=r"data.wordpiece.vocab_size is 8, but the characters alone are 9 tokens"):
        train_wordpiece(["a b ab ab"], 8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\nb\n", r"v.txt holds no WordPiece vocabulary: it cannot be read as a vocab.txt.*has no \[PAD\], \[UNK\]"),
        ("\n".join([*SPECIAL, "a", "b", "a"]), "has the token 'a' twice"),
        (b"\xff\xfe", "v.txt holds no WordPiece vocabulary: it cannot be read"),
    ],
)
def test_a_bad_file_is_named(tmp_path, content, message):
    (tmp_path / "v.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        load_wordpiece(str(tmp_path / "v.txt"))


def test_files_that_are_not_wordpiece_are_rejected(tmp_path):
    with pytest.raises(ValueError, match=r"has no vocabulary: no tokenizer.json, vocab.txt or vocabulary.json"):
        load_wordpiece(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE"}}))
    with pytest.raises(ValueError, match=r"tokenizer.json holds no WordPiece vocabulary: its model is BPE"):
        load_wordpiece(str(tmp_path))
