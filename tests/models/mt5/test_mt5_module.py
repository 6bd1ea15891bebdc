"""mT5's LightningModule trains, logs, answers questions, and rejects settings that would fail."""

import json
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from small_mt5 import GOOGLE, SMALL, pair_batch
from torch.utils.data import DataLoader

from lmrecipes.batches import BatchPlan
from lmrecipes.callbacks import SquadAnswers
from lmrecipes.data.tasks.squad.answers import Candidate, Evidence
from lmrecipes.data.tasks.squad.files import Answer, Question
from lmrecipes.models.common.peft import Tuning
from lmrecipes.models.common.sampling import PromptBatch
from lmrecipes.models.mt5 import MT5, Decoding, MT5Config, MT5Module
from lmrecipes.models.mt5.hf import load_published
from lmrecipes.optim import Constant

pytestmark = pytest.mark.filterwarnings("ignore")


class Letters:
    """A vocabulary whose pieces are letters and numbers."""

    pad_id, eos_id, n_sentinels = 0, 1, 100

    def encode(self, text):
        return [3 + ord(letter) % 100 for letter in text]

    encode_inside = encode

    def decode(self, ids):
        return "".join(self.piece(i) for i in ids if i > 1)

    def piece(self, i):
        return f"<extra_id_{249 - i}>" if i >= 150 else chr(96 + (i - 3 + 4) % 100)

    def sentinel(self, number):
        return 249 - number


class Pairs(LightningDataModule):
    """The same few pairs every time, in two languages; the targets are answers to questions."""

    vocab_size, vocabulary, languages = 250, Letters(), ["en", "de", "fr"]
    language, null_threshold, n_best, writes_texts = None, None, 1, True

    def __init__(self, n_rows=4):
        super().__init__()
        self.made = pair_batch([[(6 + i, 4)] for i in range(n_rows)])
        for row in range(n_rows):
            self.made.targets[row, -1] = Letters.eos_id
        numbers = torch.arange(n_rows)
        self.made = self.made._replace(languages=numbers % 2, questions=numbers)
        self.asked = [
            Question(f"q{i}", "?", "", (Answer(Letters().decode(ids), 0),))
            for i, ids in enumerate(self.made.targets.tolist())
        ]

    def train_dataloader(self):
        return DataLoader([self.made], batch_size=None)

    val_dataloader = test_dataloader = train_dataloader

    def questions(self, split):
        return self.asked

    def may_lack(self, split):
        return False

    def evidence(self, split, output):
        return {
            f"q{number}": Evidence((Candidate(Letters().decode(ids), score, 0.0),))
            for number, ids, score in zip(*(values.tolist() for values in output), strict=True)
        }


def module(**settings):
    config = MT5Config(**{**SMALL, "vocab_size": 0, "dropout": 0.0, "attention_dropout": 0.0})
    given = {"config": config, "schedule": Constant(), "batch": BatchPlan(global_batch_size=4, seq_len=32), **settings}
    return MT5Module(optimizer=lambda params: torch.optim.AdamW(params, lr=0.01), **given)


