"""Jobs on a real SLURM that are signalled, preempted, killed or fail; requeued ones end like an undisturbed run."""

import csv
import json
import re
import subprocess
from pathlib import Path

import pytest
from cluster import MARKS, job_variables

import warm
from conftest import environment, wait_until
from lmrecipes.checkpoints.io import load_checkpoint

SCRIPTS = Path(__file__).parents[2] / "slurm"
STEPS = 24
KEEP = '{"class_path": "lmrecipes.callbacks.LastCheckpoint", "init_args": {"every_n_steps": 5}}'
BEST = '{"class_path": "lmrecipes.callbacks.BestCheckpoint"}'

pytestmark = MARKS


@pytest.fixture
def variables() -> dict[str, str]:
    return job_variables()


def options(small, **hold):
    """Options of a run that may be paused."""
    callback = json.dumps({"class_path": "pause_callback.PauseJob", "init_args": hold})
    return [*small[2:], f"--trainer.max_steps={STEPS}", f"--trainer.callbacks=[{BEST}, {KEEP}, {callback}]"]


def weights(run: Path) -> dict:
    checkpoint = load_checkpoint(run / f"checkpoints/last-step={STEPS}.ckpt")
    return {**checkpoint["state_dict"], **{f"memory {i}": m for i, m in enumerate(checkpoint["stream_memory"])}}


