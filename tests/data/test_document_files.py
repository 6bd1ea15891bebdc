"""Documents do not depend on how a file is split for reading; input that is not text is named by its line."""

import gzip
import json
import random
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest

from lmrecipes.data.corpora import document_files, documents
from lmrecipes.data.corpora.documents import Corpus, DocumentSource


def read(path, part_bytes=1 << 20, monkeypatch=None, **settings):
    if monkeypatch:
        monkeypatch.setattr(documents, "PART_BYTES", part_bytes)
    source = DocumentSource(name="mine", path=str(path), **settings)
    parts = list(source.parts(None))
    return ["\n".join(paragraphs) for part in parts for paragraphs in source.read(part, None)], len(parts)


def articles(n=60, seed=0):
    generator = random.Random(seed)
    return [
        "\n".join("é" * generator.randint(1, 3) + f" line {i}.{j}" for j in range(generator.randint(1, 6)))
        for i in range(n)
    ]


@pytest.mark.parametrize("between", ["\n\n", "\n\n\n \n"])
@pytest.mark.parametrize("part_bytes", [7, 64, 300, 1 << 20])
def test_empty_lines_separate_documents_for_any_part_size(tmp_path, monkeypatch, part_bytes, between):
    expected = articles()
    (tmp_path / "a.txt").write_text("\n" + between.join(expected), encoding="utf-8")
    result, n_parts = read(tmp_path, part_bytes, monkeypatch)
    assert result == expected
    assert (n_parts > 1) == (part_bytes < 1 << 20)


@pytest.mark.parametrize("part_bytes", [7, 64, 1 << 20])
@pytest.mark.parametrize("form", ["txt", "jsonl", "jsonl.gz", "json.zst", "parquet"])
def test_every_line_or_row_is_a_document(tmp_path, monkeypatch, form, part_bytes):
    expected = [text.replace("\n", " ") if form == "txt" else text for text in articles()]
    path = tmp_path / f"part.0.{form}"
    if form == "parquet":
        table = pyarrow.table({"id": list(range(len(expected))), "text": expected})
        pyarrow.parquet.write_table(table, path, row_group_size=7)
    elif form == "txt":
        path.write_text("\n".join(expected) + "\n", encoding="utf-8")
    else:
        lines = "".join(json.dumps({"text": text}, ensure_ascii=form == "jsonl") + "\n" for text in expected).encode()
        if form.endswith("zst"):
            with pyarrow.output_stream(str(path), compression="zstd") as file:
                file.write(lines)
        else:
            path.write_bytes(gzip.compress(lines) if form.endswith("gz") else lines)
    result, _ = read(path, part_bytes, monkeypatch, documents="line")
    assert result == expected


@pytest.mark.parametrize("part_bytes", [50, 1 << 20])
def test_empty_rows_separate_documents(tmp_path, monkeypatch, part_bytes):
    rows = ["one", "two", "", "three", "", "", "four", "five"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"body": row}) + "\n" for row in rows))
    result, _ = read(tmp_path, part_bytes, monkeypatch, documents="blank_line", key="body")
    assert result == ["one\ntwo", "three", "four\nfive"]


def test_a_file_is_a_document_and_small_files_share_a_part(tmp_path, monkeypatch):
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(f"{name} one\n\n{name} two\n")
    result, n_parts = read(tmp_path, 30, monkeypatch, documents="file")
    assert result == [f"{name} one\n\n{name} two" for name in "abc"]
    assert n_parts == 2
    result, _ = read(tmp_path / "[ab].txt", documents="file")
    assert len(result) == 2


def test_wrapped_lines_are_joined_into_paragraphs(tmp_path):
    (tmp_path / "a.txt").write_text("A line\nbroken within.\n\n  Another\nparagraph.\n\n\nEnd.")
    result, _ = read(tmp_path, documents="file", wrapped=True)
    assert result == ["A line broken within.\nAnother paragraph.\nEnd."]


def test_overlong_documents_are_cut_at_line_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(document_files, "LONGEST", 100)
    lines = [f"line {i:03}" for i in range(50)]
    (tmp_path / "a.txt").write_text("\n".join(lines) + "\n\n" + "x" * 250 + " " + "y" * 30)
    for part_bytes in (1 << 20, 90):
        result, _ = read(tmp_path, part_bytes, monkeypatch)
        assert max(map(len, result)) <= 100
        assert "\n".join(result).split()[: 2 * 50] == " ".join(lines).split()
        assert "".join("".join(result).split()).endswith("x" * 250 + "y" * 30)


