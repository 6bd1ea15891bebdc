"""A two-node SLURM cluster on this machine with its own keys, ports and folders, independent of system services."""

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import warm
from conftest import environment, requires, wait_until

PROGRAMS = ("slurmctld", "slurmd", "munged", "srun", "sbatch")
MISSING = [name for name in PROGRAMS if shutil.which(name) is None]
MARKS = [
    pytest.mark.slow,
    requires(not MISSING, f"no {', '.join(MISSING)} here; Debian's slurmctld slurmd slurm-client munge have them"),
]

CONFIG = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# A low expiry lets a requeued job start again at once, not after two minutes.
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
JobRequeue=1
KillWait=10
MinJobAge=600
ReturnToService=2
SlurmdTimeout=10
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={port1} CPUs=4 RealMemory=4000 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={port2} CPUs=4 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
"""


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _processes(*variables: str) -> list[int]:
    """Ids of processes with these environment variables."""
    pids = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            environment = path.read_text(errors="replace").split("\0")
        except OSError:
            continue
        if set(variables) <= set(environment):
            pids.append(int(path.parent.name))
    return pids


class Cluster:
    """Start with `start`; must be stopped with `stop`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "slurm.conf"
        self.daemons: dict[str, subprocess.Popen] = {}

    def environment(self) -> dict[str, str]:
        """Environment that SLURM's commands need."""
        return {**os.environ, "SLURM_CONF": str(self.config)}

    def call(self, *command: str) -> str:
        """Output of one of SLURM's commands.

        Raises:
            RuntimeError: with the command's error output.
        """
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout.strip()

    def start(self) -> None:
        """Starts munge, the controller and two nodes."""
        port, port1, port2 = _free_ports(3)
        host = socket.gethostname().split(".")[0]
        user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
        (self.folder / "state").mkdir(parents=True)
        self.config.write_text(
            CONFIG.format(host=host, folder=self.folder, user=user, port=port, port1=port1, port2=port2)
        )
        key, munge = self.folder / "munge.key", self.folder / "munge.sock"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        paths = {"key-file": key, "socket": munge, "pid-file": self.folder / "munged.pid"}
        paths |= {"log-file": self.folder / "munged.log", "seed-file": self.folder / "munge.seed"}
        self._launch("munged", "munged", "-F", "--force", *(f"--{name}={path}" for name, path in paths.items()))
        wait_until("munge", munge.exists, 10)
        self._launch("slurmctld", "slurmctld", "-D", "-f", str(self.config))
        wait_until("controller", lambda: self._answers("scontrol", "ping"), 20)
        for node in ("n1", "n2"):
            self.repair(node)
        wait_until("idle nodes", lambda: self.call("sinfo", "-h", "-p", "main", "-t", "idle", "-o", "%D") == "2", 30)

    def repair(self, node: str) -> None:
        """Starts a node."""
        self._launch(node, "slurmd", "-D", "-N", node, "-f", str(self.config))

    def fail(self, node: str, job: str) -> None:
        """Kills a node and the processes of a job that runs only there, like a power failure."""
        self.daemons[node].kill()
        self.daemons[node].wait()
        tasks = _processes(f"SLURM_CONF={self.config}", f"SLURM_JOB_ID={job}")
        managers = {int(Path(f"/proc/{task}/stat").read_text().rsplit(")", 1)[1].split()[1]) for task in tasks}
        for pid in managers:
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"slurmstepd:"):
                os.kill(pid, signal.SIGKILL)
        for pid in tasks:
            os.kill(pid, signal.SIGKILL)
        self.call("scontrol", "update", f"nodename={node}", "state=down", "reason=test")

    def _answers(self, *command: str) -> bool:
        done = subprocess.run(command, env=self.environment(), capture_output=True, timeout=60)
        return done.returncode == 0

    def _launch(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out").open("wb") as log:
            self.daemons[name] = subprocess.Popen(
                command,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self) -> None:
        """Ends all jobs, then the daemons."""
        try:
            for job in set(self.call("squeue", "-h", "-o", "%A").split()):
                self.call("scancel", "--signal=KILL", "--full", job)
                self.call("scancel", job)
            wait_until("end of all jobs", lambda: not self.call("squeue", "-h"), 40)
        except (RuntimeError, TimeoutError, subprocess.TimeoutExpired) as error:
            print(f"stopping the cluster: {error}")
        daemons = list(self.daemons.values())[::-1]
        for daemon in daemons:
            daemon.send_signal(signal.SIGTERM)
        for daemon in daemons:
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def submit(self, *arguments: str, cwd: Path, **variables: str) -> str:
        """Submits a script; returns the job's id."""
        done = subprocess.run(
            ["sbatch", "--parsable", *arguments],
            cwd=cwd,
            env={**self.environment(), **variables},
            capture_output=True,
            text=True,
            timeout=60,
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        return done.stdout.strip()

    def preempt(self, node: str, cwd: Path) -> str:
        """Submits a job of higher priority that takes a whole node briefly; returns its id."""
        # On another free node the preempted job would start at once, and be preempted again.
        return self.submit(
            *("--partition=urgent", f"--nodelist={node}", "--exclusive", "--wrap=true", "--output=/dev/null"), cwd=cwd
        )

    def job(self, job: str) -> dict[str, str]:
        """The controller's record of a job."""
        return dict(re.findall(r"(\w+)=(\S+)", self.call("scontrol", "show", "job", "--oneliner", job)))

    def finish(self, job: str, seconds: float = 90) -> dict[str, str]:
        """Waits until a job has ended for good; a requeued one starts again after SLURM's delay.

        Raises:
            TimeoutError: if it does not end.
        """

        def ended() -> bool:
            return self.job(job)["JobState"] not in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING")

        wait_until(f"end of job {job}", ended, seconds)
        return self.job(job)


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """A cluster until the end of the block."""
    # Socket paths must be short.
    with tempfile.TemporaryDirectory(prefix="slurm") as folder:
        Path(folder).chmod(0o755)
        cluster = Cluster(Path(folder))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


def job_variables() -> dict[str, str]:
    """Environment variables of a job that runs this source."""
    path = environment()["PYTHONPATH"]
    return {
        **{"PYTHONPATH": f"{Path(__file__).parent}:{path}", "OMP_NUM_THREADS": "1"},
        **{"LMRECIPES_COMMAND": f"{warm.python()} -m lmrecipes", "MASTER_ADDR": "127.0.0.1"},
        "LMRECIPES_SITE": "/dev/null",
    }
