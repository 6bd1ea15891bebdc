"""All processes of a run agree on one directory, which is created once and found again."""

import itertools
import json
import multiprocessing
import os
import shutil
import subprocess
import time

import pytest
import yaml
from lightning.fabric.plugins.environments import SLURMEnvironment

import warm
from conftest import environment, wait_until
from lmrecipes import runs
from lmrecipes.__main__ import main
from lmrecipes.cli import open_recipe
from lmrecipes.commands import fit
from lmrecipes.data.corpora.text_source import Folder
from lmrecipes.runs import run_lock
from lmrecipes.runtime import launcher

VARIABLES = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID"),
    *("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", launcher.RUN_DIR_VARIABLE),
    *("SLURM_JOB_NAME", "SLURM_PTY_PORT", "SLURM_STEP_NUM_TASKS", "MASTER_PORT"),
)


@pytest.fixture
def process(monkeypatch):
    """Makes this process look like one with the given environment variables."""

    def set_environment(**variables):
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))

    yield set_environment
    set_environment()


def test_all_tasks_of_a_slurm_step_agree_and_the_next_step_has_its_own(process, tmp_path):
    def directory(step, task):
        process(SLURM_JOB_ID=17, SLURM_STEP_ID=step, SLURM_NTASKS=2, SLURM_PROCID=task, SLURM_LOCALID=0)
        return runs.new_run_dir("system/recipe", root=tmp_path)

    # Tasks other than the first neither create the directory nor need it.
    second = directory(0, task=1)
    assert not second.exists()
    assert directory(0, task=0) == second
    assert second.is_dir()
    assert second.parent == tmp_path / "system" / "recipe"
    assert directory(1, task=0) != second


def test_all_processes_of_a_named_torchrun_agree(process, tmp_path):
    found = set()
    for rank in range(4):
        # Two on each of two nodes.
        process(RANK=rank, LOCAL_RANK=rank % 2, WORLD_SIZE=4, LOCAL_WORLD_SIZE=2, TORCHELASTIC_RUN_ID="mine")
        found.add(runs.new_run_dir("r", root=tmp_path))
    assert found == {tmp_path / "r" / "torchrun-mine"}


def test_torchrun_over_nodes_without_a_name_is_rejected(process, tmp_path):
    process(RANK=0, LOCAL_RANK=0, WORLD_SIZE=4, LOCAL_WORLD_SIZE=2, TORCHELASTIC_RUN_ID="none")
    with pytest.raises(ValueError, match=r"--rdzv-id, or --run_dir"):
        runs.new_run_dir("r", root=tmp_path)


def test_processes_started_by_the_first_one_inherit_its_directory(process, tmp_path):
    process()
    made = runs.new_run_dir("r", root=tmp_path)
    process(LOCAL_RANK=1, **{launcher.RUN_DIR_VARIABLE: made})
    assert runs.new_run_dir("r", root=tmp_path) == made
    assert [path.name for path in (tmp_path / "r").iterdir()] == [made.name]


def test_runs_started_in_the_same_second_have_different_directories(process, tmp_path, monkeypatch):
    monkeypatch.setattr("lmrecipes.runs.run_dir.time.strftime", lambda _: "20261121-120000")
    made = []
    for _ in range(3):
        process()
        made.append(runs.new_run_dir("r", root=tmp_path).name)
    assert made == ["20261121-120000", "20261121-120000-2", "20261121-120000-3"]


def test_the_newest_run_of_a_recipe_is_found_by_the_recipes_name(tmp_path):
    for number, name in enumerate(("b", "a", "c")):
        run = tmp_path / "system" / "recipe" / name
        run.mkdir(parents=True)
        (run / runs.CONFIG).touch()
        os.utime(run / runs.CONFIG, (number, 10 - number))
    assert runs.find_run("system/recipe", root=tmp_path).name == "b"
    with pytest.raises(ValueError, match="runs exist of: system/recipe"):
        runs.find_run("system/other", root=tmp_path)


@pytest.fixture
def trained(process, small, small_corpus, tmp_path, monkeypatch):
    """A run on a copy of the small corpus: a function that tests it, and the copy."""
    process()
    monkeypatch.chdir(tmp_path)
    text = shutil.copytree(small_corpus, tmp_path / "text")
    cache = [f"--data.path={text}", f"--data.cache_dir={tmp_path / 'cache'}"]
    assert main(["fit", *small, *cache, "--run_dir=a", "--trainer.max_steps=3"]) == 0

    def test_loss(*options):
        assert main(["test", "--run=a", *options]) == 0
        return json.loads((tmp_path / "a/results.json").read_text())[-1]["metrics"]["test/loss"]

    return test_loss, text


def no_text(*_):
    raise AssertionError("the text is read")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_run_is_tested_with_its_vocabulary_even_if_the_training_text_changed(trained, tmp_path, monkeypatch):
    test_loss, text = trained
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "blocks", no_text)
        expected = test_loss()
        for link in (tmp_path / "cache").glob("*.latest"):
            link.unlink()
        assert test_loss() == expected
    train = (text / "train.txt").read_text()
    (text / "train.txt").write_text(" ".join(reversed(train.split(" "))) + "w59 " * 999)  # another order of the words
    assert test_loss() == expected
    (text / "train.txt").write_text("other words\n" * 50)
    assert test_loss() == expected
    (text / "train.txt").unlink()
    assert test_loss() == expected
    shutil.rmtree(text)
    assert test_loss() == expected


