"""Every shipped recipe parses, trains and is documented."""

import json

import pytest
import yaml

from conftest import prepare_here
from lmrecipes.__main__ import main
from lmrecipes.cli import open_recipe
from lmrecipes.commands import prepare, rehearse
from lmrecipes.config import catalog
from lmrecipes.data.corpora.synthetic_text import write_synthetic
from lmrecipes.rehearsal.shrink import Spread, shrink

pytestmark = pytest.mark.filterwarnings("ignore")
RECIPES = [name for name in catalog.recipe_paths() if not name.startswith("overlays/")]
SYSTEM = [name for name in RECIPES if name.startswith("transformer_xl/")]
ELECTRA = [name for name in RECIPES if name.startswith("electra/")]
SMALL = ["n_layers=2", "d_model=64", "n_heads=2", "d_head=8", "d_ff=32", "vocab_size=0"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_all_documented_recipes_ship():
    expected = {"tiny", "wt2_cpu", "wt103_base", "wt103_large", "wt103_large_multinode", "wt103_paper_base"}
    assert {f"transformer_xl/{name}" for name in expected | {"enwik8", "text8", "lm1b"}} == set(SYSTEM)
    expected = {
        "tiny_pretrain",
        "text_cpu",
        "small",
        "google_small",
        "google_base",
        "google_large",
        "base_phase1",
        "base_phase2",
    }
    expected |= {"large_phase1", "large_phase2", "tiny_squad", "squad11_small", "squad11_base", "squad11_large"}
    assert {f"electra/{name}" for name in expected | {"squad20_base", "squad20_large"}} == set(ELECTRA)


def test_all_documented_mt5_recipes_ship():
    sizes = {"170m", "390m", "3b", "11b", "23b", "google_small", "tiny_mc4"}
    tuned = {"tiny_squad", "xquad_170m", "xquad_390m", "squad_ptuning_390m", "xnli_3b"}
    assert {f"mt5/{name}" for name in sizes | tuned} == {name for name in RECIPES if name.startswith("mt5/")}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_fits_a_screen_and_has_a_header(name):
    text = catalog.recipe_paths()[name].read_text()
    assert text.startswith("# ")
    assert f"lmrecipes fit --config {name}" in text
    assert len(text.splitlines()) <= 70


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEM)
def test_a_recipe_trains_two_steps_and_is_tested(name, small_corpus, tmp_path, capsys):
    recipe = yaml.safe_load(catalog.recipe_paths()[name].read_text())
    cutoffs = recipe["model"]["init_args"]["config"].get("cutoffs", [])
    options = [f"--model.config.{setting}" for setting in SMALL]
    options += [f"--model.config.cutoffs={[10, 20, 30][: len(cutoffs)]}", "--trainer.num_sanity_val_steps=0"]
    overlays = ["--config", "overlays/debug", "--config", "overlays/cpu"]
    data = [f"--data.path={small_corpus}", f"--data.cache_dir={tmp_path}/cache"]
    assert main(["fit", "--config", name, *overlays, *options, *data, "--run_dir=run"]) == 0, capsys.readouterr().err
    assert main(["test", "--run=run"]) == 0, capsys.readouterr().err
    (result,) = json.loads((tmp_path / "run/results.json").read_text())
    assert result["metrics"]["test/perplexity"] > 1
    # Published results are printed next to the measured ones, with the conditions that differ.
    assert len(result["published"]) == len(recipe.get("published", []))
    assert all(target["differences"] for target in result["published"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ELECTRA)
def test_a_recipe_trains_at_toy_size_on_its_own_kind_of_data(name, tmp_path, capsys):
    built = open_recipe(rehearse.COMMAND, ["--config", name, "--no_runtime_tuning"])
    settings = yaml.safe_load(built.settings())
    small = shrink(settings, Spread("auto", 1, 1), 1, tmp_path / "text", tmp_path / "cache")
    small["trainer"] |= {"max_steps": 3, "callbacks": [], "val_check_interval": 2, "num_sanity_val_steps": 0}
    small["trainer"]["logger"] = small["model"]["init_args"]["compile"] = False
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small))
    corpus = open_recipe(prepare.COMMAND, ["--config", "small.yaml", "--no_runtime_tuning"]).datamodule
    getattr(corpus, "write_synthetic", write_synthetic)(tmp_path / "text")
    prepare_here(corpus)
    assert main(["fit", "--config", "small.yaml", "--run_dir=run", "--no_runtime_tuning"]) == 0, capsys.readouterr().err
    assert "eval at step 2" in capsys.readouterr().out


@pytest.mark.slow
def test_the_saved_configuration_works_as_a_recipe(small, tmp_path, capsys):
    assert main(["fit", *small, "--run_dir=a", "--trainer.max_steps=3"]) == 0, capsys.readouterr().err
    assert "check_val_every_n_epoch: null" in (tmp_path / "a/config.yaml").read_text()
    assert main(["fit", "--config=a/config.yaml", "--run_dir=b"]) == 0, capsys.readouterr().err
    assert (tmp_path / "a/config.yaml").read_text() == (tmp_path / "b/config.yaml").read_text()


def test_score_and_predict_need_no_corpus(small, tmp_path, capsys):
    assert main(["fit", *small, "--run_dir=a", "--trainer.max_steps=3", f"--data.cache_dir={tmp_path}/cache"]) == 0
    for path in (tmp_path / "cache").rglob("*.bin"):
        path.unlink()
    capsys.readouterr()
    assert main(["score", "--run=a", "--text=w1 w2 nowhere"]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "3 tokens" in out
    assert "perplexity" in out
    assert "1 of them" in out
    assert main(["predict", "--run=a", "--text=w1 w2", "--max_new_tokens=5", "--temperature=0"]) == 0
    assert capsys.readouterr().out.strip().split("\n")[-1].startswith("w1 w2")


def test_other_text_is_tested_with_the_vocabulary_of_the_run(small, tmp_path, capsys):
    assert main(["fit", *small, "--run_dir=a", "--trainer.max_steps=3"]) == 0
    other = tmp_path / "other"
    other.mkdir()
    (other / "test.txt").write_text("w1 w2 w3 w4 something else\n" * 20)
    assert main(["test", "--run=a", f"--data.path={other}"]) == 0, capsys.readouterr().err
