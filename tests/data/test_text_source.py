"""Text is read from any supported files, and unreadable input is named."""

import codecs
import csv
import gzip
import json
import re

import pytest

from lmrecipes.batches import BatchPlan
from lmrecipes.data import Folder, HubRepository, TableFolder, Tokenizing, load_vocabulary
from lmrecipes.data.corpora import rows
from lmrecipes.data.prepared.tokenize_text import prepare
from lmrecipes.datamodules import TextFolder, WikiText2

TEXTS = {"train": ["a b", "", "a é\n"], "validation": ["a"], "test": ["b b"]}
PLAN = BatchPlan(global_batch_size=2, seq_len=2)


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def write_parquet(folder, split, lines, column="text"):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({column: lines}), folder / f"{split}-00000-of-00001.parquet")


def write_json(folder, split, lines):
    (folder / f"{split}.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))


def write_text(folder, split, lines):
    (folder / f"{split}.txt").write_text("".join(line.rstrip("\n") + "\n" for line in lines))


def write_gzip(folder, split, lines):
    with gzip.open(folder / f"{split}.txt.gz", "wt", encoding="utf-8") as file:
        file.writelines(line.rstrip("\n") + "\n" for line in lines)


def write_array(folder, split, lines):
    (folder / f"{split}.json").write_text(json.dumps([{"text": line} for line in lines], indent=2))


def write_csv(folder, split, lines):
    with gzip.open(folder / f"{split}.csv.gz", "wt", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows([["n", "text"], *enumerate(lines)])


@pytest.mark.parametrize("write", [write_parquet, write_json, write_array, write_csv, write_text, write_gzip])
def test_all_file_formats_give_the_same_tokens(tmp_path, write):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for split, lines in TEXTS.items():
        write(folder, split, lines)
    data = TextFolder(PLAN, path=str(folder), cache_dir=str(tmp_path))
    data.prepare(progress=False)
    for split, text in (("train", "a b\n\na é"), ("val", "a"), ("test", "b b")):
        assert data.vocabulary.decode(data.prepared.tokens(split).tolist()) == text


def test_a_missing_split_is_named_and_a_missing_test_split_only_when_needed(tmp_path):
    for number, write in enumerate((write_parquet, write_text)):
        folder = tmp_path / str(number)
        folder.mkdir()
        write(folder, "train", ["a b c d"] * 4)
        with pytest.raises(ValueError, match=r"no val(idation)? (split|text)"):
            TextFolder(PLAN, path=str(folder), cache_dir=str(tmp_path)).prepare(progress=False)
        write(folder, "validation", ["a b c d"] * 4)
        data = TextFolder(PLAN, path=str(folder), cache_dir=str(tmp_path))
        data.prepare(progress=False)
        with pytest.raises(ValueError, match="no test text; it has train, val"):
            data.test_dataloader()


@pytest.mark.parametrize("damage", [lambda b: b[:-20], lambda b: b[:30] + bytes(30) + b[60:], lambda b: b"text\n"])
def test_a_damaged_gzip_file_is_named(tmp_path, damage):
    for split in ("train", "valid"):
        write_gzip(tmp_path, split, [f"w{i}" for i in range(2000)])
    path = tmp_path / "train.txt.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"train.txt.gz is damaged or truncated .*; copy or download it again"):
        prepare(Folder(tmp_path), Tokenizing(), tmp_path / "prepared")


def test_unreadable_rows_are_reported_in_one_line(tmp_path):
    damaged, other = tmp_path / "damaged", tmp_path / "other"
    damaged.mkdir()
    other.mkdir()
    (damaged / "train.parquet").write_bytes(b"no table")
    with pytest.raises(ValueError, match=r"train.parquet cannot be read as parquet"):
        list(TableFolder(damaged).blocks("train"))
    write_parquet(other, "train", ["a"], column="content")
    with pytest.raises(ValueError, match=r"train-00000-of-00001.parquet has no column 'text'; it has content"):
        list(TableFolder(other).blocks("train"))
    with pytest.raises(ValueError, match=r"could not be loaded from the Hugging Face hub .*--data.path FOLDER"):
        HubRepository("Salesforce/wikitext", "wikitext-2-v1").has("train")


def test_strings_of_tables_are_not_interpreted(tmp_path):
    strings = ["NA", "None", "null", "0.10", "2020-01-01", "01", "true", "", 'a, "b"\n c']
    with (tmp_path / "train.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["text"], *([string] for string in strings), ["#"]])
    write_json(tmp_path, "validation", strings)
    (tmp_path / "labels.csv").write_text("id\n1\n")
    source = TableFolder(tmp_path)
    assert list(source.blocks("train")) == ["\n".join([*strings, "#"]) + "\n"]
    assert list(source.blocks("val")) == ["\n".join(strings) + "\n"]
    assert list(source.describe()["files"]) == ["labels.csv", "train.csv", "validation.jsonl"]
    assert not source.has("test")


def test_a_row_that_is_not_text_is_named_by_file_and_line(tmp_path):
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text('{"text": 1}\n{"text": 2}\n')
    with pytest.raises(ValueError, match=r"train.jsonl:1 has text 1, which is not a string"):
        list(TableFolder(tmp_path).blocks("train"))


def test_a_row_without_a_text_is_no_empty_line(tmp_path):
    write_parquet(tmp_path, "train", ["a", None])
    (tmp_path / "validation.jsonl").write_text('{"text": "a"}\n{"text": null}\n')
    (tmp_path / "test.json").write_text('[{"text": "a"}, {"text": null}]')
    source = TableFolder(tmp_path)
    for split in ("train", "val", "test"):
        with pytest.raises(ValueError, match=rf"{re.escape(source.place(split))}:2 has text null, which is not a str"):
            list(source.blocks(split))


def test_a_row_with_half_a_character_is_named(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n{"text": "\\ud83d"}\n')
    with pytest.raises(ValueError, match=r"train.jsonl:2 has half a character in text: '\\ud83d'"):
        list(TableFolder(tmp_path).blocks("train"))


@pytest.mark.parametrize(("name", "content"), [("csv", "n,text\n"), ("jsonl", ""), ("json", "[]"), ("txt", "\ufeff\n")])
def test_a_training_text_without_text_is_named(tmp_path, name, content):
    for split in ("train", "valid"):
        (tmp_path / f"{split}.{name}").write_text(content)
    data = TextFolder(PLAN, path=str(tmp_path), cache_dir=str(tmp_path / "cache"))
    with pytest.raises(ValueError, match=rf"train.{name} has no text"):
        data.prepare(progress=False)


def test_tables_read_by_another_version_are_prepared_again(tmp_path, monkeypatch):
    folders = {}
    for kind, write in (("tables", write_csv), ("text", write_text)):
        (tmp_path / kind).mkdir()
        for split in ("train", "valid"):
            write(tmp_path / kind, split, ["a b"])
        for version in (1, rows.READER_VERSION):
            monkeypatch.setattr("lmrecipes.data.corpora.tables.READER_VERSION", version)
            data = TextFolder(PLAN, path=str(tmp_path / kind), cache_dir=str(tmp_path / "cache"))
            data.prepare(progress=False)
            folders.setdefault(kind, set()).add(data.prepared.folder)
    assert (len(folders["tables"]), len(folders["text"])) == (2, 1)


@pytest.mark.parametrize("write", [write_text, write_gzip, write_json, write_array, write_csv])
def test_a_byte_order_mark_is_not_text(tmp_path, write):
    for split in ("train", "valid"):
        write(tmp_path, split, ["a b"])
    for file in sorted(tmp_path.iterdir()):
        unpack = gzip.open if file.suffix == ".gz" else open
        with unpack(file, "rb") as opened:
            content = opened.read().removeprefix(codecs.BOM_UTF8)
        with unpack(file, "wb") as opened:
            opened.write(codecs.BOM_UTF8 + content)
    source = TextFolder(PLAN, path=str(tmp_path), cache_dir=str(tmp_path)).source()
    assert list(source.blocks("train")) == ["a b\n"]


def test_a_missing_split_is_reported_with_all_accepted_file_names(tmp_path):
    write_text(tmp_path, "train", ["a"])
    write_json(tmp_path, "valid", ["a"])
    with pytest.raises(ValueError, match=r"has no val text \(looked for valid.txt.*or all splits as .parquet, .jsonl"):
        Folder(tmp_path).require("val")


def test_reading_rows_prints_no_progress_without_a_terminal(tmp_path, capfd):
    import datasets

    datasets.enable_progress_bars()
    write_json(tmp_path, "train", ["a"])
    assert list(TableFolder(tmp_path).blocks("train")) == ["a\n"]
    assert capfd.readouterr().err == ""


def test_the_hub_commit_is_pinned_and_recorded(tmp_path, monkeypatch):
    requests = []

    def load_dataset(repository, config, revision):
        requests.append((repository, config, revision))
        return real(str(tmp_path))

    import datasets
    from huggingface_hub import DatasetInfo, HfApi

    real = datasets.load_dataset
    for split, lines in TEXTS.items():
        write_parquet(tmp_path, split, lines)
    info = DatasetInfo(id="x", sha="0123abcd", private=False, downloads=0, likes=0, tags=[])
    monkeypatch.setattr(HfApi, "dataset_info", lambda self, name, revision: requests.append((name, revision)) or info)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = WikiText2(PLAN, revision="v2").source()
    prepared = prepare(source, Tokenizing(), tmp_path / "prepared")
    assert requests == [("Salesforce/wikitext", "v2"), ("Salesforce/wikitext", "wikitext-2-v1", "0123abcd")]
    assert prepared.manifest["resolved"] == {"commit": "0123abcd"}
    assert source.describe() != WikiText2(PLAN).source().describe()


def test_a_revision_of_local_text_is_rejected(tmp_path):
    with pytest.raises(ValueError, match=r"data.revision is v2, but this text does not come from the hub"):
        WikiText2(PLAN, path=str(tmp_path), revision="v2").source()


def test_unknown_words_and_characters_are_named_by_file_and_line(tmp_path):
    write_text(tmp_path, "train", ["a b"] * 50_000)
    write_text(tmp_path, "validation", ["a"] * 40_000 + ["b new a"])
    words = tmp_path / "words"
    words.write_text("a\nb\n")
    with pytest.raises(ValueError, match=r"validation.txt:40001: the word 'new' is not in the vocabulary of 3"):
        prepare(Folder(tmp_path), Tokenizing(vocab_file=str(words)), tmp_path / "prepared")
    prepare(Folder(tmp_path), Tokenizing(kind="char"), tmp_path / "characters")
    write_text(tmp_path, "train", ["a", "b", "bä"])
    vocabulary = load_vocabulary(tmp_path / "characters" / "vocabulary")
    with pytest.raises(ValueError, match=r"train.txt:3: the character 'ä' is not in the vocabulary of 7"):
        prepare(Folder(tmp_path), Tokenizing(kind="char"), tmp_path / "other", vocabulary=vocabulary)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("text\na, b\n", r"train.csv:2 has 2 fields, but the header has 1; quote text that contains a comma"),
        ("n,text\n1,a\n2\n", r"train.csv:3 has 1 fields, but the header has 2"),
        ('text\nfine\n"open\nmore\n', r"train.csv:3 cannot be read as csv: a quote that begins here is never closed"),
        ('n,text\n7,"a\nb"\n8,"abc" def\n', r"train.csv:4 cannot be read as csv: text follows the closing quote"),
        ("text,n,text\na,1,b\n", r"train.csv:1 has two columns 'text'; rename one of them"),
    ],
)
def test_rows_of_csv_that_do_not_match_the_header_are_rejected_instead_of_cut(tmp_path, rows, message):
    (tmp_path / "train.csv").write_text(rows)
    with pytest.raises(ValueError, match=message):
        list(TableFolder(tmp_path).blocks("train"))


def test_only_the_text_of_a_parquet_table_is_read(tmp_path, monkeypatch):
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table({"text": ["a", "b"], "image": [b"x" * 100, b"y" * 100]})
    parquet.write_table(table, tmp_path / "train.parquet")
    columns, read = [], parquet.ParquetFile.iter_batches
    record = lambda self, **options: columns.append(options["columns"]) or read(self, **options)  # noqa: E731
    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", record)
    assert list(TableFolder(tmp_path).blocks("train")) == ["a\nb\n"]
    assert columns == [["text"]]