def same_run(one: Path, other: Path) -> None:
    expected, got = weights(one), weights(other)
    assert expected.keys() == got.keys()
    assert [name for name, tensor in expected.items() if not tensor.equal(got[name])] == []
    with (other / "metrics.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file) if row["train/loss"]] == [str(n + 1) for n in range(STEPS)]


def reached(log: Path, step: int) -> bool:
    return log.is_file() and f"step {step} |" in log.read_text()


@pytest.fixture
def submit(cluster, small, tmp_path, variables):
    """Submits a script; returns the job's number, its log and its run directory."""

    def run(*sbatch: str, more: tuple[str, ...] = (), nodes: int = 1, name: str = "train", **hold):
        strategy = ["--trainer.strategy=ddp", "--trainer.num_nodes=2"] if nodes == 2 else []
        script = (str(SCRIPTS / f"{name}.sbatch"), "transformer_xl/tiny", *options(small, **hold), *strategy, *more)
        job = cluster.submit(f"--nodes={nodes}", *sbatch, *script, cwd=tmp_path, **variables)
        return job, tmp_path / f"slurm-{job}.out", tmp_path / "runs/transformer_xl/tiny" / f"slurm-{job}"

    return run


@pytest.fixture(scope="module")
def undisturbed(small, tmp_path_factory):
    """An undisturbed run of one process."""
    folder = tmp_path_factory.mktemp("undisturbed")
    arguments = ["fit", "--config", "transformer_xl/tiny", *options(small), "--run_dir=alone"]
    command = [warm.python(), "-m", "lmrecipes", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment() | job_variables(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "alone"


@pytest.mark.parametrize("script", ["train", "fabric"])
def test_a_signalled_job_of_two_nodes_is_requeued_and_resumes(
    cluster, submit, command, small, variables, tmp_path, script
):
    job, log, run = submit("--ntasks-per-node=1", nodes=2, name=script, steps=[8])
    wait_until("step 8", lambda: reached(log, 8), 90)
    cluster.call("scancel", "--signal=USR1", job)
    wait_until("requeue", lambda: cluster.job(job)["Restarts"] == "1", 30)
    ended = cluster.finish(job)
    text = log.read_text()
    assert ended["JobState"] == "COMPLETED", text
    (stopped,) = re.findall(r"stopped by SIGUSR1 at step (\d+); last-step=\1 is saved; job \d+ is requeued", text)
    assert 8 <= int(stopped) < STEPS
    # No step is repeated.
    assert len(re.findall(rf"\| step {stopped} \|", text)) == 1
    two = ["--trainer.strategy=ddp", "--trainer.devices=2"]
    path = variables["PYTHONPATH"]
    alone = command("fit", "--config", "transformer_xl/tiny", *options(small), *two, "--run_dir=alone", PYTHONPATH=path)
    assert alone.returncode == 0, alone.stderr
    same_run(tmp_path / "alone", run)


def test_a_preempted_job_stops_at_once_and_resumes(cluster, submit, undisturbed, tmp_path):
    job, log, run = submit("--nodelist=n1", "--exclusive", steps=[8])
    wait_until("step 8", lambda: reached(log, 8), 60)
    urgent = cluster.preempt("n1", cwd=tmp_path)
    assert cluster.finish(urgent, 40)["JobState"] == "COMPLETED"
    ended = cluster.finish(job)
    text = log.read_text()
    assert ended["JobState"] == "COMPLETED", text
    assert ended["Restarts"] == "1"
    assert re.search(r"stopped by SIGTERM at step (\d+); last-step=\1 is saved; job \d+ is requeued", text), text
    same_run(undisturbed, run)


def test_a_job_whose_node_fails_resumes(cluster, submit, undisturbed):
    job, log, run = submit(steps=[8])
    wait_until("step 8", lambda: reached(log, 8), 60)
    node = cluster.job(job)["NodeList"]
    cluster.fail(node, job)
    wait_until("requeue", lambda: cluster.job(job)["Restarts"] == "1", 60)
    ended = cluster.finish(job)
    cluster.repair(node)
    assert ended["JobState"] == "COMPLETED", log.read_text()
    same_run(undisturbed, run)


def test_a_killed_job_resumes_when_requeued_manually(cluster, submit, undisturbed):
    # Once before its first checkpoint, once after.
    job, log, run = submit(steps=[2, 8])
    for times, step in enumerate((2, 8)):
        wait_until(f"step {step}", lambda step=step: reached(log, step), 60)
        cluster.call("scancel", "--signal=KILL", f"{job}.0")
        wait_until("failure", lambda: cluster.job(job)["JobState"] == "FAILED", 40)
        assert cluster.job(job)["Restarts"] == str(times)
        cluster.call("scontrol", "requeue", job)
    ended = cluster.finish(job)
    assert ended["JobState"] == "COMPLETED", log.read_text()
    same_run(undisturbed, run)


def test_a_failed_or_cancelled_job_is_not_requeued(cluster, submit):
    failing, failed_log, _ = submit(fail_at=7)
    cancelled, log, run = submit(steps=[8])
    wait_until("step 8", lambda: reached(log, 8), 60)
    cluster.call("scancel", cancelled)
    wait_until("its end", lambda: "stopped by SIGTERM" in log.read_text(), 30)
    assert f"job {cancelled} is not requeued: it is being cancelled (scancel); continue with" in log.read_text()
    assert cluster.finish(failing)["JobState"] == "FAILED"
    assert "a bug in the model" in failed_log.read_text()
    assert cluster.finish(cancelled)["JobState"] == "CANCELLED"
    for job in (failing, cancelled):
        assert cluster.job(job)["Restarts"] == "0"
    assert list((run / "checkpoints").glob("last-*.ckpt"))


@pytest.mark.parametrize("kind", ["raise", "kill"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_failing_task_stops_the_others_and_is_named(cluster, submit, kind, rank):
    fault = json.dumps({"class_path": "fault_callbacks.Fault", "init_args": {"kind": kind, "step": 7, "rank": rank}})
    job, log, run = submit("--ntasks-per-node=1", nodes=2, more=(f"--trainer.callbacks=[{KEEP}, {fault}]",))
    ended = cluster.finish(job, 60)
    text = log.read_text()
    assert ended["JobState"] == "FAILED", text
    assert ended["Restarts"] == "0"
    (line,) = re.findall("^error: .*", text, re.M)
    assert line.startswith(f"error: rank {rank} on ")
    assert ("failed at step 7: RuntimeError: the disk is on fire; traceback: " in line) == (kind == "raise")
    assert ("SIGKILL (out of memory? see dmesg" in line) == (kind == "kill")
    assert "Traceback" not in text
    assert [path.name for path in run.glob("errors/[!.]*")] == ([f"rank{rank}.txt"] if kind == "raise" else [])


def test_an_array_trains_one_run_per_seed_and_requeues_only_the_signalled_one(cluster, small, tmp_path, variables):
    array = cluster.submit(
        *("--array=1-2", str(SCRIPTS / "array.sbatch"), "transformer_xl/tiny", *options(small, steps=[8], task=2)),
        cwd=tmp_path,
        **variables,
    )
    # SLURM gives the last task the job id of the whole array.
    logs = {seed: tmp_path / f"slurm-{array}_{seed}.out" for seed in (1, 2)}
    wait_until("step 8", lambda: reached(logs[2], 8), 60)
    cluster.call("scancel", "--signal=USR1", f"{array}_2")
    ended = {seed: cluster.finish(f"{array}_{seed}") for seed in logs}
    for seed, log in logs.items():
        assert ended[seed]["JobState"] == "COMPLETED", log.read_text()
        assert ended[seed]["Restarts"] == str(seed - 1)
        run = tmp_path / f"runs/transformer_xl/tiny/slurm-{array}_{seed}"
        assert f"seed_everything: {seed}" in (run / "config.yaml").read_text()


def test_doctor_connects_all_tasks_of_a_job(cluster, tmp_path, variables):
    doctor = f"{variables['LMRECIPES_COMMAND']} doctor --config transformer_xl/tiny"
    srun = ["srun", "--job-name=doctor", "--nodes=2", "--ntasks-per-node=1", *doctor.split(), "--trainer.num_nodes=2"]

    def run_doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**cluster.environment(), **variables, "HF_HUB_OFFLINE": "1"}
        return subprocess.run(
            [*srun, *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=90
        )

    healthy = run_doctor()
    assert healthy.returncode == 0, healthy.stdout + healthy.stderr
    assert "2 tasks met at 127.0.0.1:" in healthy.stdout
    mismatched = run_doctor("--trainer.devices=2")
    assert mismatched.returncode == 1
    assert "fix: sbatch --ntasks-per-node=2 …, or --trainer.devices=1" in mismatched.stdout
