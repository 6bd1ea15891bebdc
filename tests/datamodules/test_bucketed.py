"""BucketedDataModule prepares, batches and resumes for a subclass that only describes its examples."""

import json
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lmrecipes.batches import BatchPlan, EvalBatchPlan
from lmrecipes.data.tokenizers.wordpiece import WordPiece
from lmrecipes.data.tokenizers.wordpiece_config import WordPieceSettings
from lmrecipes.datamodules.bucketed import PREDICT, BucketedDataModule, SplitExamples
from unrelated_files import put_files

PLAN = BatchPlan(global_batch_size=8, seq_len=16, val=EvalBatchPlan(batch_size=4), test=EvalBatchPlan(batch_size=4))


class Lines(BucketedDataModule):
    """The smallest subclass: every line of a file is an example."""

    cache_name, unit, file_format = "lines", "lines", "a file of lines"

    def __init__(self, files, cache, **given):
        super().__init__(
            PLAN,
            files,
            WordPieceSettings(vocab_size=300),
            **{"vocabulary_dir": None, "cache_dir": str(cache), "num_workers": 0, "seed": 1, **given},
        )
        self.read = []

    def _lines(self, split):
        self.read.append(split)
        return Path(self.file(split)).read_text().splitlines()

    def prepare_split(self, split, report):
        def write(folder):
            lines = self._lines(split)
            ids = [self.vocabulary.encode(line) for line in lines]
            (folder / "ids.json").write_text(json.dumps(ids))
            report(len(lines), len(lines))

        key = json.dumps([Path(self.file(split)).read_text(), self.vocabulary.digest()])
        ids = json.loads((self.cache_entry(key, write) / "ids.json").read_text())
        complaint = "1 line is empty" if [] in ids else ""
        return SplitExamples(ids, np.array([len(each) for each in ids]), lambda rows: rows.tolist(), complaint)

    def learning_key(self):
        return Path(self.file("train")).read_text()

    def learning_texts(self):
        return self._lines("train")


@pytest.fixture
def files(tmp_path):
    words = ["where", "the", "mill", "stands", "by", "the", "river", "and", "the", "bridge", "is", "long"]
    result = {"test": None}
    for split, n in (("train", 40), ("val", 11)):
        result[split] = str(tmp_path / f"{split}.txt")
        Path(result[split]).write_text("\n".join(" ".join(words[: 1 + i % 12]) for i in range(n)))
    return result


def at_step(data, step, rank=0, size=1):
    kwargs = {"rank": rank, "num_replicas": size}
    data.trainer = SimpleNamespace(global_step=step, distributed_sampler_kwargs=kwargs)
    return data


def test_files_are_read_once_and_their_examples_reused_next_to_unrelated_files(files, tmp_path):
    unchanged = put_files(tmp_path / "cache")
    first = Lines(files, tmp_path / "cache")
    first.prepare(progress=False)
    # Once for the vocabulary and once for the examples.
    assert sorted(first.read) == ["train", "train", "val"]
    again = Lines(files, tmp_path / "cache")
    again.prepare(progress=False)
    assert again.read == []
    assert again.examples("val").content == first.examples("val").content
    assert again.vocab_size == first.vocab_size
    assert unchanged()
    Path(files["val"]).write_text("the bridge")
    again = Lines(files, tmp_path / "cache")
    again.prepare(progress=False)
    assert again.read == ["val"]


def test_a_vocabulary_is_trained_by_one_of_several_concurrent_processes(files, tmp_path):
    modules = [Lines(files, tmp_path / "cache") for _ in range(3)]
    threads = [threading.Thread(target=lambda data=data: data.vocabulary) for data in modules]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [split for data in modules for split in data.read] == ["train"]
    assert len({data.vocabulary.digest() for data in modules}) == 1


def test_an_incomplete_vocabulary_is_trained_again(files, tmp_path):
    trained = Lines(files, tmp_path / "cache").vocabulary
    (file,) = (tmp_path / "cache").glob("lines-vocabulary-*/vocabulary.json")
    file.unlink()
    assert Lines(files, tmp_path / "cache").vocabulary.tokens == trained.tokens


def test_a_vocabulary_is_hashed_once_for_all_splits(files, tmp_path, monkeypatch):
    Lines(files, tmp_path / "cache").prepare(progress=False)
    hashed, content = [], WordPiece._content
    monkeypatch.setattr(WordPiece, "_content", lambda self: hashed.append(1) or content(self))
    Lines(files, tmp_path / "cache").prepare(progress=False)
    assert len(hashed) == 1


def test_training_resumes_at_any_step_and_evaluation_reads_each_example_once(files, tmp_path):
    straight = list(at_step(Lines(files, tmp_path / "cache"), 0).train_dataloader())
    assert len(straight) == 5
    assert list(at_step(Lines(files, tmp_path / "cache"), 2).train_dataloader()) == straight[2:]
    for size in (1, 3):
        ranks = [
            list(at_step(Lines(files, tmp_path / "cache"), 0, rank, size).val_dataloader()) for rank in range(size)
        ]
        assert sorted(row for batches in ranks for rows in batches for row in rows) == list(range(11))
        assert len({len(batches) for batches in ranks}) == 1


def test_missing_files_are_reported(files, tmp_path):
    data = Lines(files, tmp_path / "cache")
    with pytest.raises(ValueError, match=r"data\.test is not given; name a file of lines"):
        data.test_dataloader()
    with pytest.raises(ValueError, match="there are no lines to predict"):
        data.predict_dataloader()
    with pytest.raises(ValueError, match="these lines need WordPiece"):
        data.evaluate_with(SimpleNamespace(kind="word"), "test")


def test_predict_needs_no_files(files, tmp_path):
    data = Lines({}, tmp_path / "cache")
    data.evaluate_with(Lines(files, tmp_path / "cache").vocabulary, PREDICT)
    data._examples[PREDICT] = SplitExamples([[1, 2]], np.array([2]), lambda rows: rows.tolist())
    data.prepare_data()
    assert list(data.predict_dataloader()) == [[0]]


def test_warnings_are_repeated_when_prepared_data_is_reused(files, tmp_path):
    Path(files["val"]).write_text("the bridge\n\nthe mill")
    for _ in range(2):
        with pytest.warns(UserWarning, match="1 line is empty"):
            Lines(files, tmp_path / "cache").prepare(progress=False)
