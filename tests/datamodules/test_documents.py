"""Masked batches: exact resume at any step, the same steps for any world size, fixed masks in evaluation."""

import json
import os
import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import LightningModule, Trainer

from conftest import prepare_here, requires
from lmrecipes.batches import BatchPlan, EvalBatchPlan, MaskedBatch, TextPairBatch
from lmrecipes.config import catalog
from lmrecipes.data import load_vocabulary
from lmrecipes.data.corpora import synthetic_text
from lmrecipes.data.corpora.documents import DocumentSource
from lmrecipes.data.objectives.masked_lm import MaskedLM
from lmrecipes.data.objectives.masking import Masking
from lmrecipes.data.objectives.span_corruption_lm import SpanCorruptionLM
from lmrecipes.data.prepared.examples import Examples
from lmrecipes.data.tokenizers.sentencepiece_config import SentencePieceSettings
from lmrecipes.data.tokenizers.wordpiece import SPECIAL, WordPiece
from lmrecipes.data.tokenizers.wordpiece_config import WordPieceSettings
from lmrecipes.datamodules import DocumentsDataModule

pytestmark = pytest.mark.filterwarnings("ignore")
REAL = Path(os.environ.get("LMRECIPES_TEST_DATA", "/nowhere"))
WORDS = [a + b for a in "bdfgklmn" for b in ("a", "e", "io", "u")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A hundred documents of a few sentences as JSON lines; a second source of twenty as text."""
    path, generator = tmp_path_factory.mktemp("documents"), random.Random(0)

    def document():
        sentences = (" ".join(generator.choices(WORDS, k=generator.randint(4, 12))) for _ in range(12))
        return " ".join(f"{sentence.capitalize()}." for sentence in sentences)

    (path / "a.jsonl").write_text("".join(json.dumps({"text": document()}) + "\n" for _ in range(100)))
    (path / "b.txt").write_text("\n\n".join(document() for _ in range(20)))
    return path


def module(folder, cache, batch=8, micro=None, weights=(1.0, 1.0), eval_batch=16, **arguments):
    plan = BatchPlan(
        global_batch_size=batch, micro_batch_size=micro, seq_len=32, val=EvalBatchPlan(batch_size=eval_batch)
    )
    sources = [
        DocumentSource(name="a", path=str(folder / "a.jsonl"), weight=weights[0]),
        DocumentSource(name="b", path=str(folder / "b.txt"), weight=weights[1]),
    ]
    options = {"wordpiece": WordPieceSettings(vocab_size=200), "held_out": 0.1, **arguments}
    return DocumentsDataModule(plan, sources, cache_dir=str(cache), **options)


@pytest.fixture(scope="module")
def cache(folder, tmp_path_factory):
    """Prepares the corpus."""
    path = tmp_path_factory.mktemp("cache")
    prepare_here(module(folder, path))
    return path


def test_documents_of_every_source_are_listed_once_prepared(folder, cache, tmp_path):
    lines = module(folder, cache).listing()
    assert [line.partition(", ")[2] for line in lines] == ["100 documents", "20 documents"]
    assert [line.partition(": ")[0] for line in lines] == ["source a", "source b"]
    assert not any("documents" in line.rpartition("/")[2] for line in module(folder, tmp_path).listing())


def on_rank(data, rank, size):
    data.trainer = SimpleNamespace(
        distributed_sampler_kwargs={"rank": rank, "num_replicas": size}, global_step=0, world_size=size
    )
    return data


def concatenate(batches):
    """Concatenates batches field by field."""
    return MaskedBatch(*(torch.cat(parts).tolist() for parts in zip(*batches, strict=True)))


class Reader(LightningModule):
    """Records the batches it trains on."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.read = []

    def training_step(self, batch, batch_idx):
        self.read.append([field.tolist() for field in batch])
        return self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def read(folder, cache, tmp_path, steps, micro, workers=0, start=None):
    data, reader = module(folder, cache, batch=40, micro=micro, num_workers=workers), Reader()
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        accumulate_grad_batches=40 // micro,
        use_distributed_sampler=False,
    )
    trainer.fit(reader, datamodule=data, ckpt_path=start)
    trainer.save_checkpoint(tmp_path / f"{steps}.ckpt", weights_only=False)
    return reader.read, data.train_dataloader().batches_per_epoch


