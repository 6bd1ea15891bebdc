"""The command lines that the job scripts pass to srun, tested with fake SLURM programs that print their arguments."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "slurm"
COMMANDS = {"train": "fit", "fabric": "fabric fit"}

pytestmark = pytest.mark.slow


@pytest.fixture
def started(tmp_path):
    """The command that a script starts in a job with some variables."""
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
def test_every_job_and_every_array_task_has_its_own_run(started, script):
    recipe, begin = "electra/small", f"{COMMANDS[script]} --config electra/small --run_dir runs/electra/small/slurm-"
    assert started(script, recipe, "--a=1", SLURM_JOB_ID="7") == f"{begin}7 --a=1"
    # Its job id differs from the array's, and a requeued task has another run.
    task = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}
    assert started(script, recipe, **task) == f"{begin}7_2"


@pytest.mark.parametrize("script", COMMANDS)
def test_a_run_with_a_checkpoint_resumes_with_its_own_settings(started, script, tmp_path):
    run = tmp_path / "elsewhere/mine/slurm-7"
    (run / "checkpoints").mkdir(parents=True)
    job = {"SLURM_JOB_ID": "7", "LMRECIPES_RUNS": "elsewhere"}
    assert started(script, "./mine.yaml", "--a=1", **job).endswith("--run_dir elsewhere/mine/slurm-7 --a=1")
    (run / "checkpoints/last-step=5.ckpt").touch()
    assert started(script, "./mine.yaml", "--a=1", **job) == f"{COMMANDS[script]} --resume elsewhere/mine/slurm-7"


@pytest.mark.parametrize("signal", ["TERM", "USR1"])
@pytest.mark.parametrize("script", COMMANDS)
def test_the_shell_waits_for_the_tasks_after_a_signal(started, script, signal, tmp_path):
    srun = tmp_path / "bin/srun"
    srun.write_text(f"#!/bin/sh\nkill -{signal} $PPID\nsleep 0.1\nexit 7\n")
    with pytest.raises(subprocess.CalledProcessError) as ended:
        started(script, "electra/small", SLURM_JOB_ID="7")
    assert ended.value.returncode == 7
