"""What the job scripts hand to srun, with programs of SLURM that only say what they were called with."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "slurm"
COMMANDS = {"train": "fit", "fabric": "fabric fit"}

pytestmark = pytest.mark.slow


@pytest.fixture
def started(tmp_path):
    """What a script starts in a job with some variables."""
    programs = {"scontrol": "echo n1", "srun": 'echo "$@"'}
    (tmp_path / "bin").mkdir()
    for name, does in programs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / "bin" / name).chmod(0o755)

    def run(script: str, *arguments: str, **job: str) -> str:
        variables = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "HOME": str(tmp_path), "SLURM_JOB_NODELIST": "n1"}
        command = ["bash", SCRIPTS / f"{script}.sbatch", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=variables | job, capture_output=True, text=True, check=True)
        return done.stdout.strip().removeprefix("--kill-on-bad-exit=1 lmrecipes ")

    return run


@pytest.mark.parametrize("script", COMMANDS)
def test_a_job_and_every_task_of_an_array_have_a_run_of_their_own(started, script):
    recipe, begin = "electra/small", f"{COMMANDS[script]} --config electra/small --run_dir runs/electra/small/slurm-"
    assert started(script, recipe, "--a=1", SLURM_JOB_ID="7") == f"{begin}7 --a=1"
    # Its own number is another than the array's, and so is a requeued task's run.
    task = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}
    assert started(script, recipe, **task) == f"{begin}7_2"


@pytest.mark.parametrize("script", COMMANDS)
def test_a_run_with_a_checkpoint_goes_on_with_its_own_settings(started, script, tmp_path):
    run = tmp_path / "elsewhere/mine/slurm-7"
    (run / "checkpoints").mkdir(parents=True)
    job = {"SLURM_JOB_ID": "7", "LMRECIPES_RUNS": "elsewhere"}
    assert started(script, "./mine.yaml", "--a=1", **job).endswith("--run_dir elsewhere/mine/slurm-7 --a=1")
    (run / "checkpoints/last-step=5.ckpt").touch()
    assert started(script, "./mine.yaml", "--a=1", **job) == f"{COMMANDS[script]} --resume elsewhere/mine/slurm-7"


@pytest.mark.parametrize("signal", ["TERM", "USR1"])
@pytest.mark.parametrize("script", COMMANDS)
def test_a_signal_to_the_shell_leaves_the_end_to_the_tasks(started, script, signal, tmp_path):
    srun = tmp_path / "bin/srun"
    srun.write_text(f"#!/bin/sh\nkill -{signal} $PPID\nsleep 0.1\nexit 7\n")
    with pytest.raises(subprocess.CalledProcessError) as ended:
        started(script, "electra/small", SLURM_JOB_ID="7")
    assert ended.value.returncode == 7
