"""SQuAD as text to text: published prompts, one row per answer, and metrics by language."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from conftest import requires
from lmrecipes.batches import BatchPlan, EvalBatchPlan, WrittenTexts
from lmrecipes.callbacks import SquadAnswers
from lmrecipes.callbacks.squad_answers import metrics_by_language
from lmrecipes.data.tasks.squad.answers import Answered
from lmrecipes.data.tasks.squad.collators import TextCollator
from lmrecipes.data.tasks.squad.files import Answer, Question
from lmrecipes.data.tasks.squad.text import TextLayout
from lmrecipes.data.tokenizers.sentencepiece import SentencePiece
from lmrecipes.data.tokenizers.spm_trainer import learn_pieces
from lmrecipes.datamodules import SquadDataModule

REAL = Path(os.environ.get("LMRECIPES_TEST_DATA", "/nowhere"))
PLAN = BatchPlan(
    global_batch_size=4, seq_len=96, target_len=24, val=EvalBatchPlan(batch_size=4), test=EvalBatchPlan(batch_size=4)
)
CONTEXT = "The cat sat on the red mat.\nThe dog slept in the house."


def squad(language):
    def question(i, text, *answers):
        return {
            "id": f"q{i}",
            "question": text,
            "answers": [{"text": a, "answer_start": CONTEXT.index(a)} for a in answers],
        }

    qas = [
        question(0, f"Where sat the cat? ({language})", "on the red mat", "the red mat"),
        question(1, f"Who slept? ({language})", "The dog"),
        question(2, f"Where did it sleep? ({language})", "the house", "in the house", "house"),
    ]
    return {"data": [{"title": "Animals", "paragraphs": [{"context": CONTEXT, "qas": qas}]}]}


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    texts = [CONTEXT, "Title: Animals Paragraph: Question: Where sat the cat? Who slept? question: context:"] * 5
    SentencePiece(learn_pieces(texts, 360, 1.0)).save(folder)
    return folder


@pytest.fixture
def module(tmp_path, vocabulary):
    for language in ("de", "hi"):
        (tmp_path / f"x.{language}.json").write_text(json.dumps(squad(language)))

    def make(prompt="nemo", **options):
        return SquadDataModule(
            **{
                "batch": PLAN,
                "train": f"{tmp_path}/x.de.json",
                "val": f"{tmp_path}/x.{{language}}.json",
                "test": f"{tmp_path}/x.{{language}}.json",
                "languages": ["de", "hi"],
                "collator": TextCollator(prompt),
                "vocabulary_dir": str(vocabulary),
                "cache_dir": str(tmp_path / "cache"),
                **options,
            }
        )

    return make


def texts(data, split):
    """Input and target of every row as text."""
    vocabulary = data.vocabulary
    pairs = data.prepared(split).pieces
    return [tuple(vocabulary.decode(x.tolist()) for x in pairs.pair(i)) for i in range(len(pairs))]


def test_prompts_are_as_published_and_every_answer_is_a_target(module):
    context = CONTEXT.replace("\n", "\\n")
    read = texts(module(), "train")
    assert len(read) == 6  # one row per answer
    assert read[0] == (f"Title: Animals Paragraph: {context} Question: Where sat the cat? (de)", "on the red mat")
    assert [target for _, target in read] == [
        *("on the red mat", "the red mat", "The dog", "the house", "in the house", "house")
    ]
    # In evaluation a question is one row, with its first answer.
    assert [target for _, target in texts(module(), "val")] == ["on the red mat", "The dog", "the house"] * 2
    google = texts(module("google"), "train")
    assert google[0] == (f"question: Where sat the cat? (de) context: {context}", "on the red mat")


def test_a_long_context_is_truncated_and_the_question_kept(vocabulary):
    question = Question("a", "Who sat?", "cat " * 500, (Answer("dog " * 50, 0),), title="T")
    vocabulary_from_file = SentencePiece.of_content(json.loads((vocabulary / "vocabulary.json").read_text()))
    for input_eos in (True, False):
        layout = TextLayout(seq_len=64, target_len=8, input_eos=input_eos)
        inputs, targets = layout.cut([question], vocabulary_from_file).pair(0)
        assert len(inputs) == 64
        assert vocabulary_from_file.decode(inputs.tolist()).endswith("Question: Who sat?")
        assert (inputs[-1] == 1) == input_eos
        assert len(targets) == 8
        assert targets[-1] == 1
    with pytest.raises(ValueError, match=r"batch.seq_len is 4, but the text 'Question: Who sat\?'... alone has"):
        TextLayout(seq_len=4, target_len=8).cut([question], vocabulary_from_file)


def test_batches_have_minimal_width_and_question_numbers(module):
    data = module()
    numbers = []
    for batch in data.val_dataloader():
        rows = batch.questions.tolist()
        numbers += rows
        assert batch.input_ids.shape[1] % 8 == 0
        assert (batch.input_pairs == (batch.input_ids != 0)).all()
        assert batch.languages.tolist() == [row // 3 for row in rows]
        assert (batch.decoder_input_ids[:, 0] == 0).all()
        for targets, before in zip(batch.targets, batch.decoder_input_ids, strict=True):
            n = int((targets != 0).sum())
            assert torch.equal(before[1:n], targets[: n - 1])
    assert sorted(numbers) == list(range(6))
    assert [q.id for q in data.questions("val")] == ["de:q0", "de:q1", "de:q2", "hi:q0", "hi:q1", "hi:q2"]


def test_a_padding_batch_counts_nowhere(module):
    numbers = []
    for rank in range(10):
        data = module()
        data.trainer = SimpleNamespace(distributed_sampler_kwargs={"rank": rank, "num_replicas": 10}, global_step=0)
        (batch,) = list(data.val_dataloader())
        numbers += batch.questions.tolist()
        assert (int(batch.target_pairs.sum()) == 0) == (batch.questions.tolist() == [-1])
    assert sorted(numbers) == [-1, -1, -1, -1, *range(6)]


class Parrot(LightningModule):
    """Generates the right answer, except for some questions."""

    def __init__(self, data, wrong):
        super().__init__()
        self.data, self.wrong = data, wrong

    def test_step(self, batch, batch_idx):
        written = []
        for number in batch.questions.tolist():
            question = self.data.questions("test")[number]
            text = self.wrong.get(question.id, question.answers[0].text)
            written.append([*self.data.vocabulary.encode(text), 1, 7, 7])
        width = max(map(len, written))
        tokens = torch.tensor([row + [0] * (width - len(row)) for row in written])
        return WrittenTexts(batch.questions, tokens, torch.zeros(len(written)))


@pytest.mark.filterwarnings("ignore")
def test_answers_have_metrics_and_files_by_language(module, tmp_path):
    data = module()
    # Right except for a missing article in German and another answer in Hindi.
    model = Parrot(data, {"de:q1": "dog", "hi:q0": "the red mat", "hi:q2": "a tree"})
    trainer = Trainer(
        accelerator="cpu", devices=1, logger=False, callbacks=[SquadAnswers()], default_root_dir=tmp_path,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    (metrics,) = trainer.test(model, data, verbose=False)
    assert metrics["squad/exact_string_match_de"] == pytest.approx(200 / 3)
    assert metrics["squad/exact_string_match_hi"] == pytest.approx(100 / 3)
    assert metrics["squad/exact_string_match"] == pytest.approx(50)
    assert metrics["squad/exact_match_hi"] == pytest.approx(200 / 3)
    assert metrics["squad/f1"] == pytest.approx((metrics["squad/f1_de"] + metrics["squad/f1_hi"]) / 2)
    written = json.loads((tmp_path / "answers/test/hi/predictions.json").read_text())
    assert written == {"q0": "the red mat", "q1": "The dog", "q2": "a tree"}


def test_metrics_of_a_single_language_have_plain_names():
    questions = [Question("a", "?", "b c", (Answer("b c", 0),))]
    answered = {"a": Answered("The b c", "The b c", None, [])}
    assert metrics_by_language(questions, answered, may_lack=False) == {"exact_match": 100.0, "f1": 100.0}
    written = metrics_by_language(questions, answered, may_lack=False, written=True)
    assert written == {"exact_match": 100.0, "f1": 100.0, "exact_string_match": 0.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"languages": None}, r"needs data.language, such as de"),
        ({"language": "de"}, "give one of the two"),
        ({"languages": ["de", "de"]}, "each language once"),
        ({"train": "x.{language}.json"}, r"data.train is x.\{language\}.json, which needs data.language"),
    ],
)
def test_invalid_settings_of_squad_text_are_rejected(module, options, message):
    with pytest.raises(ValueError, match=message):
        module(**options)


def test_a_missing_language_is_named(module):
    with pytest.raises(ValueError, match=r"x\.fr\.json is not a file"):
        module(languages=["de", "fr"]).prepare(progress=False)


@requires(REAL.is_dir(), "LMRECIPES_TEST_DATA is not set")
def test_all_of_xquad_is_prompted_and_answered(tmp_path):
    files = str(REAL / "xquad/xquad.{language}.json")
    data = SquadDataModule(
        BatchPlan(global_batch_size=16, seq_len=512, target_len=128, val=EvalBatchPlan(batch_size=64)),
        train=files.replace("{language}", "en"),
        val=files,
        languages=["en", "es", "de", "hi", "zh"],
        collator=TextCollator(),
        sentencepiece=None,
        vocabulary_dir=str(_vocabulary(tmp_path)),
        cache_dir=str(tmp_path / "cache"),
    )
    questions = data.questions("val")
    assert len(questions) == 5 * 1190
    right = {q.id: Answered(q.answers[0].text, q.answers[0].text, None, []) for q in questions}
    metrics = metrics_by_language(questions, right, may_lack=False, written=True)
    assert set(metrics.values()) == {100.0}
    assert {"f1_hi", "exact_string_match_zh", "exact_match_de"} <= set(metrics)
    # Targets decode to the answers, in every script.
    pairs, vocabulary = data.prepared("val").pieces, data.vocabulary
    same = [
        vocabulary.decode(pairs.pair(i).targets.tolist()) == " ".join(questions[i].answers[0].text.split())
        for i in range(0, len(pairs), 7)
    ]
    assert np.mean(same) > 0.97
    assert int(pairs.lengths.max()) <= 512


def _vocabulary(folder):
    texts = []
    for code in ("en", "es", "de", "hi", "zh"):
        texts += (REAL / f"languages/{code}.txt").read_text("utf-8").split("\n")[:60]
    SentencePiece(learn_pieces(texts, 3000, 0.9999)).save(folder / "vocabulary")
    return folder
