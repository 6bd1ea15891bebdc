"""mC4: every row is read once across restarts, languages are sampled by size, malformed input is reported."""

import gzip
import itertools
import json
import os
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from data_helpers import restore
from lightning.pytorch import LightningModule, Trainer

from conftest import prepare_here, requires
from lmrecipes.batches import BatchPlan
from lmrecipes.callbacks import LanguageTokens
from lmrecipes.data.corpora import hub
from lmrecipes.data.objectives.span_corruption import SpanCorruption
from lmrecipes.data.tokenizers.sentencepiece import SentencePiece
from lmrecipes.data.tokenizers.spm_trainer import learn_pieces
from lmrecipes.datamodules import MC4DataModule

REAL = Path(os.environ.get("LMRECIPES_TEST_DATA", "/nowhere"))
PLAN = BatchPlan(global_batch_size=12, micro_batch_size=2, seq_len=48, target_len=24)
WORDS = {"aa": "bado kemi lufo", "bb": "ω θ φ ψ".replace(" ", "ο "), "cc": "東 京 都 大"}


def documents(code, n):
    generator = random.Random(code)
    return [" ".join(generator.choices(WORDS[code].split(), k=generator.randint(3, 80))) for _ in range(n)]


def write(path, texts):
    content = "".join(json.dumps({"text": text, "url": "x"}) + "\n" for text in texts).encode()
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(content))
    elif path.suffix == ".zst":
        import pyarrow

        with pyarrow.CompressedOutputStream(str(path), "zstd") as file:
            file.write(content)
    else:
        path.write_bytes(content)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Three languages, each in one or two files."""
    folder = tmp_path_factory.mktemp("texts")
    write(folder / "c4-aa.00.json.gz", documents("aa", 120))
    write(folder / "c4-aa.01.json.gz", documents("aa", 90)[::-1])
    write(folder / "c4-bb.00.json.zst", documents("bb", 40))
    write(folder / "c4-cc.00.json", documents("cc", 15))
    return folder


@pytest.fixture(scope="module")
def vocabulary(texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    SentencePiece(learn_pieces([text for code in WORDS for text in documents(code, 20)], 340, 1.0)).save(folder)
    return folder


def settings(texts, vocabulary, cache):
    return {
        **{"batch": PLAN, "languages": ["aa", "bb", "cc"], "path": f"{texts}/c4-{{language}}.*.json*"},
        **{"held_out": 0.05, "cache_dir": str(cache), "vocabulary_dir": str(vocabulary)},
    }


@pytest.fixture(scope="module")
def cache(texts, vocabulary, tmp_path_factory):
    """The prepared texts."""
    folder = tmp_path_factory.mktemp("cache")
    prepare_here(MC4DataModule(**settings(texts, vocabulary, folder)))
    return folder


@pytest.fixture
def module(texts, vocabulary, cache):
    def make(step=0, rank=0, size=1, **options):
        data = MC4DataModule(**{**settings(texts, vocabulary, cache), **options})
        ranks = {"rank": rank, "num_replicas": size}
        data.trainer = SimpleNamespace(global_step=step, distributed_sampler_kwargs=ranks)
        return data

    return make


def rows_read(module, steps, size, workers):
    """Rows read by all ranks in the given steps, in a training that begins at the first of these."""
    row_numbers = []
    for rank in range(size):
        data = module(steps.start, rank, size, num_workers=workers)
        accumulation = PLAN.accumulation(size)
        loader, n_batches = iter(data.train_dataloader()), len(steps) * accumulation
        taken = 0
        while taken < n_batches:
            batch = next(loader, None)
            if batch is None:  # the epoch has ended
                data.trainer.global_step = steps.start + taken // accumulation
                loader = iter(data.train_dataloader())
                continue
            row_numbers += batch.questions.tolist()
            taken += 1
    return row_numbers


@pytest.mark.slow
def test_kills_and_other_numbers_of_workers_and_ranks_lose_or_repeat_no_row(module):
    data = module()
    data.prepare(progress=False)
    counts = data.objective.rows(data.prepared_sources, "train").counts
    n_steps = 2 * sum(counts) // PLAN.global_batch_size
    # Killed at arbitrary steps and resumed with other numbers of ranks and workers.
    generator = random.Random(3)
    cuts = sorted({0, n_steps, *(generator.randrange(1, n_steps) for _ in range(5))})
    world_sizes = itertools.cycle([(1, 0), (2, 2), (3, 0), (1, 2), (2, 0)])
    whole, per_step = rows_read(module, range(n_steps), 1, 0), PLAN.global_batch_size
    for (begin, end), (size, workers) in zip(itertools.pairwise(cuts), world_sizes, strict=False):
        read = rows_read(module, range(begin, end), size, workers)
        assert sorted(read) == sorted(whole[begin * per_step : end * per_step]), (begin, end, size, workers)
    # Within a language, no row repeats before all have been read.
    first = 0
    for n in counts:
        language_rows = [row for row in whole if first <= row < first + n]
        assert len(language_rows) > n
        for turn in range(len(language_rows) // n):
            assert len(set(language_rows[turn * n : (turn + 1) * n])) == n
        first += n


def test_every_document_can_be_restored_from_the_rows(module, texts, vocabulary):
    data = module()
    corrupter = data.objective.corrupter(data.prepared_sources, "train")
    batch = corrupter.batch(np.arange(len(corrupter)), 0, np.arange(len(corrupter)))
    sentinels = data.vocabulary.sentinels.tolist()
    read = ""
    for row in range(len(corrupter)):
        for pair in range(1, int(batch.input_pairs[row].max()) + 1):
            inputs = batch.input_ids[row][batch.input_pairs[row] == pair].tolist()
            targets = batch.targets[row][batch.target_pairs[row] == pair].tolist()
            read += data.vocabulary.decode(restore(inputs, targets, sentinels, 1)).replace(" ", "")
    for split in ("val", "test"):
        rows = data.objective.corrupter(data.prepared_sources, split)
        read += "".join(
            data.vocabulary.decode(rows._tokens[a:b].tolist()).replace(" ", "")
            for a, b in itertools.pairwise(rows.rows.bounds.tolist())
        )
    restored = "".join(
        text.replace(" ", "")
        for code, numbers in (("aa", (120, 90)), ("bb", (40,)), ("cc", (15,)))
        for number in numbers
        for text in documents(code, number)
    )
    assert sorted(read) == sorted(restored)


@pytest.mark.parametrize(("alpha", "weigh_by"), [(0.7, "tokens"), (0.3, "documents"), (1.0, "tokens"), (0.0, "tokens")])
def test_languages_are_sampled_by_size_to_the_power_of_alpha(module, alpha, weigh_by):
    data = module(alpha=alpha, weigh_by=weigh_by)
    documents = data.prepared.split("train")["examples"]
    tokens = np.add.reduceat(
        np.diff(data.objective.corrupter(data.prepared_sources, "train")._starts), np.cumsum([0, *documents[:-1]])
    )
    sizes = np.asarray(documents if weigh_by == "documents" else tokens, dtype=float) ** alpha
    assert np.allclose(data.objective.shares(data.prepared_sources), sizes / sizes.sum())
    n = 150
    loader, totals = data.train_batches(), np.zeros(3)
    for k in range(n * PLAN.accumulation(1)):
        batch = loader.batch(k)
        totals += np.bincount(batch.languages.numpy(), minlength=3)
    assert np.abs(totals / totals.sum() - data.objective.shares(data.prepared_sources)).max() < 0.015


def test_tokens_are_counted_by_language_without_reading_batches(module):
    data = module()
    counted = data.tokens_by_language(3, 9)
    batches, lengths = data.train_batches(), np.diff(data.objective.rows(data.prepared_sources, "train").bounds)
    totals = dict.fromkeys(data.languages, 0)
    for k in range(3 * PLAN.accumulation(1), 9 * PLAN.accumulation(1)):
        batch = batches.batch(k)
        for language, row in zip(batch.languages.tolist(), batch.questions.tolist(), strict=True):
            totals[data.languages[language]] += int(lengths[row])
    assert counted == totals
    # Counts are global: the same on every rank.
    assert module(rank=1, size=3).tokens_by_language(3, 9) == totals


@pytest.mark.slow
def test_prepared_data_works_without_its_text(texts, vocabulary, tmp_path, module):
    removed = tmp_path / "gone"
    removed.mkdir()
    for file in texts.iterdir():
        (removed / file.name).write_bytes(file.read_bytes())
    options = {"path": f"{removed}/c4-{{language}}.*.json*", "cache_dir": str(tmp_path / "cache")}
    before = module(**options)
    before.prepare(progress=False)
    for file in removed.iterdir():
        file.unlink()
    assert len(module(**options).objective.rows(module(**options).prepared_sources, "train")) == len(
        before.objective.rows(before.prepared_sources, "train")
    )


def test_other_lengths_reuse_the_same_tokens(module, cache):
    module().prepare(progress=False)
    folders = {folder for folder in cache.iterdir() if folder.is_dir()}
    wide = module(
        batch=BatchPlan(global_batch_size=4, seq_len=96, target_len=40), corruption=SpanCorruption(spans="nemo")
    )
    batch = wide.train_batches().batch(0)
    assert batch.input_ids.shape == (4, 96)
    assert batch.targets.shape[1] <= 40
    assert {folder for folder in cache.iterdir() if folder.is_dir()} == folders


def wrong(module, tmp_path, content, **options):
    (tmp_path / "c4-aa.json").write_bytes(content)
    return module(
        languages=["aa"], path=f"{tmp_path}/c4-{{language}}.json", cache_dir=str(tmp_path / "cache"), **options
    )


GOOD = [json.dumps({"text": text}) for text in documents("aa", 60)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "cut sh', r"c4-aa.json:31 is not valid JSON: Unterminated string"),
        ("no json at all", r"c4-aa.json:31 is not valid JSON"),
        ('{"txt": "a"}', r"c4-aa.json:31 has no key 'text'; it has txt"),
        ('{"text": 3}', r"c4-aa.json:31 has text 3, which is not a string"),
        ("[1, 2]", r"c4-aa.json:31 is list, not keys and values"),
        (r'{"text": "so \ud800 far"}', r"c4-aa.json:31 has half a character .*'\\ud800' \(set on_malformed: skip"),
        ("\udcff", r"c4-aa.json:31 is not UTF-8 text"),
    ],
)
def test_a_malformed_line_is_rejected_with_file_and_line_or_skipped_and_counted(module, tmp_path, line, message):
    content = "\n".join([*GOOD[:30], line, *GOOD[30:]]).encode("utf-8", "surrogateescape")
    with pytest.raises(ValueError, match=message) as caught:
        wrong(module, tmp_path, content).prepare(progress=False)
    assert "\n" not in str(caught.value)
    data = wrong(module, tmp_path, content, on_malformed="skip")
    with pytest.warns(UserWarning, match=r"source aa: left out 1 x .* \(first: .*c4-aa.json:31"):
        data.prepare(progress=False)
    assert sum(data.prepared.split(split)["documents"] for split in ("train", "val", "test")) == len(GOOD)


def test_empty_documents_are_skipped_and_counted(module, tmp_path):
    content = "\n".join([*GOOD, '{"text": ""}', '{"text": "  "}']).encode()
    data = wrong(module, tmp_path, content)
    with pytest.warns(UserWarning, match=r"left out 2 x empty document \(first: .*c4-aa.json:61"):
        data.prepare(progress=False)
    assert (np.diff(data.objective.corrupter(data.prepared_sources, "train")._starts) > 0).all()


def test_a_truncated_file_is_rejected_or_read_up_to_its_end(module, tmp_path):
    whole = gzip.compress("\n".join(GOOD * 20).encode())
    path = f"{tmp_path}/{{language}}.json.gz"
    (tmp_path / "aa.json.gz").write_bytes(whole[: len(whole) // 2])
    options = {"languages": ["aa"], "path": path, "cache_dir": str(tmp_path / "cache")}
    with pytest.raises(ValueError, match=r"aa.json.gz is damaged or truncated at byte"):
        module(**options).prepare(progress=False)
    with pytest.warns(UserWarning, match=r"1 x file cut short"):
        module(**options, on_malformed="skip").prepare(progress=False)


def test_a_missing_language_is_named_with_the_available_ones(module, texts):
    with pytest.raises(ValueError, match=r"data.languages has xx, but .* has no such files; it has aa, bb; leave") as e:
        module(languages=["aa", "xx", "bb"]).prepare(progress=False)
    assert "\n" not in str(e.value)
    with pytest.raises(ValueError, match=r"embedded:xx does not exist; embedded are cs da de"):
        module(languages=["xx"], path="embedded:{language}").prepare(progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"languages": []}, "data.languages is"),
        ({"languages": ["aa", "aa"]}, "data.languages is"),
        ({"alpha": 1.5}, "data.alpha is 1.5; it must be 0 to 1"),
        ({"paths": {"xx": "a"}}, "data.paths names xx, which is none of data.languages: aa, bb, cc"),
        ({"path": "texts"}, r"data.path is texts; it needs \{language\}"),
        ({"batch": BatchPlan(global_batch_size=2, seq_len=1)}, "have no room for a text"),
        ({"path": None, "repository": None}, "source aa has neither path nor repository"),
    ],
)
def test_invalid_settings_of_mc4_are_rejected(module, options, message):
    with pytest.raises(ValueError, match=message):
        module(**options)


def test_only_files_of_the_chosen_languages_are_downloaded(monkeypatch, tmp_path, vocabulary, texts):
    tree = {
        "en": [
            "en/c4-train.00000-of-01024.json.gz",
            "en/c4-train.00001-of-01024.json.gz",
            "en/c4-validation.0.json.gz",
        ],
        "multilingual": [
            "multilingual/c4-de.tfrecord-00000-of-02048.json.gz",
            "multilingual/c4-de-validation.tfrecord-00000-of-00001.json.gz",
            "multilingual/c4-fr.tfrecord-00000-of-02048.json.gz",
        ],
    }
    requests = []

    def download(repository, name, commit):
        requests.append(name)
        return texts / "c4-aa.00.json.gz"

    monkeypatch.setattr(hub, "_listed", lambda *_: [(name, 10) for names in tree.values() for name in names])
    monkeypatch.setattr("lmrecipes.data.corpora.documents.download", download)
    monkeypatch.setattr("lmrecipes.data.corpora.documents.newest_commit", lambda *_: None)
    data = MC4DataModule(
        PLAN, ["en", "de"], max_files=1, held_out=0.05, cache_dir=str(tmp_path), vocabulary_dir=str(vocabulary)
    )
    data.prepare(progress=False, workers=1)
    assert set(requests) == {tree["en"][0], tree["multilingual"][0]}


@requires(REAL.is_dir(), "LMRECIPES_TEST_DATA is not set")
def test_24_real_languages_are_read(tmp_path):
    files = sorted((REAL / "languages").glob("*.txt"))
    lines = [line for file in files for line in file.read_text("utf-8").split("\n")[:12]]
    SentencePiece(learn_pieces(lines, 3000, 0.999)).save(tmp_path / "vocabulary")
    data = MC4DataModule(
        BatchPlan(global_batch_size=24, seq_len=128, target_len=48),
        path=f"{REAL}/languages/{{language}}.txt",
        vocabulary_dir=str(tmp_path / "vocabulary"),
        held_out=0.02,
        cache_dir=str(tmp_path),
    )
    data.prepare(progress=False, workers=1)
    assert len(data.objective.rows(data.prepared_sources, "train").counts) == 24
    assert min(data.objective.rows(data.prepared_sources, "train").counts) > 0
    batches = data.train_batches()
    assert set(np.concatenate([batches.batch(k).languages for k in range(20)]).tolist()) == set(range(24))
    assert sum(data.prepared.split(split)["documents"] for split in ("train", "val", "test")) > 23_000


@pytest.mark.filterwarnings("ignore")
def test_token_counts_by_language_continue_after_a_resume(module, tmp_path):
    class Idle(LightningModule):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def training_step(self, batch, batch_idx):
            return self.weight.sum() + 0.0 * batch.targets.sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def train(steps, resume=None):
        data = module()
        data.trainer = None
        trainer = Trainer(
            accelerator="cpu", devices=1, logger=False, callbacks=[LanguageTokens()], default_root_dir=tmp_path,
            enable_progress_bar=False, enable_model_summary=False, max_steps=steps, log_every_n_steps=2,
            accumulate_grad_batches=PLAN.accumulation(1), limit_val_batches=0,
        )  # fmt: skip
        trainer.fit(Idle(), data, ckpt_path=resume, weights_only=True)
        trainer.save_checkpoint(tmp_path / f"{steps}.ckpt")
        return {name: float(value) for name, value in trainer.callback_metrics.items()}, data

    train(3)
    logged, data = train(8, tmp_path / "3.ckpt")
    assert logged == {f"train/tokens_{code}": n for code, n in data.tokens_by_language(0, 8).items()}
    with pytest.raises(ValueError, match="LanguageTokens is for a DataModule of languages"):
        Trainer(
            accelerator="cpu", devices=1, logger=False, callbacks=[LanguageTokens()], enable_progress_bar=False,
            enable_model_summary=False, enable_checkpointing=False, max_steps=1,
        ).fit(Idle(), torch.utils.data.DataLoader([1]))  # fmt: skip
