"""SentencePiece vocabularies: published ones load, new ones are trained, and ids follow mT5's numbering."""

import base64
import io
import json
import os
import pickle
import subprocess
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from sentencepiece.sentencepiece_model_pb2 import ModelProto

import warm
from conftest import environment, requires
from lmrecipes.data.tokenizers.loading import load_vocabulary
from lmrecipes.data.tokenizers.sentencepiece import SentencePiece
from lmrecipes.data.tokenizers.sentencepiece_config import SentencePieceSettings, load_sentencepiece
from lmrecipes.data.tokenizers.spm_proto import FLAGS, model_of
from lmrecipes.data.tokenizers.spm_trainer import learn_pieces

REAL = Path(os.environ.get("LMRECIPES_TEST_DATA", "/nowhere"))
EARLIER = Path(__file__).parents[1] / "earlier_runs"
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
SENTINELS = [(f"▁<extra_id_{i}>", 0.0) for i in range(99, -1, -1)]
USER_DEFINED = 4
TEXTS = [f"the {a} cat and the {b} dogs saw {a} birds" for a in ("small", "old", "red") for b in ("big", "new", "wet")]
ODD = ["", " ", "\n \t", "a", "  a   b  ", "\u3000a\u3000b", "a\r\nb\x0bc\x85d\u2028e", "x\u200by", "🙂🙂 🙂", "日本語"]
ODD += ["▁a▁", "ﬁ ① Ａ", "e\u0301", "～ ~", "\ufffd", "\x00a\x01", "<0x41>", "</s>"]


@pytest.fixture
def published(tmp_path):
    path = tmp_path / "spiece.model"
    path.write_bytes(model_of([*SPECIAL, *BYTES, *PIECES, *SENTINELS], byte_fallback=True))
    return path


def train_with_sentencepiece(texts, size=400, **options):
    """Serialized model of SentencePiece's own trainer, with mT5's conventions."""
    written = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=written, vocab_size=size, hard_vocab_limit=False,
        minloglevel=2, max_sentence_length=100_000,
        **{"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, **options},
    )  # fmt: skip
    return written.getvalue()


def add_sentinels(model):
    """The model with sentinels as user-defined symbols, which SentencePiece recognizes in text."""
    proto = ModelProto.FromString(model)
    for piece, score in SENTINELS:
        proto.pieces.add(piece=piece, score=score, type=USER_DEFINED)
    return proto.SerializeToString()


def test_a_published_model_keeps_its_ids(published):
    vocabulary = load_sentencepiece(str(published))
    n = 3 + 256 + len(PIECES)
    assert (vocabulary.n_pieces, vocabulary.n_sentinels, vocabulary.size) == (n, 100, 384)
    assert vocabulary.sentinel(0) == n + 99  # <extra_id_0> is the last id
    assert vocabulary.sentinels.tolist() == list(range(n + 99, n - 1, -1))
    assert [vocabulary.piece(i) for i in vocabulary.encode("the cats")] == ["▁the", "▁cat", "s"]
    assert vocabulary.piece(n + 99) == "<extra_id_0>"
    assert vocabulary.piece(n + 100) == ""
    assert vocabulary.decode([*vocabulary.encode("the cats"), vocabulary.sentinel(3), 1, 0]) == "the cats<extra_id_3>"
    assert vocabulary.decode([n + 100]) == ""


def test_mt5_is_padded_to_250112():
    pieces = [*SPECIAL, *BYTES, *((f"▁{i}", -float(i)) for i in range(250_000 - 259))]
    vocabulary = SentencePiece(model_of(pieces, byte_fallback=True))
    assert vocabulary.size == 250_112
    assert vocabulary.sentinel(0) == 250_099


@pytest.mark.parametrize("kind", ["normal", "user defined"])
def test_text_that_looks_like_a_special_token_stays_text(published, kind):
    if kind == "user defined":
        proto = ModelProto.FromString(published.read_bytes())
        for piece in [*proto.pieces[:2], *proto.pieces[-100:]]:
            piece.type = USER_DEFINED
        published.write_bytes(proto.SerializeToString())
    vocabulary = load_sentencepiece(str(published))
    for text in ("</s>", "<pad>", "<unk>", "<extra_id_0>", "<0x41>", "the </s> <extra_id_99> <0x0A>", "日本🙂"):
        ids = vocabulary.encode(text)
        assert not {0, 1, 2} & set(ids), text
        assert max(ids) < vocabulary.n_pieces, text
        assert vocabulary.decode(ids) == text


