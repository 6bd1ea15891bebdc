"""XNLI as text to text: published prompts, training on English, accuracy by language."""

import csv
import gzip
import json

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from lmrecipes.batches import BatchPlan, EvalBatchPlan, WrittenTexts
from lmrecipes.callbacks import TextAccuracy
from lmrecipes.data.tasks.nli import Inference, asked, read_nli
from lmrecipes.data.tasks.nli_embedded import make_nli
from lmrecipes.data.tokenizers.sentencepiece_config import SentencePieceSettings
from lmrecipes.datamodules import XNLIDataModule
from unrelated_files import put_files

PLAN = BatchPlan(
    global_batch_size=8, seq_len=64, target_len=16, val=EvalBatchPlan(batch_size=8), test=EvalBatchPlan(batch_size=8)
)
PAIRS = [("It rains.", "It is wet.", "entailment"), ("It rains.", "It is dry.", "contradiction")]


def write_tsv(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None)
        writer.writerow(["language", "gold_label", "sentence1", "sentence2"])
        writer.writerows([language, label, a, b] for language, (a, b, label) in rows)
    return str(path)


@pytest.fixture
def module(tmp_path):
    def make(**options):
        return XNLIDataModule(
            **{
                "batch": PLAN,
                "train": "embedded:train",
                "val": "embedded:val",
                "test": "embedded:test",
                "languages": ["en", "de", "zh"],
                "sentencepiece": SentencePieceSettings(vocab_size=500, character_coverage=1.0),
                "cache_dir": str(tmp_path / "cache"),
                **options,
            }
        )

    return make


def test_prompts_are_as_published():
    pair = Inference("It rains.", "It is wet.", "entailment")
    assert "".join(asked(pair, "nemo")[:2]) == "mnli hypothesis: It rains. premise: It is wet."
    assert asked(pair, "nemo")[2] == "entailment"
    assert "".join(asked(pair, "google")[:2]) == "xnli: premise: It rains. hypothesis: It is wet."
    assert [asked(pair._replace(label=x), "google")[2] for x in ("entailment", "neutral", "contradiction")] == [*"012"]


def test_files_in_the_published_format_are_read(tmp_path):
    rows = [("de", PAIRS[0]), ("en", ('He said "no', "x", "neutral")), ("de", PAIRS[1]), ("en", ("a", "b", "-"))]
    tsv = write_tsv(tmp_path / "xnli.tsv", rows)
    assert [pair[:3] for pair in read_nli(tsv, language="de").pairs] == PAIRS
    assert read_nli(tsv, language="en").pairs == [Inference('He said "no', "x", "neutral", "en")]
    lines = [
        {"gold_label": "contradiction", "sentence1": "a", "sentence2": "b"},
        {"label": 0, "premise": "c", "hypothesis": "d"},
    ]
    (tmp_path / "m.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    read = read_nli(str(tmp_path / "m.jsonl.gz")).pairs
    assert read == [Inference("a", "b", "contradiction"), Inference("c", "d", "entailment")]
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist([lines[1]]), tmp_path / "v.parquet")
    assert read_nli(str(tmp_path / "v.parquet"), language="fr").pairs == [Inference("c", "d", "entailment", "fr")]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_a_byte_order_mark_is_not_part_of_the_first_name(tmp_path, name):
    row = {"premise": "c", "hypothesis": "NA", "label": "neutral"}
    comma = {"a.csv": ",", "a.tsv": "\t"}.get(name)
    lines = [json.dumps(row)] if comma is None else [comma.join(row), comma.join(row.values())]
    (tmp_path / name).write_text("".join(f"{line}\r\n" for line in lines), encoding="utf-8-sig", newline="")
    assert read_nli(str(tmp_path / name)).pairs == [Inference("c", "NA", "neutral")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"label": 0, "premise": "c"', r"m.jsonl:2 is not valid JSON"),
        ('{"label": 0, "premise": "c"}', r"m.jsonl:2 has no sentence2 or hypothesis"),
        ('{"label": 7, "premise": "c", "hypothesis": "d"}', r"m.jsonl:2 has the label 7, which is none of entailment"),
        ('{"label": 1, "premise": "c", "hypothesis": "d \\ud800"}', r"m.jsonl:2 has half a character in hypothesis"),
        ('{"label": 1, "premise": "c", "hypothesis": 3}', r"m.jsonl:2 has hypothesis 3, which is not a string"),
        ('"text"', r"m.jsonl:2 is str, not keys and values"),
    ],
)
def test_a_malformed_pair_is_rejected_with_its_line_or_skipped(tmp_path, line, message):
    good = '{"label": 1, "premise": "c", "hypothesis": "d"}'
    (tmp_path / "m.jsonl").write_text("\n".join([good, line, good]))
    with pytest.raises(ValueError, match=message):
        read_nli(str(tmp_path / "m.jsonl"))
    result = read_nli(str(tmp_path / "m.jsonl"), "skip")
    assert len(result.pairs) == 2
    assert result.flaws["malformed line"][0] == 1


