"""`lmrecipes doctor` suggests one fix per problem, and reports none on a healthy machine."""

import os

import pytest

from lmrecipes.__main__ import main
from lmrecipes.diagnostics import machine, slurm

# Environment of the first task of a job with two nodes and four tasks each.
JOB = {
    **{"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "lm", "SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
    **{"SLURM_NODEID": "0", "SLURM_NNODES": "2", "SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "4"},
    **{"SLURM_STEP_TASKS_PER_NODE": "4(x2)", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NODELIST": "n[1-2]"},
}


@pytest.fixture
def problems(monkeypatch, tmp_path):
    """Problems found in a job with changed variables (None removes one)."""
    (tmp_path / "scontrol").touch(mode=0o755)

    def find_problems(nodes, devices, **changed):
        for name in [name for name in os.environ if name.startswith("SLURM_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("PATH", str(tmp_path))
        for name, value in {**JOB, **changed}.items():
            if value is not None:
                monkeypatch.setenv(name, value)
        return {finding.what: finding.fix for finding in slurm.job(nodes, devices) if finding.fix}

    return find_problems


def test_a_job_that_matches_its_recipe_has_no_problems(problems):
    assert problems(nodes=2, devices=4) == {}
    assert problems(nodes=2, devices=None) == {}
    assert problems(nodes=None, devices=None) == {}


def test_every_mismatch_is_reported_with_a_fix(problems):
    assert problems(nodes=3, devices=8) == {
        "nodes": "sbatch --nodes=3 …, or --trainer.num_nodes=2",
        "tasks per node": "sbatch --ntasks-per-node=8 …, or --trainer.devices=4",
    }
    assert problems(2, 4, SLURM_NTASKS_PER_NODE=None) == {"tasks": "sbatch --ntasks-per-node=4 … instead"}
    assert problems(2, 4, SLURM_STEP_ID=None) == {"launch": "srun lmrecipes …"}
    assert problems(2, 4, SLURM_JOB_NAME="interactive") == {"job name": "srun --job-name=lmrecipes …"}
    assert problems(2, 4, PATH="/nowhere") == {"scontrol": "put SLURM's commands on PATH"}


def test_a_full_disk_and_little_shared_memory_are_problems(monkeypatch, tmp_path):
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 2**26}))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    wrong = {finding.what for finding in machine.machine(tmp_path / "runs") if finding.fix}
    assert wrong <= {"runs folder", "shared memory"}
    assert "runs folder" in wrong


@pytest.mark.slow
def test_doctor_checks_a_recipe(command):
    well = command("doctor", "--config", "transformer_xl/tiny", HF_HUB_OFFLINE="1")
    assert (well.returncode, well.stderr) == (0, "")
    assert well.stdout.splitlines()[-1] == "no problems"
    halves = command("doctor", "--config", "transformer_xl/tiny", "--trainer.precision=16-mixed", HF_HUB_OFFLINE="1")
    assert halves.returncode == 1
    assert "fix: bf16-mixed and 32-true work" in halves.stdout
    assert halves.stdout.splitlines()[-1] == "1 problem"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trainer.strategy=fsdp2_tp", "--trainer.devices=3", "--batch.global_batch_size=3"], "n_heads is 4"),
        (["--trainer.strategy=ddp_spawn"], "ddp works"),
        (["--trainer.strategy=fsdp"], "requires a GPU"),
        (["--trainer.devices=3"], "batch.global_batch_size is 16 and is not divisible by 3 devices"),
    ],
)
def test_doctor_finds_what_fit_would_reject(options, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["doctor", "--config", "transformer_xl/tiny", "--no_runtime_tuning", *options]) == 1
    out = capsys.readouterr().out
    assert message in out
    assert out.splitlines()[-1] == "1 problem"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_missing_tasks_are_reported_after_a_short_wait(command):
    job = {**JOB, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29871", "HF_HUB_OFFLINE": "1"}
    alone = command("doctor", "--timeout_s=2", **job)
    assert alone.returncode == 1
    assert "not all 8 tasks met at 127.0.0.1:29871 in 2 s" in alone.stdout
    assert "fix: export MASTER_ADDR" in alone.stdout