@pytest.mark.slow
@pytest.mark.parametrize(("micro", "workers"), [(40, 0), (20, 2), (10, 3)])
@pytest.mark.parametrize("shift", [-1, 0, 1])
def test_a_resumed_training_continues_at_the_next_batch(folder, cache, tmp_path, micro, workers, shift):
    _, per_epoch = read(folder, cache, tmp_path, 1, micro)
    accumulation = 40 // micro
    stop, steps = per_epoch // accumulation + shift, 2 * per_epoch // accumulation + 2
    straight, _ = read(folder, cache, tmp_path, steps, micro)
    first, _ = read(folder, cache, tmp_path, stop, micro, workers)
    rest, _ = read(folder, cache, tmp_path, steps, micro, workers, tmp_path / f"{stop}.ckpt")
    assert first + rest == straight
    assert len(straight) == steps * accumulation
    assert len({str(batch) for batch in straight}) == len(straight)  # every epoch has its own order and masks


@pytest.mark.parametrize(("size", "micro"), [(1, 2), (2, 4), (4, 1), (8, 1)])
def test_a_step_has_the_same_sequences_for_any_world_size(folder, cache, size, micro):
    alone = list(module(folder, cache).train_dataloader())
    accumulation = 8 // size // micro
    ranks = [list(on_rank(module(folder, cache, micro=micro), r, size).train_dataloader()) for r in range(size)]
    assert {len(batches) for batches in ranks} == {len(alone) * accumulation}
    for step, whole in enumerate(alone):
        parts = [batch for batches in ranks for batch in batches[step * accumulation : (step + 1) * accumulation]]
        assert concatenate(parts) == concatenate([whole])


def test_training_batches_have_one_length_and_an_epoch_has_every_example_once(folder, cache):
    data = module(folder, cache, batch=1)
    batches = list(data.train_dataloader())
    n = sum(data.prepared.manifest["splits"]["train"]["examples"])
    assert len(batches) == n == data.train_dataloader().batches_per_epoch
    assert {batch.input_ids.shape for batch in batches} == {(1, 32)}
    assert {batch.positions.shape for batch in batches} == {(1, Masking().most_predictions(32))}
    restored = set()
    for batch in batches:
        ids = batch.input_ids.clone()
        counted = batch.weights > 0
        ids[0, batch.positions[counted]] = batch.originals[counted]
        restored.add(str(ids.tolist()))
        assert (batch.input_ids[0, batch.lengths[0] :] == 0).all()
        assert (data.vocabulary.mask_id == ids).sum() == 0
    assert len(restored) == n


def test_weights_set_how_often_a_source_is_repeated(folder, cache):
    plain, weighted = module(folder, cache), module(folder, cache, weights=(0.5, 3.0))
    a, b = plain.prepared.manifest["splits"]["train"]["examples"]
    assert weighted.prepared.folder == plain.prepared.folder
    expected = round(0.5 * a) + 3 * b
    assert weighted.train_dataloader().batches_per_epoch == expected // 8


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_has_every_example_once_with_the_same_masks_for_any_world_size(folder, cache, split):
    def batches(data):
        return list(data.val_dataloader() if split == "val" else data.test_dataloader())

    def rows(batches):
        n = [
            [
                batch.input_ids[i, :length].tolist(),
                batch.token_type_ids[i, :length].tolist(),
                batch.positions[i].tolist(),
            ]
            for batch in batches
            for i, length in enumerate(batch.lengths.tolist())
        ]
        return sorted(n)

    data = module(folder, cache)
    alone = batches(data)
    n = sum(data.prepared.manifest["splits"][split]["examples"])
    assert sum(len(batch.lengths) for batch in alone) == n
    assert rows(batches(data)) == rows(alone)
    assert max(len(batch.lengths) for batch in alone) <= 16
    for batch in alone:
        length = batch.input_ids.shape[1]
        assert length % 8 == 0
        assert length - int(batch.lengths.max()) < 8
    for size in (2, 3):
        ranks = [batches(on_rank(module(folder, cache), rank, size)) for rank in range(size)]
        assert len({len(of_rank) for of_rank in ranks}) == 1
        assert rows([batch for of_rank in ranks for batch in of_rank]) == rows(alone)