def trainer(folder, **settings):
    return Trainer(
        **{"accelerator": "cpu", "max_steps": 60, "default_root_dir": folder, "log_every_n_steps": 20, **settings},
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A trained module, its logged metrics, and the folder of its answers."""
    folder = tmp_path_factory.mktemp("trained")
    torch.manual_seed(0)
    model = module(decoding=Decoding(max_new_tokens=6))
    fitting = trainer(folder, callbacks=[SquadAnswers()], check_val_every_n_epoch=60)
    fitting.fit(model, datamodule=Pairs())
    return model, dict(fitting.callback_metrics), folder


def test_mt5_overfits_a_few_pairs_and_answers_with_them(trained):
    _, metrics, folder = trained
    assert metrics["val/loss"] < 0.05
    assert metrics["squad/exact_match"] == metrics["squad/f1"] == 100
    answers = json.loads((folder / "answers/val/predictions.json").read_text())
    assert answers == {question.id: question.answers[0].text for question in Pairs().asked}


def test_losses_are_logged_by_language(trained):
    _, metrics, _ = trained
    by_language = [metrics["val/loss_en"], metrics["val/loss_de"]]
    assert "val/loss_fr" not in metrics
    assert sum(by_language) / 2 == pytest.approx(float(metrics["val/loss"]))
    assert by_language[0] != by_language[1]


def test_token_counts_exclude_padding():
    batch = pair_batch([[(5, 3), (4, 2)], [(20, 9)]])
    assert module().count(batch) == (3, 5 + 3 + 4 + 2 + 20 + 9)


def test_a_blank_is_filled_in_the_published_format(trained):
    model, vocabulary = trained[0].eval(), Letters()
    text = "ab <mask> cd<mask>"
    ids = model.prompt(text, vocabulary)
    assert ids == [*vocabulary.encode("ab "), 249, *vocabulary.encode(" cd"), 248]
    generated = model.predict_step(PromptBatch(torch.tensor([ids])), 0)
    shape = json.loads(model.completion(text, vocabulary, generated))
    assert list(shape) == ["prompt", "completion", "masked_input"]
    assert shape["prompt"] == text
    assert shape["masked_input"].endswith("<extra_id_1>")
    tokens = shape["completion"]["tokens"]
    assert [vocabulary.piece(i) for i, _, _ in tokens] == [piece for _, piece, _ in tokens]
    assert all(log_prob <= 0 for _, _, log_prob in tokens)
    assert shape["completion"]["text"] == vocabulary.decode(i for i, _, _ in tokens).strip()


@pytest.mark.parametrize(
    ("text", "message"), [("<mask>", "nothing but blanks"), ("a" + "<mask>" * 101, "has 101 blanks")]
)
def test_texts_without_valid_blanks_are_rejected(text, message):
    with pytest.raises(ValueError, match=message):
        module().prompt(text, Letters())


@pytest.mark.parametrize("precision", ["16-mixed", "16-true"])
def test_float16_is_rejected_with_the_reason(precision):
    model = module()
    model._trainer = SimpleNamespace(precision=precision, datamodule=Pairs())
    with pytest.raises(ValueError, match=r"overflow .* use bf16-mixed"):
        model.configure_model()


def test_bfloat16_trains(tmp_path):
    model = module()
    fitting = trainer(tmp_path, precision="bf16-mixed", max_steps=30)
    fitting.fit(model, datamodule=Pairs())
    assert fitting.callback_metrics["train/loss"] < 4


def test_evaluation_without_decoding_generates_nothing(tmp_path):
    model = module()
    trainer(tmp_path, max_steps=1).fit(model, datamodule=Pairs())
    assert model.validation_step(Pairs().made, 0) is None


KINDS = {
    "prompt": Tuning(kind="prompt", virtual_tokens=5),
    "p_tuning": Tuning(kind="p_tuning", virtual_tokens=5, encoder_hidden=16),
    "lora": Tuning(kind="lora", rank=2),
}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"kind": "lora", "virtual_tokens": 3},
            "virtual_tokens is 3, but model.tuning.kind is lora, and only prompt and",
        ),
        ({"kind": "prompt", "rank": 2}, "rank is 2, but model.tuning.kind is prompt, and only lora reads it"),
        ({"alpha": 1.0}, "alpha is 1.0, but model.tuning.kind is full"),
    ],
)
def test_a_setting_unused_by_the_kind_of_tuning_is_rejected(settings, message):
    with pytest.raises(ValueError, match=message):
        Tuning(**settings)


@pytest.mark.parametrize("kind", KINDS)
def test_only_tuned_parameters_change_and_are_saved_and_load_onto_their_base(kind, trained, tmp_path):
    base = tmp_path / "base.ckpt"
    torch.save({"state_dict": trained[0].state_dict()}, base)
    model = module(tuning=Tuning(**{**vars(KINDS[kind]), "base": str(base)}))
    fitting = trainer(tmp_path, max_steps=40, log_every_n_steps=1)
    other = Pairs()
    other.made = other.made._replace(targets=other.made.targets.flip(0))
    fitting.fit(model, datamodule=other)
    whole = dict(model.network.named_parameters())
    for name, value in trained[0].network.named_parameters():
        assert torch.equal(whole[name], value), name
    assert fitting.callback_metrics["train/loss"] < 12
    fitting.save_checkpoint(tmp_path / "tuned.ckpt")
    saved = torch.load(tmp_path / "tuned.ckpt", weights_only=False)["state_dict"]
    assert saved.keys() == {f"network.{name}" for name in whole.keys() - dict(trained[0].network.named_parameters())}
    again = module(tuning=Tuning(**{**vars(KINDS[kind]), "base": str(base)}))
    again_trainer = trainer(tmp_path)
    (result,) = again_trainer.test(again, datamodule=other, ckpt_path=tmp_path / "tuned.ckpt", verbose=False)
    (expected,) = trainer(tmp_path).test(model, datamodule=other, verbose=False)
    assert result == expected


def test_a_random_base_is_saved_with_a_warning(tmp_path):
    model = module(tuning=KINDS["lora"])
    with pytest.warns(UserWarning, match="lora, but the frozen network has random weights"):
        trainer(tmp_path, max_steps=1).fit(model, datamodule=Pairs())
    assert model.state_dict().keys() >= {f"network.{name}" for name, _ in model.network.named_parameters()}


def test_a_missing_base_is_named(tmp_path):
    model = module(tuning=Tuning(kind="lora", base=str(tmp_path / "gone.ckpt")))
    with pytest.raises(
        ValueError, match=r"gone\.ckpt no longer exists; give the base's checkpoint with --model\.tuning\.base"
    ):
        trainer(tmp_path).fit(model, datamodule=Pairs())


def test_the_google_family_is_accepted(tmp_path):
    model = module(config=MT5Config(**{**SMALL, **GOOGLE, "vocab_size": 0}))
    trainer(tmp_path, max_steps=2).fit(model, datamodule=Pairs())
    assert model.network.config.is_google


def test_a_missing_folder_is_named(tmp_path):
    config = MT5Config(**{**SMALL, **GOOGLE})
    with pytest.raises(ValueError, match=r"model\.pretrained .*gone cannot be used: no such folder"):
        load_published(MT5(config), str(tmp_path / "gone"))