def test_byte_order_marks_and_foreign_line_ends_are_removed(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\n\r\ntwo\r\n".encode())
    assert read(tmp_path)[0] == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"fine\n\nal\xffso\n", r"a.txt:3 is not UTF-8 text"),
        ("a.jsonl", b'{"text": "a"}\n{"texts": "b", "n": 1}\n', r"a.jsonl:2 has no key 'text'; it has texts, n"),
        ("a.jsonl", b'{"text": "a"}\n\n{"text": \n', r"a.jsonl:3 is not valid JSON"),
        ("a.jsonl", b'{"text": "a"}\n{"text": null}\n', r"a.jsonl:2 has text null, which is not a string"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\\ud83d"}\n', r"a.jsonl:2 has half a character in text"),
        ("a.jsonl", b'{"text": 3}\n', r"a.jsonl:1 has text 3, which is not a string"),
        ("a.jsonl", b"[1]\n", r"a.jsonl:1 is list, not keys and values"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 1000, mtime=0)[:60], r"a.jsonl.gz is damaged or truncated"),
        ("a.parquet", b"nothing", r"a.parquet cannot be read as parquet"),
        ("a.txt", b"", r"source mine is empty: .* has no text"),
        ("a.csv", b"a", r"source mine: .* has no files that end in .txt, .jsonl, .json, .parquet"),
    ],
)
@pytest.mark.parametrize("part_bytes", [1 << 20, 6])
def test_input_that_is_not_text_is_named(tmp_path, monkeypatch, name, content, message, part_bytes):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read(tmp_path, part_bytes, monkeypatch)


def test_errors_in_parquet_name_column_and_row(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"body": ["a"], "n": [1]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a.parquet has no column 'text'; it has body, n"):
        read(tmp_path)
    with pytest.raises(ValueError, match=r"a.parquet:1 has n 1, which is not a string"):
        read(tmp_path, key="n")


def test_invalid_sources_are_rejected(tmp_path):
    with pytest.raises(ValueError, match=r"weight of source a is 0; it must be above 0"):
        DocumentSource(name="a", weight=0, path="x")
    with pytest.raises(ValueError, match=r"weight of source a is nan"):
        DocumentSource(name="a", weight=float("nan"), path="x")
    with pytest.raises(ValueError, match=r"source a: .*nowhere is not a file, folder or pattern"):
        list(DocumentSource(name="a", path=str(tmp_path / "nowhere")).parts(None))


def test_hub_files_are_read_like_local_ones(tmp_path, monkeypatch):
    import huggingface_hub

    folder = tmp_path / "20231101.en"
    folder.mkdir()
    for i in range(2):
        table = pyarrow.table({"text": [f"article {i}.{j}" for j in range(5)]})
        pyarrow.parquet.write_table(table, folder / f"train-0000{i}-of-00002.parquet")
    requests = []

    def info(self, repository, revision, files_metadata):
        requests.append((repository, revision))
        files = [SimpleNamespace(rfilename=f"{folder.name}/{f.name}", size=f.stat().st_size) for f in folder.iterdir()]
        others = [SimpleNamespace(rfilename=name, size=9) for name in ("README.md", "20231101.de/train-0.parquet")]
        return SimpleNamespace(siblings=[*others, *files])

    def fetch(repository, name, revision, repo_type):
        assert (repository, revision, repo_type) == ("wikimedia/wikipedia", "abc", "dataset")
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", info)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    source = DocumentSource(name="wikipedia", repository="wikimedia/wikipedia", config="20231101.en")
    corpus = Corpus(sources=[source], seq_len=64, commits=["abc"])
    result = [paragraphs for part in corpus.parts() for paragraphs in corpus.read(part)]
    assert result == [[f"article {i}.{j}"] for i in range(2) for j in range(5)]
    assert requests == [("wikimedia/wikipedia", "abc")]


def test_an_unreachable_hub_is_reported(monkeypatch):
    import huggingface_hub

    def refuse(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", refuse)
    source = DocumentSource(name="w", repository="wikimedia/wikipedia", config="20231101.en")
    with pytest.raises(ValueError, match=r"wikimedia/wikipedia \(20231101.en\) could not be loaded.*a source's path"):
        list(source.parts(None))