def test_another_seed_and_probability_give_other_masks(folder, cache):
    first = next(iter(module(folder, cache).val_dataloader()))
    more = next(iter(module(folder, cache, objective=MaskedLM(Masking(mask_prob=0.25))).val_dataloader()))
    assert torch.equal(first.lengths, more.lengths)
    assert more.weights.sum() > 1.3 * first.weights.sum()
    assert more.positions.shape[1] == 8


@pytest.mark.slow
def test_prepared_documents_work_without_their_text_and_a_run_keeps_its_vocabulary(folder, tmp_path):
    path = tmp_path / "text"
    shutil.copytree(folder, path)
    first = module(path, tmp_path / "cache")
    first.prepare(progress=False)
    first.vocabulary.save(tmp_path / "saved")
    shutil.move(path, tmp_path / "elsewhere")
    again = module(path, tmp_path / "cache")
    assert again.prepared.folder == first.prepared.folder
    assert again.vocab_size == first.vocab_size
    with pytest.raises(ValueError, match=r"source a: .*a.jsonl is not a file, folder or pattern"):
        module(path, tmp_path / "cache", held_out=0.2).prepare(progress=False)
    # Other text is tokenized with the run's vocabulary; unchanged text is used as prepared.
    saved = load_vocabulary(tmp_path / "saved")
    again.evaluate_with(saved, "test")
    again.prepare(progress=False)
    assert again.prepared.folder == first.prepared.folder
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "elsewhere", other)
    (other / "a.jsonl").write_text('{"text": "Something else."}\n' + (other / "a.jsonl").read_text())
    tested = module(other, tmp_path / "cache")
    tested.evaluate_with(saved, "test")
    assert tested.vocabulary.digest() == saved.digest()
    assert (
        module(other, tmp_path / "cache", vocabulary_dir=str(tmp_path / "saved")).vocabulary.digest() == saved.digest()
    )


@pytest.mark.slow
def test_a_given_vocabulary_is_used_and_reread_after_an_edit(folder, tmp_path):
    vocabulary = WordPiece([*SPECIAL, *"abdefgiklmnou.", *(f"##{c}" for c in "aeiou")])
    vocabulary.save(tmp_path / "v")
    options = {"wordpiece": WordPieceSettings(name=str(tmp_path / "v"))}
    first = module(folder, tmp_path / "cache", **options)
    assert first.vocabulary.digest() == vocabulary.digest()
    WordPiece([*vocabulary.tokens, "ba"]).save(tmp_path / "v")
    second = module(folder, tmp_path / "cache", **options)
    assert second.prepared.folder != first.prepared.folder
    shutil.rmtree(tmp_path / "v")
    assert module(folder, tmp_path / "cache", **options).prepared.folder == second.prepared.folder