def test_a_missing_language_is_named(tmp_path, module):
    tsv = write_tsv(tmp_path / "xnli.tsv", [("de", PAIRS[0])])
    with pytest.raises(ValueError, match="has no pair of sentences in fr; it has de"):
        read_nli(tsv, language="fr")
    with pytest.raises(ValueError, match="embedded:val in fi does not exist"):
        module(languages=["fi"]).prepare(progress=False)
    with pytest.raises(ValueError, match=r"training is in one language"):
        module(train="a.{language}.tsv")


def test_pairs_are_prepared_next_to_unrelated_files(module, tmp_path):
    unchanged = put_files(tmp_path / "cache")
    data = module()
    assert data.vocab_size
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.replace", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            data.pairs("val")
    # Incomplete files are overwritten.
    assert len(data.pairs("val"))
    assert unchanged()
    assert not list((tmp_path / "cache").glob(".xnli-*.part"))


def test_training_resumes_at_its_step(module):
    data = module()
    assert data.pairs("train").language.max() == 0
    batches = list(data.train_dataloader())
    assert len(batches) == 1200 // 8
    numbers = [number for batch in batches for number in batch.questions.tolist()]
    assert len(set(numbers)) == len(numbers) == 1200

    class AtStep:
        distributed_sampler_kwargs = None
        global_rank, world_size, global_step = 0, 1, 100

    data.trainer = AtStep()
    rest = list(data.train_dataloader())
    assert [batch.questions.tolist() for batch in rest] == [batch.questions.tolist() for batch in batches[100:]]


class Guesser(LightningModule):
    """Generates the right label in all languages but one."""

    def __init__(self, data):
        super().__init__()
        self.data = data

    def validation_step(self, batch, batch_idx):
        written = []
        for language, targets in zip(batch.languages.tolist(), batch.targets.tolist(), strict=True):
            end = targets.index(1)
            written.append(self.data.vocabulary.encode("neutral") if language == 1 else targets[:end])
        tokens = torch.tensor([[*row, 1] + [5] * (20 - len(row)) for row in written])
        return WrittenTexts(batch.questions, tokens, torch.zeros(len(written)))


@pytest.mark.filterwarnings("ignore")
def test_accuracy_is_logged_for_every_language(module, tmp_path):
    data = module()
    trainer = Trainer(
        accelerator="cpu", devices=1, logger=False, callbacks=[TextAccuracy()], default_root_dir=tmp_path,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    (metrics,) = trainer.validate(Guesser(data), data, verbose=False)
    labels = [pair.label for pair in make_nli("embedded:val", "de")]
    guessed = 100 * labels.count("neutral") / len(labels)
    assert metrics["xnli/accuracy_en"] == metrics["xnli/accuracy_zh"] == 100
    assert metrics["xnli/accuracy_de"] == pytest.approx(guessed)
    assert metrics["xnli/accuracy"] == pytest.approx((200 + guessed) / 3)