@pytest.mark.parametrize("byte_fallback", [True, False])
def test_encoding_equals_sentencepiece(tmp_path, byte_fallback):
    model = train_with_sentencepiece(TEXTS, byte_fallback=byte_fallback)
    (tmp_path / "spiece.model").write_bytes(add_sentinels(model))
    ours, theirs = load_sentencepiece(str(tmp_path)), SentencePieceProcessor(model_proto=model)
    texts = [*TEXTS, *ODD]
    assert ours.encode_batch(texts) == [ours.encode(text) for text in texts] == theirs.encode(texts)


ORDERS = [
    {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": 3},
    {"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3},
    {"pad_id": 0, "eos_id": 1, "unk_id": 2},
    {"bos_id": 0, "pad_id": 1, "eos_id": 2, "unk_id": 3, "unk_piece": "[?]", "pad_piece": "[PAD]", "eos_piece": "[E]"},
]
WHITE_SPACE = [{}, {"add_dummy_prefix": False}, {"remove_extra_whitespaces": False}]
UNSEEN = ["the ω cat", " the  red\tcat ", "Ｔｈｅ ﬁne ①", "of  10", "日本", "dogs\n"]


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("rule", ["identity", "nmt_nfkc", "nfkc"])
def test_ids_and_normalization_are_those_of_the_model(tmp_path, order, rule):
    for white_space in WHITE_SPACE:
        model = train_with_sentencepiece(TEXTS, 60, normalization_rule_name=rule, **order, **white_space)
        (tmp_path / "spiece.model").write_bytes(model)
        ours, theirs = load_sentencepiece(str(tmp_path)), SentencePieceProcessor(model_proto=model)
        assert (ours.pad_id, ours.eos_id, ours.unk_id) == (theirs.pad_id(), theirs.eos_id(), theirs.unk_id())
        assert ours.unknown == theirs.unk_id()
        texts = [*TEXTS, *ODD, *UNSEEN]
        assert ours.encode_batch(texts) == theirs.encode(texts), white_space
        assert ours.encode_block("red\ncat\n").tolist() == [
            *theirs.encode("red\n"), theirs.eos_id(), *theirs.encode("cat\n"), theirs.eos_id()
        ]  # fmt: skip
        ids = ours.encode("the ω cat")
        assert ours.unk_id in ids
        assert ours.decode([ours.pad_id, *ours.encode("red cat"), ours.eos_id]) == theirs.decode(
            theirs.encode("red cat")
        )
        ours.save(tmp_path / "saved")
        again = load_vocabulary(tmp_path / "saved")
        assert (again.digest(), again.eos_id, again.encode("the ω")) == (
            ours.digest(),
            ours.eos_id,
            ours.encode("the ω"),
        )


def test_vocabularies_that_differ_only_in_white_space_have_different_digests():
    model = ModelProto.FromString(train_with_sentencepiece(TEXTS))
    digests = {SentencePiece(model.SerializeToString()).digest()}
    for flag in FLAGS:
        setattr(model.normalizer_spec, flag, False)
        digests.add(SentencePiece(model.SerializeToString()).digest())
    assert len(digests) == 1 + len(FLAGS)


@pytest.mark.parametrize("rule", ["identity", "nmt_nfkc"])
@pytest.mark.parametrize("white_space", WHITE_SPACE, ids=str)
def test_a_tokenizer_json_normalizes_as_it_says(tmp_path, rule, white_space):
    model = ModelProto.FromString(
        train_with_sentencepiece(TEXTS, 60, normalization_rule_name=rule, **ORDERS[0], **white_space)
    )
    charsmap = base64.b64encode(model.normalizer_spec.precompiled_charsmap).decode()
    # As transformers' converter writes it.
    steps = [{"type": "Precompiled", "precompiled_charsmap": charsmap}] if charsmap else []
    if model.normalizer_spec.remove_extra_whitespaces:
        steps.append({"type": "Strip", "strip_left": False, "strip_right": True})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"})
    scheme = "always" if model.normalizer_spec.add_dummy_prefix else "never"
    names = [piece.piece for piece in model.pieces]
    content = {
        "model": {"type": "Unigram", "unk_id": 0, "vocab": [[piece.piece, piece.score] for piece in model.pieces]},
        "added_tokens": [{"id": i, "content": names[i], "special": True} for i in range(4)],
        "normalizer": {"type": "Sequence", "normalizers": steps} if steps else None,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": True},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    ours, theirs = load_sentencepiece(str(tmp_path)), SentencePieceProcessor(model_proto=model.SerializeToString())
    texts = [*TEXTS, *ODD, *UNSEEN]
    assert ours.encode_batch(texts) == theirs.encode(texts)
    content["normalizer"] = {"type": "Lowercase"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"tokenizer.json holds no .*: its normalizer has the step Lowercase"):
        load_sentencepiece(str(tmp_path))


def test_a_vocabulary_by_hub_name_has_the_ids_of_its_model(tmp_path, monkeypatch):
    model = train_with_sentencepiece(TEXTS, byte_fallback=True)
    (tmp_path / "spiece.model").write_bytes(model)

    def download(name, file):
        assert name == "someone/mt5"
        if not (tmp_path / file).is_file():
            raise FileNotFoundError(file)
        return str(tmp_path / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    texts = [*TEXTS, "ω 日本 🙂"]
    assert load_sentencepiece("someone/mt5").encode_batch(texts) == SentencePieceProcessor(model_proto=model).encode(
        texts
    )


@requires(REAL.is_dir(), "LMRECIPES_TEST_DATA is not set")
def test_encoding_of_real_text_equals_sentencepiece(tmp_path):
    lines = [
        line for file in sorted((REAL / "languages").glob("*.txt")) for line in file.read_text("utf-8").split("\n")
    ]
    model = train_with_sentencepiece(lines[::10], 4000, byte_fallback=True, character_coverage=0.9995)
    (tmp_path / "spiece.model").write_bytes(add_sentinels(model))
    assert load_sentencepiece(str(tmp_path)).encode_batch(lines) == SentencePieceProcessor(model_proto=model).encode(
        lines
    )


def test_a_transformers_folder_is_read(tmp_path):
    from transformers import T5Tokenizer

    for name in ("published", "transformers"):
        (tmp_path / name).mkdir()
    (tmp_path / "published" / "spiece.model").write_bytes(train_with_sentencepiece(TEXTS))
    theirs = T5Tokenizer.from_pretrained(tmp_path / "published")
    theirs.save_pretrained(tmp_path / "transformers")
    assert not (tmp_path / "transformers" / "spiece.model").exists()
    ours = load_sentencepiece(str(tmp_path / "transformers"))
    for text in (*TEXTS, "red dogs", "bigwet  cat\nand"):
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False), text
    assert [theirs.convert_ids_to_tokens(int(i)) for i in ours.sentinels[:2]] == ["<extra_id_0>", "<extra_id_1>"]


def test_byte_pieces_are_read_if_byte_fallback_is_false_and_are_not_written(tmp_path):
    # transformers' conversion of mT5 sets byte_fallback to false.
    model = {"type": "Unigram", "unk_id": 2, "vocab": [*SPECIAL, *BYTES, *PIECES], "byte_fallback": False}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model, "added_tokens": [], "normalizer": None}))
    vocabulary = load_sentencepiece(str(tmp_path))
    assert not set(vocabulary.encode("<0x41> é")) & set(range(3, 259))
    assert vocabulary.decode([3 + 0xC3, 3 + 0xA9]) == "é"