def test_invalid_settings_of_documents_are_rejected(folder, cache, tmp_path):
    with pytest.raises(ValueError, match=r"data.sentencepiece is .*needs a WordPiece vocab.* give data.wordpiece"):
        module(folder, cache, sentencepiece=SentencePieceSettings())
    with pytest.raises(ValueError, match=r"data.wordpiece is .*needs a SentencePiece vocab.* give data.sentencepiece"):
        module(folder, cache, objective=SpanCorruptionLM())
    with pytest.raises(ValueError, match=r"data.objective.alpha is 1.5; it must be 0 to 1"):
        SpanCorruptionLM(alpha=1.5)
    with pytest.raises(ValueError, match=r"data.held_out is 0.5; it must be above 0 and below 0.5"):
        module(folder, cache, held_out=0.5)
    with pytest.raises(ValueError, match=r"data.paths names c, which is none of data.sources: a, b"):
        module(folder, cache, paths={"c": "x"})
    plan = BatchPlan(global_batch_size=4, seq_len=32)
    with pytest.raises(ValueError, match=r"source mine has neither path nor repository; .*data.paths.mine FOLDER"):
        DocumentsDataModule(plan, [DocumentSource(name="mine")])
    with pytest.raises(ValueError, match=r"data.sources is empty"):
        DocumentsDataModule(plan, [])
    with pytest.raises(ValueError, match=r"data.sources has embedded twice"):
        DocumentsDataModule(plan, [DocumentSource(name="embedded")] * 2)
    with pytest.raises(ValueError, match=r"batch.seq_len is 4; .* need 8 or more"):
        DocumentsDataModule(BatchPlan(global_batch_size=4, seq_len=4), [DocumentSource(name="embedded")])
    with pytest.raises(ValueError, match=r"batch.val.seq_len is 16, but .* batch.seq_len, 32; leave it out"):
        DocumentsDataModule(
            BatchPlan(global_batch_size=4, seq_len=32, val=EvalBatchPlan(seq_len=16)), [DocumentSource(name="embedded")]
        )
    with pytest.raises(
        ValueError, match=r"batch.global_batch_size: the corpus has \d+ .* fewer than one batch of 4096"
    ):
        module(folder, cache, batch=4096).train_dataloader()
    (tmp_path / "one.txt").write_text("One line. And another one.")
    one = DocumentSource(name="one", path=str(tmp_path / "one.txt"))
    data = DocumentsDataModule(BatchPlan(global_batch_size=1, seq_len=32), [one], cache_dir=str(tmp_path / "c"))
    with pytest.raises(ValueError, match=r"none of the corpus's 1 documents is in .*; change data.held_out, 0.01"):
        data.val_dataloader()


PRESETS = {"wikipedia", "wikipedia_bookcorpus", "documents_folder", "embedded_documents", "embedded_passages"}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_accept_local_files_for_every_source(name, folder, tmp_path):
    import jsonargparse

    preset = yaml.safe_load(catalog.preset_paths("datamodules")[name].read_text())
    assert preset["class_path"] == "lmrecipes.datamodules.DocumentsDataModule"
    names = [source["name"] for source in preset["init_args"]["sources"]]
    local = {"init_args": {"paths": dict.fromkeys(names, str(folder)), "cache_dir": str(tmp_path)}}
    parser = jsonargparse.ArgumentParser()
    parser.add_subclass_arguments(DocumentsDataModule, "data")
    settings = {**preset["init_args"], **local["init_args"], "wordpiece": {"vocab_size": 200}, "held_out": 0.1}
    settings["batch"] = {"global_batch_size": 4, "seq_len": 32}
    parsed = parser.parse_object({"data": {"class_path": preset["class_path"], "init_args": settings}})
    data = parser.instantiate_classes(parsed).data
    assert len(list(data.train_dataloader())) > 20


@pytest.mark.slow
def test_a_rehearsal_has_every_source_at_toy_size(tmp_path):
    preset = yaml.safe_load(catalog.preset_paths("datamodules")["wikipedia_bookcorpus"].read_text())["init_args"]
    small = {**preset, **DocumentsDataModule.tiny_data(preset, tmp_path / "text")}
    synthetic_text.write_synthetic(tmp_path / "text")
    sources = [DocumentSource(**source) for source in small["sources"]]
    assert [source.weight for source in sources] == [source["weight"] for source in preset["sources"]]
    data = DocumentsDataModule(
        BatchPlan(global_batch_size=8, seq_len=16),
        sources,
        wordpiece=WordPieceSettings(**small["wordpiece"]),
        held_out=small["held_out"],
        cache_dir=str(tmp_path),
    )
    assert [len(list(loader)) > 4 for loader in (data.train_dataloader(), data.val_dataloader())] == [True, True]


