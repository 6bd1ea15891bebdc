"""A job requeues itself once, within a limit, and only if it has made progress."""

import json
import signal
import subprocess
from pathlib import Path

import pytest

from lmrecipes.resilience import requeue

FAKE = """#!/bin/sh
echo "$@" >> {folder}/calls
if [ "$1" = show ]; then cat {folder}/reports; else exit $(cat {folder}/code); fi
"""


class FakeSlurm:
    """A job for which SLURM's scontrol reports what the test sets."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        program = folder / "bin/scontrol"
        program.parent.mkdir()
        program.write_text(FAKE.format(folder=folder))
        program.chmod(0o755)
        self.reports()

    def reports(self, state: str = "RUNNING", reason: str = "None", restarts: int = 0, code: int = 0) -> None:
        (self.folder / "reports").write_text(
            f"JobId=7 JobState={state} Reason={reason} Requeue=1 Restarts={restarts}\n"
        )
        (self.folder / "code").write_text(str(code))

    def requeued(self) -> list[str]:
        calls = self.folder / "calls"
        lines = calls.read_text().splitlines() if calls.is_file() else []
        return [line.removeprefix("requeue ") for line in lines if line.startswith("requeue")]


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    for name in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    return FakeSlurm(tmp_path)


@pytest.mark.slow
def test_a_running_job_is_requeued_once_and_the_run_records_it(slurm, tmp_path):
    assert requeue.requeue(tmp_path, step=5, limit=100) is None
    assert slurm.requeued() == ["7"]
    assert json.loads((tmp_path / requeue.RECORD).read_text()) == {"requeues": 1, "step": 5}


@pytest.mark.slow
def test_a_task_of_an_array_is_requeued_without_the_others(slurm, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert requeue.requeue(tmp_path, step=5, limit=100) is None
    assert slurm.requeued() == ["7_3"]


@pytest.mark.slow
def test_without_progress_since_the_last_requeue_it_is_not_requeued(slurm, tmp_path):
    assert requeue.requeue(tmp_path, step=5, limit=100) is None
    assert requeue.requeue(tmp_path, step=5, limit=100) == "no step was completed since it was requeued at step 5"
    assert len(slurm.requeued()) == 1
    assert requeue.requeue(tmp_path, step=6, limit=100) is None


@pytest.mark.slow
def test_requeues_stop_at_the_limit(slurm, tmp_path):
    refusals = [requeue.requeue(tmp_path, step=step, limit=2) for step in (1, 2, 3)]
    assert refusals == [None, None, "it was requeued 2 times, and --max_requeues is 2"]
    assert len(slurm.requeued()) == 2


@pytest.mark.slow
@pytest.mark.parametrize("reports", [{"state": "PENDING"}, {"state": "COMPLETING", "restarts": 1}])
def test_a_job_already_requeued_by_slurm_is_left_alone(slurm, tmp_path, reports):
    slurm.reports(**reports)
    assert requeue.requeue(tmp_path, step=5, limit=100) is None
    assert slurm.requeued() == []


@pytest.mark.slow
def test_a_cancelled_job_is_not_requeued_but_one_out_of_time_is(slurm, tmp_path):
    slurm.reports(state="COMPLETING")
    assert requeue.requeue(tmp_path, step=5, limit=100) == "it is being cancelled (scancel)"
    slurm.reports(state="COMPLETING", reason="TimeLimit")
    assert requeue.requeue(tmp_path, step=5, limit=100) is None
    assert slurm.requeued() == ["7"]


@pytest.mark.slow
def test_a_requeue_rejected_by_slurm_is_reported_and_not_counted(slurm, tmp_path, monkeypatch):
    slurm.reports(code=1)
    assert requeue.requeue(tmp_path, step=5, limit=100) == "scontrol requeue exited with 1"
    slurm.reports()
    assert requeue.requeue(tmp_path, step=5, limit=100) is None
    monkeypatch.setenv("PATH", "/nowhere")
    assert "scontrol cannot be run" in str(requeue.requeue(tmp_path, step=9, limit=100))


def test_a_scontrol_that_the_requeue_itself_has_killed_is_no_refusal(monkeypatch, tmp_path):
    def killed(command, **_):
        return subprocess.CompletedProcess(command, -signal.SIGTERM, "JobState=RUNNING Restarts=0", "")

    monkeypatch.setattr(requeue.subprocess, "run", killed)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert requeue.requeue(tmp_path, step=5, limit=100) is None
