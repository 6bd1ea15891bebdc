"""A sweep on a real SLURM: one agent per job, one point in all of its tasks, one wandb run across requeues."""

import json
import re
from pathlib import Path

import pytest
import yaml
from cluster import MARKS, job_variables

import warm
from conftest import environment, wait_until
from wandb_files import parts

ROOT = Path(__file__).parents[2]
STEPS = 24

pytestmark = MARKS


@pytest.fixture
def submit(cluster, small, tmp_path):
    """Submits sweep.sbatch with a scripted agent that has one point; returns job, log and run directory."""
    programs, points = tmp_path / "bin", tmp_path / "points"
    for folder in (programs, points):
        folder.mkdir()
    agent = programs / "wandb"
    agent.write_text(f'#!/bin/bash\nexec {warm.python()} {ROOT}/tests/sweeps/fake_wandb_agent.py "$@"\n')
    agent.chmod(0o755)
    (points / "aa.json").write_text(json.dumps({"model.config.dropout": 0.25, "model.config.cutoffs": [20, 40]}))
    sweep = yaml.safe_load((ROOT / "recipes/sweeps/transformer_xl_random.yaml").read_text())
    hold = {"class_path": "pause_callback.PauseJob", "init_args": {"steps": [8]}}
    callbacks = json.dumps([{"class_path": "lmrecipes.callbacks.LastCheckpoint"}, hold])
    more = [*small, f"--trainer.max_steps={STEPS}", f"--trainer.callbacks={callbacks}"]
    command = [*sweep["command"][:-1], *(word for word in more if "cutoffs" not in word), "${args}"]
    (points / "sweep.yaml").write_text(yaml.safe_dump(sweep | {"command": command}))
    variables = {
        **job_variables(),
        **{"SCRIPTED_POINTS": str(points), "WANDB_SILENT": "true"},
        "PATH": f"{programs}:{environment()['PATH']}",
    }

    def run(*sbatch, nodes=1):
        strategy = ["--trainer.strategy=ddp", "--trainer.num_nodes=2"] if nodes == 2 else []
        script = (f"--nodes={nodes}", *sbatch, str(ROOT / "slurm/sweep.sbatch"), "me/mine/sw1", *strategy)
        job = cluster.submit(*script, cwd=tmp_path, **variables)
        return job, tmp_path / f"slurm-{job}.out", tmp_path / f"runs/sweeps/sw1/slurm-{job}"

    return run


def reached(log: Path, step: int) -> bool:
    return log.is_file() and f"step {step} |" in log.read_text()


def test_all_tasks_train_one_point_and_a_requeued_job_continues_its_wandb_run(cluster, submit):
    job, log, run = submit(nodes=2)
    wait_until("step 8", lambda: reached(log, 8), 120)
    cluster.call("scancel", "--signal=USR1", job)
    wait_until("requeue", lambda: cluster.job(job)["Restarts"] == "1", 40)
    ended = cluster.finish(job, 150)
    text = log.read_text()
    assert ended["JobState"] == "COMPLETED", text
    (stopped,) = re.findall(r"stopped by SIGUSR1 at step (\d+); last-step=\1 is saved; job \d+ is requeued", text)
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["init_args"]["config"]["dropout"] == 0.25
    assert config["trainer"]["num_nodes"] == 2
    # One agent, one point, one wandb run of one rank, each step in exactly one of its two parts.
    first, second = parts(run)
    assert (first.id, second.id) == ("aa", "aa")
    steps = [set(part.metric("train/loss")) for part in (first, second)]
    assert steps == [set(range(1, int(stopped) + 1)), set(range(int(stopped) + 1, STEPS + 1))]


def test_a_run_stopped_by_hyperband_is_not_requeued(cluster, submit, tmp_path):
    job, log, run = submit()
    wait_until("step 8", lambda: reached(log, 8), 90)
    (tmp_path / "points/stop").touch()
    ended = cluster.finish(job)
    text = log.read_text()
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "0"), text
    assert "its sweep stopped it" in text
    assert "Traceback" not in text
    # SLURM has killed wandb's process too.
    assert {1, 2, 3} <= set(parts(run)[0].metric("train/loss"))


def test_a_preempted_point_resumes(cluster, submit, tmp_path):
    job, log, run = submit("--nodelist=n1", "--exclusive")
    wait_until("step 8", lambda: reached(log, 8), 90)
    urgent = cluster.preempt("n1", cwd=tmp_path)
    assert cluster.finish(urgent, 60)["JobState"] == "COMPLETED"
    ended = cluster.finish(job, 150)
    text = log.read_text()
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), text
    assert re.search(r"stopped by SIGTERM at step (\d+); last-step=\1 is saved; job \d+ is requeued", text), text
    assert "Traceback" not in text
    first, second = parts(run)
    assert (first.id, second.id) == ("aa", "aa")
    # SLURM has killed wandb's process too, which loses at most a second.
    steps = [step for part in (first, second) for step in part.metric("train/loss")]
    assert len(set(steps)) == len(steps) >= STEPS - 10


def test_a_job_fails_if_its_run_fails_but_not_if_no_point_is_left(cluster, submit, tmp_path):
    (tmp_path / "points/aa.json").write_text(json.dumps({"model.config.dropout": "much"}))
    job, log, _ = submit()
    assert cluster.finish(job)["JobState"] == "FAILED", log.read_text()
    assert "error: model.config.dropout" in log.read_text()
    job, log, _ = submit()
    assert cluster.finish(job)["JobState"] == "COMPLETED", log.read_text()
    assert "sweep me/mine/sw1 has no point left to try" in log.read_text()