@pytest.mark.slow
def test_the_embedded_documents_need_no_download(tmp_path):
    data = DocumentsDataModule(
        BatchPlan(global_batch_size=16, seq_len=64),
        [DocumentSource(name="embedded")],
        wordpiece=WordPieceSettings(vocab_size=4000),
        held_out=0.1,
        cache_dir=str(tmp_path),
    )
    data.prepare(progress=False)
    splits = data.prepared.manifest["splits"]
    assert splits["train"]["documents"] > 300
    assert splits["train"]["tokens"] > 200_000
    assert min(splits[split]["tokens"] for split in ("val", "test")) > 10_000
    assert data.vocab_size == 4000


@requires(REAL.is_dir(), "LMRECIPES_TEST_DATA is not set")
def test_real_text_in_several_formats_becomes_readable_examples(tmp_path):
    sources = [
        DocumentSource(name="c4", path=str(REAL / "web/c4_300_documents.jsonl")),
        DocumentSource(name="wikipedia", path=str(REAL / "web/wikipedia_30_articles.txt"), documents="line"),
        DocumentSource(name="books", path=str(REAL / "books/*.en.txt"), documents="file", wrapped=True, weight=0.5),
    ]
    data = DocumentsDataModule(
        BatchPlan(global_batch_size=32, seq_len=128),
        sources,
        wordpiece=WordPieceSettings(name=str(REAL / "vocab/bert-base-uncased-vocab.txt")),
        held_out=0.05,
        cache_dir=str(tmp_path),
    )
    data.prepare(progress=False, workers=1)
    splits, vocabulary = data.prepared.manifest["splits"], data.vocabulary
    # Two of the three books are longer than the maximum document.
    assert sum(split["documents"] for split in splits.values()) == 300 + 30 + 5
    examples = Examples(data.prepared, "train")
    ids, _, lengths = examples.read(np.arange(len(examples)), 128)
    assert (ids == vocabulary.unk_id).sum() < 0.001 * lengths.sum()
    assert (ids == vocabulary.mask_id).sum() == 0
    assert np.median(lengths) == 128  # most have full length
    text = " ".join(vocabulary.decode(row[:n]) for row, n in zip(ids.tolist(), lengths.tolist(), strict=True))
    assert "[CLS] " in text
    characters = splits["train"]["characters"]
    assert 0.8 * characters < len(text.replace("[SEP]", "").replace("[CLS]", "")) < 1.1 * characters


def test_loading_leaves_torchs_random_numbers_alone(folder, cache):
    data = module(folder, cache)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    list(data.train_dataloader())
    assert torch.equal(torch.rand(1), expected)


def test_documents_support_span_corruption_and_weights_scale_its_sampling_rates(tmp_path):
    for name in ("one", "two"):
        lines = [f"{name} line {i} has words {i * 7 % 11} and {i * 5 % 13}." for i in range(200)]
        (tmp_path / f"{name}.txt").write_text("\n".join(lines) + "\n")

    def read(weight):
        data = DocumentsDataModule(
            BatchPlan(global_batch_size=4, seq_len=48, target_len=24),
            [
                DocumentSource(name=name, path=str(tmp_path / f"{name}.txt"), documents="line", weight=w)
                for name, w in (("one", 1.0), ("two", weight))
            ],
            objective=SpanCorruptionLM(alpha=1.0),
            sentencepiece=SentencePieceSettings(vocab_size=400),
            held_out=0.1,
            cache_dir=str(tmp_path / "cache"),
        )
        data.prepare(progress=False, workers=1)
        return data

    even, more = read(1.0), read(3.0)
    first, second = even.objective.shares(even.prepared_sources)
    assert first + second == pytest.approx(1)
    heavier = more.objective.shares(more.prepared_sources)
    np.testing.assert_allclose(heavier[1] / heavier[0], 3 * second / first)
    batch = next(iter(even.train_dataloader()))
    assert isinstance(batch, TextPairBatch)
    assert batch.input_ids.shape == (4, 48)
    assert set(even.vocabulary.sentinels.tolist()) & set(batch.input_ids.flatten().tolist())
    assert even.batch_fields == {"seq_len", "target_len"}
