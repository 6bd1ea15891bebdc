"""Prepared data is reused while text and tokenizer are unchanged or absent, and rebuilt when they change."""

import shutil

import pytest

from lmrecipes.batches import BatchPlan
from lmrecipes.data import Tokenizing
from lmrecipes.data.prepared.tokenize_text import _Writer
from lmrecipes.data.tokenizers.bpe import train_bpe
from lmrecipes.datamodules import TextFolder
from unrelated_files import put_files

PLAN = BatchPlan(global_batch_size=2, seq_len=2)


def write(folder, text="a b c\na b\n"):
    folder.mkdir(exist_ok=True)
    for split in ("train", "valid", "test"):
        (folder / f"{split}.txt").write_text(text)


def prepared(tmp_path, **arguments):
    data = TextFolder(PLAN, path=str(tmp_path / "text"), cache_dir=str(tmp_path / "cache"), **arguments)
    data.prepare(progress=False)
    return data.prepared


def words(tmp_path):
    return prepared(tmp_path).vocabulary.words


def test_prepared_data_works_without_its_text_and_notices_changed_text(tmp_path):
    write(tmp_path / "text")
    first = prepared(tmp_path).folder
    shutil.move(tmp_path / "text", tmp_path / "elsewhere")
    assert prepared(tmp_path).folder == first
    write(tmp_path / "text", "d e\n")
    second = prepared(tmp_path).folder
    assert second != first
    shutil.rmtree(tmp_path / "text")
    assert prepared(tmp_path).folder == second
    shutil.move(tmp_path / "elsewhere", tmp_path / "text")
    assert prepared(tmp_path).folder == first
    shutil.rmtree(tmp_path / "text")
    assert prepared(tmp_path).folder == first  # the most recently used


def test_missing_text_that_was_never_prepared_is_rejected(tmp_path):
    write(tmp_path / "text")
    prepared(tmp_path)
    shutil.rmtree(tmp_path / "text")
    with pytest.raises(ValueError, match=r"data.path .*text is not a folder"):
        prepared(tmp_path, tokenizing=Tokenizing(kind="char"))


def test_an_edited_vocabulary_file_is_reread_and_a_deleted_one_is_not_needed(tmp_path):
    write(tmp_path / "text")
    file = tmp_path / "words"
    file.write_text("a\nb\nc\n")
    tokenizing = Tokenizing(vocab_file=str(file))
    first = prepared(tmp_path, tokenizing=tokenizing)
    file.write_text("c\nb\na\n")  # same length as before
    second = prepared(tmp_path, tokenizing=tokenizing)
    assert (first.vocabulary.words, second.vocabulary.words) == (["<eos>", "a", "b", "c"], ["<eos>", "c", "b", "a"])
    file.unlink()
    assert prepared(tmp_path, tokenizing=tokenizing).folder == second.folder
    write(tmp_path / "text", "a a a\n")
    with pytest.raises(ValueError, match=r"data.tokenizing.vocab_file .*words is not a file"):
        prepared(tmp_path, tokenizing=tokenizing)


@pytest.mark.parametrize("in_folder", [True, False])
def test_an_edited_tokenizer_is_reread_and_a_deleted_one_is_not_needed(tmp_path, in_folder):
    write(tmp_path / "text")
    file = tmp_path / "tokenizer.json"
    tokenizing = Tokenizing(kind="pretrained", name=str(tmp_path if in_folder else file))
    file.write_text(train_bpe(iter(["a b c\n" * 9]), 300)._json)
    first = prepared(tmp_path, tokenizing=tokenizing)
    file.write_text(train_bpe(iter(["e e e\n" * 9]), 300)._json)
    second = prepared(tmp_path, tokenizing=tokenizing)
    assert first.folder != second.folder
    assert first.vocabulary.digest() != second.vocabulary.digest()
    file.unlink()
    assert prepared(tmp_path, tokenizing=tokenizing).folder == second.folder


def test_text_that_changes_during_preparation_is_not_cached(tmp_path, monkeypatch):
    write(tmp_path / "text")
    data = TextFolder(PLAN, path=str(tmp_path / "text"), cache_dir=str(tmp_path / "cache"))
    source = data.source()
    read = type(source).blocks

    def changing(self, split):
        yield from read(self, split)
        if split == "test":
            write(tmp_path / "text", "x y z and more\n")

    monkeypatch.setattr(type(source), "blocks", changing)
    with pytest.raises(ValueError, match="changed while it was being prepared"):
        data.prepare(progress=False)
    monkeypatch.undo()
    assert "more" in words(tmp_path)


def test_an_unreadable_manifest_is_named(tmp_path):
    write(tmp_path / "text")
    (prepared(tmp_path).folder / "manifest.json").write_text('{"splits": ')
    with pytest.raises(
        ValueError, match=r"manifest.json cannot be read; move .* away and run `lmrecipes prepare` again"
    ):
        prepared(tmp_path)


def test_an_interrupted_preparation_continues_and_keeps_other_files(tmp_path, monkeypatch):
    write(tmp_path / "text")
    with monkeypatch.context() as patch:
        patch.setattr(_Writer, "write", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepared(tmp_path)
    (folder,) = (tmp_path / "cache").iterdir()
    unchanged = put_files(folder, "notes.txt", "mine.part", "old.part/figures", "vocabulary/mine.json")
    (folder / "test.part").touch()
    assert prepared(tmp_path).folder == folder
    assert unchanged()
    assert sorted(path.name for path in folder.glob("*.part")) == ["mine.part", "old.part"]
