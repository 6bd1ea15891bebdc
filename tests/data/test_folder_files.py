"""Of a folder its data is read; hidden files and descriptions are not, and everything passed over is named."""

import json
import os

import pytest

from lmrecipes.batches import BatchPlan
from lmrecipes.data import Folder, TableFolder
from lmrecipes.data.corpora.documents import DocumentSource
from lmrecipes.data.corpora.folder_files import files_below, files_in, matching, omissions

NEVER_DATA = ["._a.txt", ".a.txt.swp", ".ipynb_checkpoints/a-checkpoint.txt", ".git/objects/b.txt", "deep/.cache/c.txt"]
DESCRIPTIONS = ["dataset_info.json", "dataset_infos.json", "deep/dataset_info.json", "state.json", "dataset_dict.json"]


def write(folder, names, text="a line of text\n"):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def documents(path, **settings):
    source = DocumentSource(name="mine", path=str(path), **settings)
    return source, [text for part in source.parts(None) for text in source.read(part, None)]


def test_hidden_files_and_descriptions_are_no_documents(tmp_path):
    write(tmp_path, ["a.txt", "deep/b.txt"])
    clean = documents(tmp_path)
    # What would be no document, in bytes or in JSON, shows that it is not even opened.
    write(tmp_path, [*NEVER_DATA, *DESCRIPTIONS], "{\0")
    write(tmp_path, ["notes.md", "deep/table.csv"])
    source, texts = documents(tmp_path)
    assert texts == clean[1] == [["a line of text"]] * 2
    assert source.describe() == clean[0].describe()
    listed = source.listing(2)
    assert listed.startswith(
        f"source mine: {tmp_path}: 2 files (1 in {tmp_path}, 1 in deep/), 2 documents; passed over:"
    )
    for part in ("notes.md", "deep/table.csv (not a document file)", ".git/", "deep/.cache/", "._a.txt", *DESCRIPTIONS):
        assert part in listed
    assert ".git/objects" not in listed


def test_a_folder_of_earlier_documents_is_read_and_listed_with_its_count(tmp_path):
    write(tmp_path, ["a.txt", "old/a.txt", "old/b.jsonl"], '{"text": "a"}\n')
    assert f"3 files (1 in {tmp_path}, 2 in old/)" in documents(tmp_path)[0].listing()


def test_links_are_read_or_named(tmp_path):
    write(tmp_path, ["elsewhere/a.txt", "data/b.txt"])
    data = tmp_path / "data"
    (data / "linked.txt").symlink_to(tmp_path / "elsewhere/a.txt")
    (data / "gone.txt").symlink_to(tmp_path / "nowhere")
    (data / "folder").symlink_to(tmp_path / "elsewhere")
    files = files_below(data, lambda name: name.endswith(".txt"), "other")
    assert [path.name for path in files.read] == ["b.txt", "linked.txt"]
    assert files.passed_over == {"a link to a folder": ["folder/"], "a link to nothing": ["gone.txt"]}
    assert files_in(data, lambda name: True, "other").passed_over == {"a link to nothing": ["gone.txt"]}


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    write(tmp_path, ["a.txt", "closed/b.txt"])
    original = os.scandir

    def scandir(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PermissionError, match="closed"):
        files_below(tmp_path, lambda name: True, "other")


@pytest.mark.parametrize("name", ["with [brackets]", "who?", "all*"])
def test_a_path_that_exists_is_no_pattern(tmp_path, name):
    write(tmp_path, [f"{name}/a.txt", f"{name}/b.txt", f"{name} c.txt", "with b/no.txt", "whom/no.txt", "alls/no.txt"])
    folder = tmp_path / name
    assert matching(folder) == [folder]
    assert len(documents(folder)[1]) == 2
    assert matching(tmp_path / f"{name} c.txt") == [tmp_path / f"{name} c.txt"]
    # Only what does not exist is one, below a folder that does.
    assert matching(folder / "[ax].t?t") == [folder / "a.txt"]
    assert len(documents(folder / "*.txt")[1]) == 2
    for split in ("train", "valid"):
        write(folder, [f"{split}.txt"])
    assert set(Folder(folder).files) == {"train", "val"}
    assert DocumentSource(name="mine", path=str(folder / "none*")).gone


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.txt", "a\r\nb\0c\r\n\r\nd\r\n"), ("a.jsonl", '{"text": "a\\nb\\u0000c"}\r\n{"text": "d"}\r\n')],
)
def test_a_byte_order_mark_and_line_ends_of_windows_are_not_text(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8-sig", newline="")
    assert documents(tmp_path)[1] == [["a", "b\0c"], ["d"]]


def test_many_files_are_named_in_part():
    text = omissions({"hidden": [f".{i}" for i in range(1000)], "other": ["b"]})
    assert text == "; passed over: .0, .1, .2, .3, .4, .5 and 994 more (hidden), b (other)"
    assert omissions({}) == ""


def test_a_corpus_of_text_files_names_the_others(tmp_path):
    write(tmp_path, ["train.txt", "valid.txt", ".x.test.txt", "._train.txt", "train.csv", "notes.md"])
    source = Folder(tmp_path)
    assert not source.has("test")
    assert source.listing({"train": 1, "val": 2000}) == (
        f"{tmp_path}: train train.txt, 1 line; val valid.txt, 2,000 lines; passed over: ._train.txt, .x.test.txt "
        f"(hidden), notes.md, train.csv (not the text of a split)"
    )


def test_a_corpus_of_tables_names_the_others(tmp_path):
    for name in ("train-1.jsonl", "train-2.jsonl", "valid.jsonl", "extra.jsonl", "._train.jsonl", "dataset_info.json"):
        (tmp_path / name).write_text(json.dumps({"text": name}) + "\n")
    source = TableFolder(tmp_path)
    assert list(source.blocks("train")) == ["train-1.jsonl\n", "train-2.jsonl\n"]
    assert source.listing({}) == (
        f"{tmp_path}: train 2 files; val valid.jsonl; passed over: ._train.jsonl (hidden), dataset_info.json "
        f"(describes a data set), extra.jsonl (not the table of a split)"
    )
    for name in ("train-1.jsonl", "train-2.jsonl", "valid.jsonl"):
        (tmp_path / name).unlink()
    assert list(TableFolder(tmp_path).blocks("train")) == ["extra.jsonl\n"]


def test_prepare_and_doctor_list_what_is_read(tmp_path, capsys, monkeypatch):
    from lmrecipes.commands.doctor import _files
    from lmrecipes.datamodules import TextFolder

    write(tmp_path / "d", ["train.txt", "valid.txt"], "a b\nc\n" * 5)
    write(tmp_path / "d", ["notes.md"])
    plan = BatchPlan(global_batch_size=2, seq_len=2)
    data = TextFolder(plan, path=str(tmp_path / "d"), cache_dir=str(tmp_path / "cache"))
    before = [finding.found for finding in _files(data)]
    assert before == [
        f"data.path {tmp_path / 'd'}: train train.txt; val valid.txt; passed over: notes.md (not the text of a split)"
    ]
    data.prepare(progress=False)
    (after,) = data.listing()
    assert "train train.txt, 10 lines; val valid.txt, 10 lines" in after
    again = TextFolder(plan, path=str(tmp_path / "d"), cache_dir=str(tmp_path / "cache"))
    assert [finding.found for finding in _files(again)] == [after]
    assert _files(TextFolder(plan, path=str(tmp_path / "none"), cache_dir=str(tmp_path / "cache"))) == []
