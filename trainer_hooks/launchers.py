"""What launchers say in a process's environment: which rank it is, and of which launch.

*torchrun*, and what speaks as it does (DeepSpeed, Accelerate, Ray Train, Kubeflow's PyTorchJob), sets RANK,
LOCAL_RANK and WORLD_SIZE; *Open MPI* OMPI_COMM_WORLD_*; *MPICH and Intel MPI* PMI_* and MPI_LOCALRANKID;
*Slurm* SLURM_PROCID, SLURM_LOCALID and SLURM_STEP_NUM_TASKS. They are believed in this order: mpirun within
a Slurm job starts its daemons by srun, whose numbers its ranks inherit. Slurm's are those of a rank only in
a step that srun made: the shell of sbatch and salloc has them, too, and SLURM_NTASKS of the whole job.

All ranks of a launch, on any number of nodes, share the name of their run where the launcher hands them an
id that no other launch has: torchrun's `--rdzv-id` and its own one of `--standalone`, Slurm's job and step,
a PMIx namespace. Else (torchrun with a plain `--master-addr`, Kubernetes' pods, MPICH) those on one node
share it, and each node is a run of its own unless TRAINVITALS_RUN says otherwise; an address and a port are
no id, the next launch may have the same.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

_RANK = ("RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK", "PMI_RANK")
_LOCAL_RANK = ("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID")
_WORLD_SIZE = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "PMI_SIZE")
_FIRST_SPECIAL_STEP = 0xFFFFFFF0  # slurm.h: the batch script's, the interactive shell's, …
_RANDOM_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Place(NamedTuple):
    """Of a process among those of its launch."""

    rank: int
    local_rank: int
    world_size: int


def place(environment: Mapping[str, str] = os.environ) -> Place:
    """The place of this process, 0 of 1 where nobody tells; torch.distributed's where that is initialised."""
    in_step = _slurm_step(environment) is not None
    rank = _number(environment, (*_RANK, *(("SLURM_PROCID",) if in_step else ()), "PMIX_RANK"), 0)
    local_rank = _number(environment, (*_LOCAL_RANK, *(("SLURM_LOCALID",) if in_step else ())), 0)
    size = _number(
        environment, (*_WORLD_SIZE, *(("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS") if in_step else ())), 1
    )
    group = process_group()
    if group is not None:
        rank, size = group.get_rank(), group.get_world_size()
    return Place(rank, local_rank, max(size, rank + 1))


def process_group() -> Any:
    """The module torch.distributed, where this process is one of its default group."""
    distributed = sys.modules.get("torch.distributed")
    joined = distributed is not None and getattr(distributed, "is_initialized", _never)()
    return distributed if joined else None


def is_launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a launcher made this process one of several ranks, or says that it might have."""
    alone = _number(environment, (*_WORLD_SIZE, "SLURM_STEP_NUM_TASKS"), 0) == 1
    ranked = any(key in environment for key in (*_RANK, "PMIX_RANK"))
    return not alone and (ranked or _slurm_step(environment) is not None)


def run_id(environment: Mapping[str, str] = os.environ) -> str | None:
    """What identifies the run, a restart or requeue of it included; None where no launcher tells.

    Of Slurm that is the job (or task of an array) and the step of several tasks. A batch script may start one
    training after the other, each a single task: there it is the job and the command line. At an interactive
    shell it is nothing.
    """
    torchrun = environment.get("TORCHELASTIC_RUN_ID", "none")
    if torchrun not in ("", "none") and not _RANDOM_ID.fullmatch(torchrun):
        return torchrun
    job = environment.get("SLURM_JOB_ID")
    if not job:
        return None
    array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    if array and task:
        job = f"{array}_{task}"
    step = _slurm_step(environment)
    if step is not None and _number(environment, ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"), 1) > 1:
        return f"slurm-{job}.{step}"
    if environment.get("ENVIRONMENT") == "BATCH":
        return f"slurm-{job}-{digest(_command())}"
    return None


def launch_id(environment: Mapping[str, str] = os.environ) -> str | None:
    """An id that the ranks of this launch have and no other; None where they have none in common."""
    torchrun = environment.get("TORCHELASTIC_RUN_ID", "")
    if _RANDOM_ID.fullmatch(torchrun):  # its own, of --standalone
        return torchrun
    return environment.get("PMIX_NAMESPACE") or None


def deadline(environment: Mapping[str, str] = os.environ) -> float | None:
    """The end of the time this training was given, in unix seconds; None where nobody tells.

    TRAINVITALS_DEADLINE, unix seconds or ISO 8601 with its zone, else that of the Slurm job.
    """
    told = environment.get("TRAINVITALS_DEADLINE") or environment.get("SLURM_JOB_END_TIME")
    if not told:
        return None
    try:
        return float(told)
    except ValueError:
        pass
    try:
        from datetime import datetime  # seldom needed

        moment = datetime.fromisoformat(told.replace("Z", "+00:00"))
    except (ImportError, ValueError):
        return None
    return moment.timestamp() if moment.tzinfo else None


def _command() -> str:
    """The command line as all ranks of a node have it."""
    script, *arguments = getattr(sys, "argv", None) or [""]
    common = [each for each in arguments if not each.startswith(("--local-rank", "--local_rank"))]
    return "\0".join([str(Path(script).resolve()), *common])


def _never() -> bool:
    """Whether torch.distributed is initialised that has not even been imported to its end."""
    return False


def digest(text: str) -> str:
    """Eight characters that stand for the text."""
    import hashlib  # OpenSSL, and needed by no run that has an identity

    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:8]


def _slurm_step(environment: Mapping[str, str]) -> int | None:
    """The step that srun made and this process is a task of."""
    step = environment.get("SLURM_STEP_ID", "")
    return int(step) if step.isdecimal() and int(step) < _FIRST_SPECIAL_STEP else None


def _number(environment: Mapping[str, str], keys: tuple[str, ...], default: int) -> int:
    for key in keys:
        value = environment.get(key, "")
        if value.isdecimal():
            return int(value)
    return default
