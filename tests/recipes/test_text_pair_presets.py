"""Presets of text pairs parse, and those that need no download are prepared and batched."""

from pathlib import Path

import pytest
import yaml

from lmrecipes import datamodules
from lmrecipes.batches import TextPairBatch
from lmrecipes.cli import open_recipe
from lmrecipes.commands import prepare
from lmrecipes.config import catalog
from lmrecipes.data.embedded.languages import LANGUAGES

NAMES = {
    *("mc4", "mc4_google", "mc4_folder", "embedded_languages", "xquad_text", "squad11_text", "squad_text_folder"),
    *("embedded_squad_text", "xnli", "embedded_nli", "embedded_languages_facts"),
}


def open_preset(name, *overrides):
    recipe = yaml.safe_load(catalog.recipe_paths()["mt5/tiny_mc4"].read_text())
    del recipe["data"], recipe["trainer"]["callbacks"]
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    words = ["--config=recipe.yaml", "--batch.seq_len=128", "--batch.target_len=32", "--data", name]
    return open_recipe(prepare.COMMAND, [*words, "--no_runtime_tuning", *overrides])


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_preset_parses(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli = open_preset(name)
    assert isinstance(
        cli.datamodule, datamodules.MC4DataModule | datamodules.SquadDataModule | datamodules.XNLIDataModule
    )
    if "mc4" in name or name == "embedded_languages":
        assert len(cli.datamodule.languages) == 24
    if name == "embedded_languages_facts":
        assert cli.datamodule.languages == [*LANGUAGES, "facts"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["embedded_languages", "embedded_nli", "embedded_squad_text"])
def test_embedded_data_is_prepared_by_the_command(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = [f"--data.cache_dir={tmp_path}/cache", "--data.sentencepiece.vocab_size=2000"]
    cli = open_preset(name, *overrides)
    cli.datamodule.prepare(progress=False)
    for loader in (cli.datamodule.train_dataloader(), cli.datamodule.val_dataloader()):
        batch = next(iter(loader))
        assert isinstance(batch, TextPairBatch)
        assert batch.input_ids.shape[1] <= 128
        assert batch.targets.shape[1] <= 32