@pytest.mark.filterwarnings("ignore")
def test_a_run_is_tested_on_other_text_and_on_prepared_text_without_the_original(trained, tmp_path):
    test_loss, text = trained
    expected = test_loss()
    other = tmp_path / "other"
    other.mkdir()
    (other / "test.txt").write_text("w1 w2 w3 w4\n" * 30)
    assert test_loss(f"--data.path={other}") != expected
    shutil.rmtree(other)
    assert test_loss(f"--data.path={other}") != expected  # prepared earlier
    (text / "test.txt").unlink()
    assert test_loss() == expected


@pytest.mark.slow
def test_torchrun_trains_into_one_directory(small, tmp_path):
    done = subprocess.run(
        [
            *(warm.python(), "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "lmrecipes"),
            *("fit", *small, "--trainer.strategy=ddp", "--trainer.devices=2", "--trainer.max_steps=3"),
        ],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    made = list(itertools.chain.from_iterable(p.iterdir() for p in (tmp_path / "runs").glob("*/*")))
    assert [path.name.split("-")[0] for path in made] == ["torchrun"]
    assert done.stdout.count("run directory:") == 1
    assert json.loads((made[0] / "run.json").read_text())["command"]
    assert (made[0] / "checkpoints" / "last-step=3.ckpt").is_file()


def test_a_saved_configuration_lists_lightnings_callbacks_with_their_defaults(tmp_path):
    timer = {"class_path": "lightning.pytorch.callbacks.Timer", "init_args": {"duration": "00:01:00:00"}}
    (tmp_path / "timer.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [timer]}}))
    built = open_recipe(fit.COMMAND, ["--config", "transformer_xl/tiny", "--config", str(tmp_path / "timer.yaml")])
    (saved,) = yaml.safe_load(built.settings())["trainer"]["callbacks"]
    assert saved["init_args"] == {"duration": "00:01:00:00", "interval": "step", "verbose": True}


@pytest.mark.slow
def test_a_directory_is_claimed_by_one_of_two_runs_and_resumed_by_one_process(process, tmp_path, monkeypatch):
    process()
    monkeypatch.setattr(run_lock, "PATIENCE_S", 0.2)
    run = tmp_path / "run"
    holder = multiprocessing.get_context("fork").Process(target=_hold_as_another, args=(run, tmp_path / "held"))
    holder.start()
    try:
        wait_until("the lock is held", (tmp_path / "held").exists, 30)
        with pytest.raises(ValueError, match=rf"is being trained by process {holder.pid} on .*; name another"):
            runs.new_run_dir("r", root=tmp_path, requested=run)
        (run / runs.CONFIG).write_text("")
        with pytest.raises(ValueError, match=rf"is being trained by process {holder.pid} on .* before --resume"):
            runs.continue_run(run)
    finally:
        holder.kill()
        holder.join()
    runs.continue_run(run)
    runs.end()


def _hold_as_another(run, held):
    runs.new_run_dir("r", root=run.parent, requested=run)
    held.touch()
    time.sleep(600)


@pytest.mark.slow
def test_a_run_killed_before_its_settings_were_saved_does_not_block_its_directory(process, tmp_path):
    process()
    run = tmp_path / "run"
    holder = multiprocessing.get_context("fork").Process(target=_hold_as_another, args=(run, tmp_path / "held"))
    holder.start()
    wait_until("the lock is held", (tmp_path / "held").exists, 30)
    holder.kill()
    holder.join()
    runs.new_run_dir("r", root=tmp_path, requested=run)
    runs.end()


def test_a_file_of_the_users_called_run_json_is_not_taken_for_a_killed_run(process, tmp_path):
    process()
    (tmp_path / runs.ABOUT).write_text('{"laps": 3}')
    with pytest.raises(ValueError, match="is not empty and holds no run"):
        runs.new_run_dir("r", root=tmp_path, requested=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [runs.ABOUT]


@pytest.mark.filterwarnings("ignore:The `srun` command")
@pytest.mark.parametrize(
    "shell",
    [
        {"SLURM_STEP_ID": 0, "SLURM_JOB_NAME": "bash", "SLURM_STEP_NUM_TASKS": 1},
        {"SLURM_STEP_ID": 3, "SLURM_JOB_NAME": "mine", "SLURM_PTY_PORT": 41234, "SLURM_STEP_NUM_TASKS": 1},
        {"SLURM_STEP_ID": 4294967290, "SLURM_JOB_NAME": "mine"},
    ],
)
def test_in_an_interactive_slurm_shell_every_fit_is_a_run_of_its_own(process, tmp_path, shell):
    def directory():
        process(SLURM_JOB_ID=17, SLURM_NTASKS=1, SLURM_PROCID=0, SLURM_LOCALID=0, **shell)
        launcher.train_as_on_a_laptop()
        assert not launcher.in_slurm_job()
        assert not SLURMEnvironment.detect()
        return runs.new_run_dir("r", root=tmp_path)

    assert directory() != directory()


def test_rank_variables_that_cannot_be_true_are_named(process, capsys):
    process(LOCAL_RANK=0)
    launcher.check_rank(0, 1)
    with pytest.raises(ValueError, match=r"LOCAL_RANK=0.* no MASTER_PORT .*; unset LOCAL_RANK"):
        launcher.check_rank(0, 2)
    process(SLURM_PROCID="x")
    assert main(["list"]) == 2
    assert "the environment has SLURM_PROCID=x, which is not a number; unset SLURM_PROCID" in capsys.readouterr().err
    process(RANK=3, LOCAL_RANK=1)
    with pytest.raises(ValueError, match=r"RANK=3 and LOCAL_RANK=1.*; unset RANK and LOCAL_RANK"):
        launcher.check_rank(0, 1)
