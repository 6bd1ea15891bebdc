"""Requeues the SLURM job, with reasons not to."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

from lmrecipes import runs
from lmrecipes.runtime import launcher
from lmrecipes.runtime.launcher import job_id
from lmrecipes.runtime.open_file import read_json

RECORD = "requeues.json"
# Reason for not requeueing a run that its sweep has stopped.
ENDED_BY_SWEEP = "its sweep stopped it"
_QUEUED = ("PENDING", "REQUEUED")


def ended_by_sweep(number: int) -> bool:
    """Whether a signal comes from a sweep's agent, which stops poor runs, rather than a preemption."""
    if number != signal.SIGTERM or "WANDB_SWEEP_ID" not in os.environ:
        return False
    return not launcher.in_slurm_job() or _fields().get("PreemptTime", "None") == "None"


def requeue(run_dir: Path, step: int, limit: int) -> str | None:
    """Requeues this job once.

    Args:
        run_dir: the run directory, which holds the record of requeues.
        step: optimizer steps that are saved.
        limit: maximum number of requeues.

    Returns:
        Why it was not requeued, or None if it was.
    """
    record = run_dir / RECORD
    earlier = read_json(record) if record.is_file() else {"requeues": 0, "step": 0}
    if earlier["requeues"] >= limit:
        return f"it was requeued {earlier['requeues']} times, and --max_requeues is {limit}"
    if step <= earlier["step"]:
        return f"no step was completed since it was requeued at step {earlier['step']}"
    state, reason, restarts = _job()
    if state in _QUEUED or restarts > int(os.environ.get("SLURM_RESTART_COUNT", "0")):
        return None
    if state == "COMPLETING" and reason != "TimeLimit":
        return "it is being cancelled (scancel)"
    # Written first: after the requeue this process may be killed at any moment.
    runs.write_text(record, json.dumps({"requeues": earlier["requeues"] + 1, "step": step}) + "\n")
    done = _scontrol("requeue", job_id())
    # A requeue kills the job's processes, scontrol itself among them.
    if done.returncode <= 0 or _job()[0] in _QUEUED:
        return None
    runs.write_text(record, json.dumps(earlier) + "\n")
    return " ".join(done.stderr.split()) or f"scontrol requeue exited with {done.returncode}"


def _job() -> tuple[str, str, int]:
    """The job's state, its reason and its restarts; "" and 0 if unknown."""
    fields = _fields()
    return fields.get("JobState", ""), fields.get("Reason", ""), int(fields.get("Restarts", "0"))


def _fields() -> dict[str, str]:
    return dict(re.findall(r"(\w+)=(\S+)", _scontrol("show", "job", "--oneliner", job_id()).stdout))


def _scontrol(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["scontrol", *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", f"scontrol cannot be run: {error}")
