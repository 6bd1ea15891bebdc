"""Checks of a SLURM job: whether it fits the recipe, and whether its tasks can connect."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from lmrecipes.diagnostics.machine import Finding


def tasks() -> int:
    """Tasks of the step that this process belongs to; 1 outside of one."""
    return int(os.environ.get("SLURM_NTASKS", "1")) if "SLURM_PROCID" in os.environ else 1


def job(nodes: int | None, devices: int | None) -> Iterator[Finding]:
    """Compares a SLURM job with a recipe.

    Args:
        nodes: trainer.num_nodes, None without a recipe.
        devices: devices per node by trainer.devices, None if it leaves that open.
    """
    environment = os.environ
    yield Finding(
        "slurm job", f"{environment['SLURM_JOB_ID']} on {environment.get('SLURM_JOB_NODELIST', 'unknown nodes')}"
    )
    if environment.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        name = environment["SLURM_JOB_NAME"]
        yield Finding(
            "job name", f"Lightning treats a job named {name} as interactive", fix="srun --job-name=lmrecipes …"
        )
    elif "SLURM_STEP_ID" not in environment or "SLURM_PROCID" not in environment:
        yield Finding("launch", "not by srun, so there is only one process", fix="srun lmrecipes …")
    per_node = _tasks_per_node()
    if nodes is not None and (n_nodes := int(environment.get("SLURM_NNODES", "1"))) != nodes:
        yield Finding(
            "nodes",
            f"{n_nodes} in the job, {nodes} in trainer.num_nodes",
            fix=f"sbatch --nodes={nodes} …, or --trainer.num_nodes={n_nodes}",
        )
    if devices is not None and per_node is not None and per_node != devices:
        yield Finding(
            "tasks per node",
            f"{per_node} in the job, {devices} in trainer.devices",
            fix=f"sbatch --ntasks-per-node={devices} …, or --trainer.devices={per_node}",
        )
    if tasks() > 1 and "SLURM_NTASKS_PER_NODE" not in environment:
        yield Finding("tasks", "given by --ntasks", fix=f"sbatch --ntasks-per-node={per_node or 'N'} … instead")
    if not shutil.which("scontrol"):
        yield Finding("scontrol", "not found, so jobs cannot requeue themselves", fix="put SLURM's commands on PATH")


def _tasks_per_node() -> int | None:
    """Parses 2(x3) and the like, if all nodes have the same number."""
    value = os.environ.get("SLURM_STEP_TASKS_PER_NODE") or os.environ.get("SLURM_TASKS_PER_NODE", "")
    match = re.fullmatch(r"(\d+)(?:\(x\d+\))?", value)
    return int(match.group(1)) if match else None


def rendezvous(seconds: float) -> tuple[Finding, Any]:
    """Connects all tasks of the step as training would.

    Returns:
        The result, and the process group if they connected.
    """
    from lightning.fabric.plugins.environments import SLURMEnvironment

    place, limit = "no address", timedelta(seconds=seconds)
    try:
        environment = SLURMEnvironment(auto_requeue=False)
        place = f"{environment.main_address}:{environment.main_port}"
        dist.init_process_group(
            "gloo",
            init_method=f"tcp://{place}",
            rank=environment.global_rank(),
            world_size=environment.world_size(),
            timeout=limit,
        )
        n_connected = torch.ones(1)
        dist.all_reduce(n_connected)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        return (
            Finding(
                "rendezvous",
                f"not all {tasks()} tasks met at {place} in {seconds:g} s: {reason}",
                fix="export MASTER_ADDR (an address of the first node that all reach), MASTER_PORT (a free port), "
                "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME (the network between nodes, see `ip addr`)",
            ),
            None,
        )
    return Finding("rendezvous", f"{int(n_connected)} tasks met at {place}"), dist.group.WORLD
