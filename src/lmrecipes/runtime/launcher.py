"""How this process was launched: its rank and its job."""

from __future__ import annotations

import os
from pathlib import Path

from lmrecipes.runtime.path_names import check_plain

RUN_DIR_VARIABLE = "LMRECIPES_RUN_DIR"


# The step of the shell that salloc opens on a node (slurm.h: SLURM_INTERACTIVE_STEP).
_INTERACTIVE_STEP = str(0xFFFFFFFA)
_RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK")


def is_main_process() -> bool:
    """Whether this is rank 0 of the processes that the launcher started, which writes files."""
    return all(os.environ.get(name, "0") == "0" for name in _RANKS)


def check_numbers() -> None:
    """Refuses launcher variables that are no numbers, which Lightning would trip over.

    Raises:
        ValueError: naming the variable.
    """
    for name in (*_RANKS, "WORLD_SIZE", "SLURM_LOCALID", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "NODE_RANK"):
        if not os.environ.get(name, "0").isdecimal():
            raise ValueError(f"the environment has {name}={os.environ[name]}, which is not a number; unset {name}")


def check_rank(rank: int, world_size: int) -> None:
    """Refuses stray launcher variables, which would give a run that writes nothing or waits for ever.

    Args:
        rank: of this process, as Lightning has it.
        world_size: number of processes of the run, as Lightning has it.

    Raises:
        ValueError: naming the variables that cannot be true for this process.
    """
    if world_size > 1 and "LOCAL_RANK" in os.environ and "MASTER_PORT" not in os.environ and not in_slurm_job():
        raise ValueError(
            f"the environment has LOCAL_RANK={os.environ['LOCAL_RANK']}, as if a launcher had started the {world_size} "
            f"processes, but no MASTER_PORT to reach them by; unset LOCAL_RANK"
        )
    if rank == 0 and not is_main_process():
        names = [name for name in _RANKS if os.environ.get(name, "0") != "0"]
        variables = " and ".join(f"{name}={os.environ[name]}" for name in names)
        raise ValueError(
            f"the environment has {variables}, but a run with these trainer.devices and trainer.num_nodes has no such "
            f"process; unset {' and '.join(names)}, or set trainer.devices to the number of processes that are launched"
        )


def sweep_id() -> str | None:
    """A unique id of every run that a wandb agent starts, even within one SLURM step.

    Raises:
        ValueError: if it names no folder.
    """
    if "WANDB_SWEEP_ID" in os.environ and "WANDB_RUN_ID" in os.environ:
        return f"sweep-{_named('WANDB_SWEEP_ID')}-{_named('WANDB_RUN_ID')}"
    return None


def _named(variable: str) -> str:
    return check_plain(variable, os.environ[variable], "k3x9a")


def launcher_id() -> str | None:
    """An id shared by all processes of an srun or torchrun launch without communication; None otherwise.

    Raises:
        ValueError: if it names no folder, or several nodes share no id.
    """
    if "SLURM_JOB_ID" in os.environ and os.environ.get("SLURM_STEP_ID", "").isdigit() and not in_interactive_shell():
        return f"slurm-{_named('SLURM_JOB_ID')}-{os.environ['SLURM_STEP_ID']}"
    if "TORCHELASTIC_RUN_ID" in os.environ:
        if os.environ["TORCHELASTIC_RUN_ID"] not in ("", "none"):
            name = check_plain("torchrun's --rdzv-id", os.environ["TORCHELASTIC_RUN_ID"], "my_run")
            return f"torchrun-{name}"
        if os.environ.get("LOCAL_WORLD_SIZE") != os.environ.get("WORLD_SIZE"):
            raise ValueError("torchrun over several nodes needs --rdzv-id, or --run_dir naming one shared directory")
        launcher = os.getppid()
        started = Path(f"/proc/{launcher}/stat").read_text().rsplit(")", 1)[1].split()[19]
        return f"torchrun-{launcher}-{started}"
    return None


def in_interactive_shell() -> bool:
    """Whether this process was started by hand in a shell of `srun --pty` or `salloc`, where a job has many runs."""
    if "SLURM_JOB_ID" not in os.environ or int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return False
    return (
        os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
        or os.environ.get("SLURM_STEP_ID") == _INTERACTIVE_STEP
        or "SLURM_PTY_PORT" in os.environ
    )


def train_as_on_a_laptop() -> None:
    """In an interactive shell: makes Lightning start the processes itself, as the shell is one task of the job."""
    if in_interactive_shell():
        os.environ["SLURM_JOB_NAME"] = "interactive"


def in_slurm_job() -> bool:
    """Whether this process belongs to a batch job, rather than to an interactive allocation."""
    batch = os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")
    return "SLURM_JOB_ID" in os.environ and batch and not in_interactive_shell()


def job_id() -> str:
    """The job id for scontrol: of an array task its own, as the array's would requeue all tasks."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]


def launch_id() -> str:
    """An id shared by all ranks of one start of a run."""
    slurm = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    names = (*slurm, "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_PORT")
    return "-".join(os.environ.get(name, "").replace("/", "_") for name in names)


_OF_LAUNCHERS = {
    *("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("LMRECIPES_RUN_DIR", "WANDB_RUN_ID"),
}
# Variables by which launchers identify their processes; a rehearsal's stages must not inherit them.
_LAUNCHERS = ("SLURM_", "TORCHELASTIC_", "PMI_", "PMIX_", "OMPI_", "GROUP_", "ROLE_", "WANDB_SWEEP")


def forget_launcher() -> None:
    """Removes launcher variables, so that child processes are runs of their own."""
    for name in [name for name in os.environ if name.startswith(_LAUNCHERS) or name in _OF_LAUNCHERS]:
        del os.environ[name]
