"""Whatever is wrong with one setting of a recipe, it runs, or one line names the setting and nothing is left behind."""

from __future__ import annotations

import random

import pytest
from bad_settings import cases, resolved, verdict
from lightning.pytorch import Trainer

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]
RECIPES = (
    "transformer_xl/tiny",
    "electra/tiny_pretrain",
    "electra/tiny_squad",
    "mt5/tiny_mc4",
    "mt5/tiny_squad",
)


@pytest.fixture(scope="module")
def options(small, tmp_path_factory):
    """Options of a small run of each recipe."""
    few = ("--trainer.max_steps=1", "--trainer.limit_val_batches=1", "--trainer.num_sanity_val_steps=0")
    cache = f"--data.cache_dir={tmp_path_factory.mktemp('cache')}"
    learned = {
        "electra/tiny_pretrain": ["--data.wordpiece.vocab_size=300"],
        "mt5/tiny_mc4": ["--data.sentencepiece.vocab_size=400", "--data.languages=[en,facts]"],
    }
    return {
        name: [
            *(small if name.startswith("transformer_xl") else ("--config", name, cache)),
            *few,
            *learned.get(name, []),
        ]
        for name in RECIPES
    }


@pytest.fixture
def built_only(monkeypatch):
    """Training that ends once the network and the optimizer are built."""

    def fit(trainer, model, datamodule=None, ckpt_path=None):
        trainer.datamodule, model._trainer = datamodule, trainer
        model.configure_model()
        model.configure_optimizers()

    monkeypatch.setattr(Trainer, "fit", fit)


def wrong(options, recipe, generator, n, folder, capsys):
    """Changes of a sample that are answered badly, with what is bad."""
    settings = resolved(options[recipe])
    sample = generator.sample(cases(settings), n)
    found = {f"{at} {change}": verdict(capsys, folder, settings, at, change) for at, change in sample}
    return {case: problem for case, problem in found.items() if problem}


@pytest.mark.usefixtures("built_only")
@pytest.mark.parametrize("recipe", RECIPES[:4])
def test_a_bad_setting_is_named_in_one_line_and_leaves_nothing(options, recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    n = 30 if recipe.startswith("transformer_xl") else 8
    assert wrong(options, recipe, random.Random(0), n, tmp_path, capsys) == {}


@pytest.mark.exhaustive
@pytest.mark.usefixtures("built_only")
@pytest.mark.parametrize("recipe", RECIPES)
def test_another_bad_setting_each_time_is_named(options, recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # Seeded by the seed that pytest prints.
    assert wrong(options, recipe, random, 60, tmp_path, capsys) == {}


@pytest.mark.exhaustive
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_bad_setting_of_a_training_is_named(options, recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert wrong(options, recipe, random, 10, tmp_path, capsys) == {}
