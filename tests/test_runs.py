"""All processes of a run agree on one directory, made once, that is found again."""

import itertools
import json
import os
import subprocess
import sys

import pytest

from conftest import environment
from lmrecipes import runs

VARIABLES = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID"),
    *("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", runs.RUN_DIR_VARIABLE),
)


@pytest.fixture
def process(monkeypatch):
    """Makes this the process with these variables."""

    def be(**variables):
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))

    yield be
    be()


def test_all_tasks_of_a_slurm_step_agree_and_the_next_step_has_its_own(process, tmp_path):
    def directory(step, task):
        process(SLURM_JOB_ID=17, SLURM_STEP_ID=step, SLURM_NTASKS=2, SLURM_PROCID=task, SLURM_LOCALID=0)
        return runs.new_run_dir("system/recipe", root=tmp_path)

    # A task that is not the first neither makes the directory nor needs it.
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


def test_torchrun_over_nodes_without_a_name_is_refused(process, tmp_path):
    process(RANK=0, LOCAL_RANK=0, WORLD_SIZE=4, LOCAL_WORLD_SIZE=2, TORCHELASTIC_RUN_ID="none")
    with pytest.raises(ValueError, match=r"--rdzv-id, or --run_dir"):
        runs.new_run_dir("r", root=tmp_path)


def test_processes_that_the_first_one_starts_inherit_its_directory(process, tmp_path):
    process()
    made = runs.new_run_dir("r", root=tmp_path)
    process(LOCAL_RANK=1, **{runs.RUN_DIR_VARIABLE: made})
    assert runs.new_run_dir("r", root=tmp_path) == made
    assert [path.name for path in (tmp_path / "r").iterdir()] == [made.name]


def test_runs_begun_in_the_same_second_have_directories_of_their_own(process, tmp_path, monkeypatch):
    monkeypatch.setattr(runs.time, "strftime", lambda _: "20261121-120000")
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


@pytest.mark.slow
def test_torchrun_trains_into_one_directory(small, tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "lmrecipes"),
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
