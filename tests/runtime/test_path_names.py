"""A word that becomes part of a path leads nowhere outside of its folder; it is refused in one line that names it."""

import json
import subprocess
from pathlib import Path

import pytest

from lmrecipes import runs
from lmrecipes.batches import BatchPlan
from lmrecipes.checkpoints import listing, sharded
from lmrecipes.config.catalog import recipe_name
from lmrecipes.data.prepared.cache import recall
from lmrecipes.data.tasks.squad.source import check_languages
from lmrecipes.data.tokenizers.text_config import Tokenizing
from lmrecipes.datamodules import MC4DataModule, XNLIDataModule
from lmrecipes.models.common.exported_program import GRAPH, load_programs
from lmrecipes.runtime import launcher
from lmrecipes.runtime.path_names import is_plain

SLURM = Path(__file__).parents[2] / "slurm"
OUTWARD = ["../x", "/x", "a/../../x", "..", ".", "", "a\\x", "a\0x"]
PLAN = BatchPlan(global_batch_size=2, micro_batch_size=2, seq_len=64, target_len=16)


@pytest.mark.parametrize("name", ["de", "zh-Hant", "k3x9a", "a b", "..x", "x.y", "språk"])
def test_plain_words_are_accepted(name):
    assert is_plain(name)


@pytest.mark.parametrize("name", OUTWARD)
@pytest.mark.parametrize(
    ("field", "use"),
    [
        ("data.languages", lambda name: MC4DataModule(PLAN, languages=["en", name], path="{language}")),
        ("data.languages", lambda name: XNLIDataModule(PLAN, languages=["en", name])),
        ("data.languages", lambda name: check_languages({"val": "{language}.json"}, None, ["de", name])),
        ("data.language", lambda name: check_languages({"val": "{language}.json"}, name, None)),
    ],
    ids=["mc4", "xnli", "squad languages", "squad language"],
)
def test_a_language_that_leads_outward_is_refused(name, field, use):
    with pytest.raises(ValueError, match=rf"^{field} is '.*'[^\n]*$") as caught:
        use(name)
    assert "such as de" in str(caught.value)


VARIABLES = {
    "WANDB_SWEEP_ID": ({"WANDB_RUN_ID": "r"}, launcher.sweep_id, "WANDB_SWEEP_ID"),
    "WANDB_RUN_ID": ({"WANDB_SWEEP_ID": "s"}, launcher.sweep_id, "WANDB_RUN_ID"),
    "SLURM_JOB_ID": ({"SLURM_STEP_ID": "0"}, launcher.launcher_id, "SLURM_JOB_ID"),
    "TORCHELASTIC_RUN_ID": ({}, launcher.launcher_id, "torchrun's --rdzv-id"),
}


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "..", "."])
@pytest.mark.parametrize("variable", VARIABLES)
def test_an_id_of_a_launcher_that_leads_outward_is_refused(variable, name, monkeypatch, tmp_path):
    launcher.forget_launcher()
    others, read, field = VARIABLES[variable]
    for key, value in {**others, variable: name}.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(ValueError, match=f"{field} is '"):
        read()
    with pytest.raises(ValueError, match=f"{field} is '"):
        runs.new_run_dir("r", root=tmp_path / "runs")
    assert not [*tmp_path.iterdir()]


def test_a_recipes_file_name_that_leads_outward_is_refused(tmp_path):
    name = recipe_name(tmp_path / "...yaml")
    with pytest.raises(ValueError, match=r"the recipe's name is '\.\.'"):
        runs.new_run_dir(name, root=tmp_path / "runs")
    assert not [*tmp_path.iterdir()]


def test_a_run_upwards_of_the_runs_is_not_found_by_a_recipes_name(tmp_path, monkeypatch):
    (tmp_path / "work/runs").mkdir(parents=True)
    (tmp_path / "work/x").mkdir()
    (tmp_path / "work/x/config.yaml").touch()
    monkeypatch.chdir(tmp_path / "work")
    with pytest.raises(ValueError, match=r"no run '\.\./x'"):
        runs.find_run("../x", root=Path("runs"))
    assert runs.find_run("x", root=Path("runs")) == (tmp_path / "work/x").resolve()


def test_a_wandb_id_that_leads_outward_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    from lmrecipes.loggers.wandb import KEPT, WandbLogger

    monkeypatch.setenv("WANDB_RUN_ID", "../x")
    with pytest.raises(ValueError, match=r"WANDB_RUN_ID is '\.\./x'"):
        WandbLogger().begin(tmp_path, "{}")
    monkeypatch.delenv("WANDB_RUN_ID")
    (tmp_path / KEPT).write_text(json.dumps({"id": "../x"}))
    with pytest.raises(ValueError, match=f"id in {tmp_path / KEPT} is '../x'"):
        WandbLogger().begin(tmp_path, "{}")


def test_lists_that_come_with_a_run_remove_and_read_nothing_outside_of_it(tmp_path, group):
    import torch

    kept = tmp_path / "kept.ckpt"
    kept.write_text("a file of others")
    folder = tmp_path / "run/checkpoints"
    folder.mkdir(parents=True)
    (folder / listing.FILE).write_text(json.dumps({"written": ["../../kept.ckpt", str(kept), "last-step=1.ckpt"]}))
    assert listing.written(folder) == {"last-step=1.ckpt"}
    sharded.write({"state_dict.w": torch.ones(3)}, {}, folder / "last-step=1.ckpt", group)
    manifest = folder / "last-step=1.ckpt" / sharded.MANIFEST
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "../../../kept.ckpt": [1, 2]}))
    (folder / "last-step=1.ckpt/foreign").touch()
    sharded.remove(folder / "last-step=1.ckpt")
    assert kept.read_text() == "a file of others"


def test_the_note_of_a_cache_leads_to_no_other_folder(tmp_path):
    from lmrecipes.data.prepared import cache

    (tmp_path / "cache").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/manifest.json").write_text("{}")
    note = cache._note(None, Tokenizing(), "text", tmp_path / "cache")
    note.write_text("../other")
    assert recall(None, None, Tokenizing(), "text", tmp_path / "cache") is None


def test_programs_outside_of_an_exported_folder_are_not_loaded(tmp_path):
    about = {"form": GRAPH, "device": "cpu", "torch": "2", "programs": ["../x"], "settings": {}}
    (tmp_path / "programs.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"programs in .*programs.json is '../x'"):
        load_programs(tmp_path, GRAPH)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "argument"), [("train", "...yaml"), ("fabric", "...yaml"), ("sweep", "entity/.."), ("sweep", "a/")]
)
def test_the_job_scripts_refuse_names_that_lead_outward(script, argument, tmp_path):
    variables = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "SLURM_JOB_ID": "7"}
    command = ["bash", str(SLURM / f"{script}.sbatch"), argument]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