def test_transformers_reads_our_exported_tokenizer(tmp_path):
    from transformers import AutoTokenizer

    ours = SentencePiece(train_with_sentencepiece(TEXTS, byte_fallback=True))
    ours.write_published(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in (*TEXTS, "red dogs"):
        assert theirs.encode(text) == [*ours.encode(text), 1]
    assert theirs.encode("the <extra_id_0>")[-2] == ours.sentinel(0)
    assert load_sentencepiece(str(tmp_path)).encode("birds ω") == ours.encode("birds ω")


def test_invalid_vocabularies_are_rejected_in_one_line(published, tmp_path):
    def refused(match):
        return pytest.raises(ValueError, match=match)

    def load(content):
        (tmp_path / "made.model").write_bytes(content)
        return load_sentencepiece(str(tmp_path / "made.model"))

    with refused(r"made.model holds no SentencePiece vocabulary: it is not a SentencePiece model, or is truncated"):
        load(published.read_bytes()[:-20])
    with refused("must be a unigram model"):
        load(train_with_sentencepiece(TEXTS, 100, model_type="bpe"))
    for name, unknown in (("<pad>", 1), ("</s>", 1), ("<unk>", -1)):
        with refused(rf"made.model holds no SentencePiece vocabulary: the model has no piece {name}, for"):
            load(model_of([*(piece for piece in SPECIAL if piece[0] != name), *PIECES], unknown=unknown))
    with refused("<extra_id_0> must be the last piece"):
        load(model_of([*SPECIAL, ("<extra_id_0>", 0.0), ("<extra_id_1>", 0.0)]))
    with refused("has no vocabulary: no spiece.model, sentencepiece.model, tokenizer.json or vocabulary.json"):
        (tmp_path / "empty").mkdir()
        load_sentencepiece(str(tmp_path / "empty"))
    with refused("character_coverage is 0.97; it must be 0.98 to 1"):
        SentencePieceSettings(character_coverage=0.97)
    with refused("vocab_size is 10"):
        SentencePieceSettings(vocab_size=10)


def test_an_export_that_transformers_would_number_otherwise_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--format hf: the unknown piece of the vocabulary is number 0, but"):
        SentencePiece(train_with_sentencepiece(TEXTS, **ORDERS[0])).write_published(tmp_path)


def test_a_vocabulary_is_trained_saved_and_loaded(tmp_path):
    vocabulary = SentencePiece(learn_pieces([*TEXTS, "ω"], 320, 0.99))
    assert vocabulary.n_pieces <= 320
    assert [vocabulary.piece(i) for i in (0, 1, 2, 3, 258)] == ["<pad>", "</s>", "<unk>", "<0x00>", "<0xFF>"]
    # The rare letter is encoded as bytes.
    assert [vocabulary.piece(i) for i in vocabulary.encode("ω")] == ["▁", "<0xCF>", "<0x89>"]
    assert len(vocabulary.encode(TEXTS[0])) < len(TEXTS[0])
    vocabulary.save(tmp_path / "saved")
    for again in (load_vocabulary(tmp_path / "saved"), pickle.loads(pickle.dumps(vocabulary))):
        assert again.digest() == vocabulary.digest()
        assert again.encode(TEXTS[0] + " ω 🙂") == vocabulary.encode(TEXTS[0] + " ω 🙂")
        assert again.decode(again.encode("🙂 the cat")) == "🙂 the cat"
    assert vocabulary.spells
    assert SentencePiece(learn_pieces(TEXTS, 320, 1.0)).digest() != vocabulary.digest()


EARLIER_IDS = {
    # Recorded with the version that saved the folders.
    "mt5_mc4": [
        [
            463,
            624,
            312,
            261,
            428,
            324,
            361,
            279,
            268,
            261,
            457,
            278,
            260,
            261,
            227,
            167,
            140,
            1144,
            1150,
            261,
            1342,
            1075,
            1096,
            523,
            261,
            129,
            261,
            63,
            275,
            935,
            299,
            286,
            278,
            98,
            287,
            332,
            98,
            1111,
            65,
            261,
            942,
            582,
            261,
            220,
            145,
            220,
            145,
            220,
            148,
            220,
            148,
        ],
        "4e174abed84b3371",
    ],
    "mt5_squad": [
        [
            259,
            384,
            352,
            352,
            266,
            259,
            361,
            383,
            388,
            352,
            368,
            348,
            259,
            371,
            371,
            259,
            385,
            360,
            349,
            348,
            265,
            259,
            373,
            359,
            266,
            260,
            259,
            227,
            167,
            140,
            227,
            167,
            167,
            227,
            168,
            144,
            259,
            227,
            167,
            187,
            227,
            167,
            193,
            227,
            167,
            188,
            227,
            168,
            131,
            259,
            129,
            259,
            63,
            359,
            379,
            373,
            383,
            266,
            98,
            388,
            361,
            98,
            376,
            65,
            259,
            233,
            154,
            168,
            233,
            159,
            175,
            259,
            220,
            145,
            220,
            145,
            220,
            148,
            220,
            148,
        ],
        "6f6cd5bad5809102",
    ],
}


@pytest.mark.parametrize("run", EARLIER_IDS)
def test_a_folder_of_an_earlier_version_keeps_its_tokens_digest_and_form(run, tmp_path):
    vocabulary = load_vocabulary(EARLIER / run / "vocabulary")
    text = "Anna drinks 11 cups of tea. उत्\u200dसाही ～ <extra_id_0> 日本 \u064e\u0651\u0651\u064e"
    assert [vocabulary.encode(text), vocabulary.digest()] == EARLIER_IDS[run]
    vocabulary.save(tmp_path)
    assert (tmp_path / "vocabulary.json").read_bytes() == (
        EARLIER / run / "vocabulary" / "vocabulary.json"
    ).read_bytes()
    for again in (load_vocabulary(tmp_path), pickle.loads(pickle.dumps(vocabulary))):
        assert [again.encode(text), again.digest()] == EARLIER_IDS[run]


LEARN = """
import hashlib, sys
from lmrecipes.data.tokenizers.spm_trainer import learn_pieces
print(hashlib.sha256(learn_pieces(open(sys.argv[1], encoding="utf-8").read().split("\\n"), 500, 0.999)).hexdigest())
"""


@pytest.mark.slow
def test_training_is_deterministic_across_processes_and_silent(tmp_path):
    texts = [f"{text}, {n} of {n % 7} 日本の{n}冊の本。" for n in range(100) for text in TEXTS]
    (tmp_path / "text").write_text("\n".join(texts), encoding="utf-8")
    trained = [
        subprocess.run(
            [warm.python(), "-c", LEARN, tmp_path / "text"],
            capture_output=True, text=True, check=True, env={**environment(), "PYTHONHASHSEED": seed},
        )
        for seed in ("1", "2")
    ]  # fmt: skip
    assert trained[0].stdout == trained[1].stdout
    assert [one.stderr for one in trained] == ["", ""]


def test_a_size_below_the_character_count_is_rejected_with_the_minimum():
    text = "".join(map(chr, range(0x4E00, 0x4E80)))
    with pytest.raises(
        ValueError, match=r"vocab_size is 300, but the text has 128 different characters; it must be 388 or more"
    ):
        learn_pieces([text], 300, 1.0)
    assert SentencePiece(learn_pieces([text], 388, 1.0)).n_pieces == 388


def test_character_coverage_keeps_the_most_frequent_characters():
    def characters(coverage):
        vocabulary = SentencePiece(learn_pieces(["a" * 60 + "b" * 39 + " c"] * 10, 300, coverage))
        return {c for i in range(259, vocabulary.n_pieces) for c in vocabulary.piece(i)} - {"▁"}

    assert characters(0.98) == {"a", "b"}
    assert characters(1.0) == {"a", "b", "c"}


@requires(REAL.is_dir(), "LMRECIPES_TEST_DATA is not set")
def test_every_language_round_trips():
    from sentencepiece import SentencePieceNormalizer

    lines = [
        line for file in sorted((REAL / "languages").glob("*.txt")) for line in file.read_text("utf-8").split("\n")[:40]
    ]
    vocabulary = SentencePiece(learn_pieces(lines, 4000, 0.9995))
    normal = SentencePieceNormalizer(rule_name="nmt_nfkc")
    for line in lines:
        ids = vocabulary.encode(line)
        assert 2 not in ids
        assert vocabulary.decode(ids) == normal.normalize(line).replace("▁", " ").removeprefix(" ")


def test_frequent_words_are_pieces_and_no_piece_mixes_letters_digits_and_punctuation():
    towns = ("Mill Bridge", "Oak Haven")
    texts = [f"{town} of old has {n} boats, and sells {n + 7} of them." for town in towns for n in range(100, 300)]
    vocabulary = SentencePiece(learn_pieces(texts, 400, 1.0))
    shown = [vocabulary.piece(i) for i in vocabulary.encode("Oak Haven of old sells boats, and has them.")]
    assert shown == ["▁Oak", "▁Haven", "▁of", "▁old", "▁sells", "▁boats", ",", "▁and", "▁has", "▁them", "."]
    for i in range(259, vocabulary.n_pieces):
        word = vocabulary.piece(i).removeprefix("▁")
        assert not word or word.isalpha() or word.isdigit() or not any(c.isalnum() for c in word)


def test_texts_longer_than_the_librarys_limit_are_used_in_training():
    vocabulary = SentencePiece(learn_pieces(["日本語の本を読む" * 2000 + "犬"], 300, 1.0))
    assert {"日", "犬"} <= {vocabulary.piece(i) for i in range(259, vocabulary.n_pieces)}
