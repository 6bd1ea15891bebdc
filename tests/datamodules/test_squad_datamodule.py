"""SquadDataModule prepares once, takes its vocabulary from the configured place, and resumes exactly."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from data_helpers import padding_share

from conftest import requires
from lmrecipes.batches import BatchPlan, EvalBatchPlan
from lmrecipes.config import catalog
from lmrecipes.data.embedded.squad import make_squad
from lmrecipes.data.tasks.squad.files import Question
from lmrecipes.data.tokenizers.sentencepiece_config import SentencePieceSettings
from lmrecipes.data.tokenizers.wordpiece_config import WordPieceSettings, load_wordpiece
from lmrecipes.datamodules import SquadDataModule, TextCollator
from unrelated_files import put_files

REAL = Path(os.environ.get("LMRECIPES_TEST_DATA", "/nowhere"))
real_data = requires(REAL.is_dir(), "LMRECIPES_TEST_DATA is not set")
PLAN = BatchPlan(global_batch_size=8, seq_len=64, val=EvalBatchPlan(batch_size=6), test=EvalBatchPlan(batch_size=6))


@pytest.fixture
def files(tmp_path):
    paths = {}
    for split, passages in (("train", 20), ("val", 4)):
        paths[split] = str(tmp_path / f"{split}.json")
        Path(paths[split]).write_text(json.dumps(make_squad(split, passages)))
    return paths


def module(files, tmp_path, **settings):
    settings = {"wordpiece": WordPieceSettings(vocab_size=600), "max_query_len": 24, "doc_stride": 16, **settings}
    return SquadDataModule(settings.pop("batch", PLAN), **files, cache_dir=str(tmp_path / "cache"), **settings)


def at_step(data, step, rank=0, size=1):
    """The DataModule under a Trainer that has done this many steps."""
    kwargs = {"rank": rank, "num_replicas": size}
    data.trainer = SimpleNamespace(global_step=step, distributed_sampler_kwargs=kwargs)
    return data


def equal(left, right):
    pairs = zip(left, right, strict=True)
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


def test_features_are_prepared_once_and_again_after_a_change(files, tmp_path, monkeypatch):
    from lmrecipes.data.tasks.squad import windows

    cuts, cut = [], windows.cut
    monkeypatch.setattr(windows, "cut", lambda questions, *rest: cuts.append(len(questions)) or cut(questions, *rest))
    first = module(files, tmp_path)
    first.prepare(progress=False)
    assert len(cuts) == 2
    again = module(files, tmp_path)
    again.prepare(progress=False)
    assert len(cuts) == 2
    assert isinstance(again.prepared("train").pieces.begin, np.memmap)
    assert list(again.questions("val")) == list(first.questions("val"))
    module(files, tmp_path, doc_stride=8).prepare(progress=False)
    assert len(cuts) == 4
    Path(files["val"]).write_text(json.dumps(make_squad("val", 3)))
    module(files, tmp_path).prepare(progress=False)
    assert len(cuts) == 5


def test_damaged_features_are_named(files, tmp_path):
    data = module(files, tmp_path)
    data.prepare(progress=False)
    damaged = data.prepared("val").folder / "context_ids.npy"
    damaged.write_bytes(damaged.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"prepared data .*context_ids\.npy has \d+ bytes where its manifest says"):
        module(files, tmp_path).prepared("val")


def test_an_interrupted_preparation_restarts(files, tmp_path, monkeypatch):
    import lmrecipes.data.tasks.squad.prepared as preparing

    data = module(files, tmp_path)
    write = preparing._write_json
    monkeypatch.setattr(preparing, "_write_json", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        data.prepared("train")
    monkeypatch.setattr(preparing, "_write_json", write)
    assert len(data.prepared("train").pieces)


def test_preparing_again_keeps_unrelated_files(files, tmp_path):
    put = [put_files(tmp_path / "cache", "notes.txt", "squad/a")]
    folder = module(files, tmp_path).prepared("val").folder
    put.append(put_files(folder, "notes.txt", "figures/one.npy", "mine.part"))
    (folder / "manifest.json").unlink()
    again = module(files, tmp_path).prepared("val")
    assert again.folder == folder
    assert len(again.pieces)
    assert all(unchanged() for unchanged in put)
    assert "notes.txt" not in again.manifest["bytes"]


def test_the_vocabulary_comes_from_a_run_a_file_or_training(files, tmp_path):
    learned = module(files, tmp_path).vocabulary
    assert "where" in learned.tokens
    run = tmp_path / "run"
    learned.save(run / "vocabulary")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/vocab.txt").write_text("\n".join(learned.tokens))
    learned.fast.save_pretrained(tmp_path / "transformers")
    for source in (
        run,
        run / "vocabulary",
        tmp_path / "folder",
        tmp_path / "folder/vocab.txt",
        tmp_path / "transformers",
    ):
        assert module(files, tmp_path, vocabulary_dir=str(source)).vocabulary.tokens == learned.tokens, source
        settings = WordPieceSettings(name=str(source if source != run else run / "vocabulary"))
        assert module(files, tmp_path, wordpiece=settings).vocabulary.tokens == learned.tokens, source
    # With a trained model's vocabulary nothing is trained, and only the requested split is read.
    trained = module({"val": files["val"]}, tmp_path)
    trained.evaluate_with(learned, "val")
    trained.prepare(progress=False)
    assert trained.vocab_size == learned.size


@pytest.mark.slow
def test_training_resumes_at_any_step_with_any_number_of_workers(files, tmp_path):
    data = module(files, tmp_path, batch=BatchPlan(global_batch_size=8, micro_batch_size=2, seq_len=64))
    straight = list(at_step(data, 0).train_dataloader())
    n_steps = len(data.training_order()) // 4
    assert len(straight) == 4 * n_steps
    for step, workers in ((3, 0), (n_steps - 1, 2)):
        resumed = module(files, tmp_path, batch=data.batch_plan, num_workers=workers)
        batches = list(at_step(resumed, step).train_dataloader())
        assert len(batches) == len(straight) - 4 * step
        assert all(equal(a, b) for a, b in zip(batches, straight[4 * step :], strict=True))
    other_epoch = next(iter(at_step(data, n_steps).train_dataloader()))
    assert not equal(other_epoch.windows[None], straight[0].windows[None])


def test_ranks_partition_every_step_and_every_evaluation(files, tmp_path):
    data = module(files, tmp_path)
    whole = next(iter(at_step(data, 2).train_dataloader())).windows.tolist()
    shares = [next(iter(at_step(data, 2, rank, 4).train_dataloader())).windows.tolist() for rank in range(4)]
    assert sorted(whole) == sorted(number for share in shares for number in share)
    for size in (1, 3):
        per_rank = [list(at_step(data, 0, rank, size).val_dataloader()) for rank in range(size)]
        assert len({len(batches) for batches in per_rank}) == 1
        numbers = [n for batches in per_rank for batch in batches for n in batch.windows.tolist()]
        assert sorted(numbers) == list(range(len(data.prepared("val").pieces)))
        room = max(PLAN.val.batch_size // size, 1) * 64
        assert all(batch.input_ids.numel() <= room for batches in per_rank for batch in batches)


def test_predicted_answers_come_from_the_questions_own_context(files, tmp_path):
    data = module(files, tmp_path)
    data.ask([Question("mine", "Where is the mill?", "The mill is at Oakford. " * 20)])
    numbers = [number for batch in data.predict_dataloader() for number in batch.windows.tolist()]
    assert len(numbers) == len(data.prepared("predict").pieces) > 2
    assert [q.id for q in data.questions("predict")] == ["mine"]
    assert not data.may_lack("predict")
    for invalid, message in (([], "no question"), ([Question("q", " ", "c")], "the question of question q is empty")):
        with pytest.raises(ValueError, match=message):
            data.ask(invalid)


def test_malformed_questions_are_rejected_or_counted(files, tmp_path):
    content = json.loads(Path(files["val"]).read_text())
    content["data"][0]["paragraphs"][0]["qas"][0].pop("question")
    Path(files["val"]).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"val\.json: question val-0-0: it has no question"):
        module(files, tmp_path).prepare(progress=False)
    for _ in range(2):
        # Reported again when the prepared data is reused.
        with pytest.warns(UserWarning, match=r"1 skipped \(1 x missing key\)"):
            module(files, tmp_path, on_malformed="skip").prepare(progress=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_best": 0}, r"data\.n_best is 0"),
        ({"max_answer_len": 0}, r"data\.max_answer_len is 0"),
        ({"max_query_len": 62}, r"batch\.seq_len is 64"),
        (
            {"batch": BatchPlan(global_batch_size=8, seq_len=64, test=EvalBatchPlan(seq_len=20))},
            r"batch\.test\.seq_len is 20",
        ),
        ({"test": "xquad.{language}.json"}, r"data\.test is xquad\.\{language\}\.json, which needs data\.language"),
        ({"language": "xx"}, "language is 'xx'; it must be one of"),
    ],
)
def test_invalid_settings_of_squad_are_rejected(files, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        module(files, tmp_path, **settings)


def test_a_missing_split_is_reported_with_its_option(files, tmp_path):
    with pytest.raises(ValueError, match=r"data\.test is not given"):
        module(files, tmp_path).test_dataloader()
    with pytest.raises(ValueError, match=r"nowhere\.json is not a file"):
        module({"train": "nowhere.json"}, tmp_path).prepare(progress=False)


def test_an_unwritable_cache_is_named(files, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ValueError, match=r"data\.cache_dir .* cannot be written to"):
        module(files, tmp_path).prepare(progress=False)


def test_settings_of_a_vocabulary_that_is_not_read_are_refused(files, tmp_path):
    with pytest.raises(ValueError, match=r"data.wordpiece is .*needs a SentencePiece vocab.* give data.sentencepiece"):
        module(files, tmp_path, collator=TextCollator())
    with pytest.raises(ValueError, match=r"data.sentencepiece is .*needs a WordPiece vocab.* give data.wordpiece"):
        module(files, tmp_path, sentencepiece=SentencePieceSettings())


@pytest.mark.parametrize("name", ["squad11", "squad20", "xquad", "squad_folder", "embedded_squad"])
def test_presets_set_only_existing_arguments(name):
    preset = catalog.read_yaml(catalog.preset_paths("datamodules")[name])
    assert preset["class_path"] == "lmrecipes.datamodules.SquadDataModule"
    data = SquadDataModule(BatchPlan(global_batch_size=8, seq_len=384), **preset["init_args"])
    assert {"train", "val", "test"} <= data.files.keys()
    if name == "xquad":
        assert "xquad.de/" in data.source("test").path


@real_data
def test_real_questions_need_little_padding(tmp_path):
    batch = BatchPlan(global_batch_size=32, seq_len=384, test=EvalBatchPlan(batch_size=32))
    for language, fixed_least in (("en", 0.5), ("de", 0.15)):
        file = str(REAL / f"xquad/xquad.{language}.json")
        data = module({"train": file, "test": file}, tmp_path, batch=batch, max_query_len=64, doc_stride=128)
        data._vocabulary = load_wordpiece(str(REAL / "vocab/bert-base-uncased-vocab.txt"))
        lengths = data.prepared("test").pieces.lengths
        order = data.training_order()
        training = padding_share(lengths, [order.rows(k) for k in range(len(order))], 384)
        evaluation = padding_share(lengths, data.evaluation_order("test"), 384)
        fixed = 1 - lengths.mean() / 384
        print(f"{language}: padding {training:.3f} in training, {evaluation:.3f} in evaluation, {fixed:.3f} to 384")
        assert training < 0.08
        assert evaluation < 0.08
        assert fixed > fixed_least
