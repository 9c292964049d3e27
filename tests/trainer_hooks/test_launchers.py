"""What is made of the environments of launchers, as they were seen to set them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainer_hooks.processes import ended, environment
from trainer_hooks import launchers
from trainer_hooks.launchers import Place

TORCHRUN = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "TORCHELASTIC_RUN_ID": "none"}
STANDALONE = "0b2c6a5e-52a4-4f0f-9a63-2f5f3c1c7a11"
SBATCH_SHELL = {
    "SLURM_JOB_ID": "42",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "ENVIRONMENT": "BATCH",
}
SALLOC_SHELL = {"SLURM_JOB_ID": "42", "SLURM_NTASKS": "8", "SLURM_JOB_NAME": "interactive"}
STEP = {
    **SBATCH_SHELL,
    "SLURM_STEP_ID": "3",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_PROCID": "6",
    "SLURM_LOCALID": "2",
}
BASH_BY_SRUN = {**SALLOC_SHELL, "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}
ORTED_STEP = {**STEP, "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}
OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4"}
INTEL_MPI = {"PMI_RANK": "3", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1"}


@pytest.mark.parametrize(
    ("told", "place"),
    [
        ({}, Place(0, 0, 1)),
        (TORCHRUN, Place(5, 1, 8)),
        ({"RANK": "1", "WORLD_SIZE": "2"}, Place(1, 0, 2)),
        (STEP, Place(6, 2, 8)),
        ({**STEP, **TORCHRUN}, Place(5, 1, 8)),
        (SBATCH_SHELL, Place(0, 0, 1)),
        ({**SBATCH_SHELL, "SLURM_STEP_ID": str(0xFFFFFFFB)}, Place(0, 0, 1)),
        (SALLOC_SHELL, Place(0, 0, 1)),
        ({**SALLOC_SHELL, "SLURM_STEP_ID": "4294967290", "SLURM_PROCID": "0"}, Place(0, 0, 1)),
        (BASH_BY_SRUN, Place(0, 0, 1)),
        (OPEN_MPI, Place(3, 1, 4)),
        ({**ORTED_STEP, **OPEN_MPI}, Place(3, 1, 4)),
        (INTEL_MPI, Place(3, 1, 4)),
        ({**ORTED_STEP, **INTEL_MPI}, Place(3, 1, 4)),
        ({"PMIX_RANK": "2"}, Place(2, 0, 3)),
        ({"RANK": "first", "WORLD_SIZE": "-1"}, Place(0, 0, 1)),
        ({"JOB_COMPLETION_INDEX": "4"}, Place(0, 0, 1)),
    ],
    ids=[
        "none",
        "torchrun",
        "kubeflow",
        "srun",
        "torchrun in srun",
        "sbatch",
        "the step of sbatch",
        "salloc",
        "the step of salloc",
        "a shell by srun",
        "open mpi",
        "open mpi in slurm",
        "intel mpi",
        "intel mpi in slurm",
        "pmix alone",
        "no numbers",
        "an indexed job",
    ],
)
def test_ranks_are_those_of_the_launcher_that_made_them(told: dict[str, str], place: Place) -> None:
    assert launchers.place(told) == place


ARRAY_TASK = {"SLURM_JOB_ID": "44", "SLURM_ARRAY_JOB_ID": "42", "SLURM_ARRAY_TASK_ID": "2"}


@pytest.mark.parametrize(
    ("told", "run"),
    [
        ({}, None),
        (TORCHRUN, None),
        ({**TORCHRUN, "TORCHELASTIC_RUN_ID": "sweep-7"}, "sweep-7"),
        ({**TORCHRUN, "TORCHELASTIC_RUN_ID": STANDALONE}, None),
        (STEP, "slurm-42.3"),
        ({**STEP, "SLURM_RESTART_COUNT": "2"}, "slurm-42.3"),
        ({**STEP, **ARRAY_TASK}, "slurm-42_2.3"),
        ({**STEP, **TORCHRUN}, "slurm-42.3"),
        (SALLOC_SHELL, None),
        (BASH_BY_SRUN, None),
        (OPEN_MPI, None),
    ],
)
def test_a_run_is_identified_by_what_outlives_a_restart_and_nothing_else_shares(
    told: dict[str, str], run: str | None
) -> None:
    assert launchers.run_id(told) == run


def test_trainings_of_one_batch_script_are_told_apart_by_their_commands_and_found_again_after_a_requeue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(*arguments: str, **more: str) -> str | None:
        monkeypatch.setattr(sys, "argv", list(arguments))
        return launchers.run_id({**SBATCH_SHELL, **more})

    first = run("train.py", "--seed", "1")
    assert first is not None
    assert first.startswith("slurm-42-")
    assert run("train.py", "--seed", "2") != first
    assert run(str(Path("train.py").absolute()), "--seed", "1", SLURM_RESTART_COUNT="1") == first
    assert run("train.py", "--seed", "1", "--local-rank=1", **TORCHRUN) == first


@pytest.mark.parametrize(
    ("told", "launch"),
    [
        ({}, None),
        (TORCHRUN, None),
        ({**TORCHRUN, "TORCHELASTIC_RUN_ID": STANDALONE}, STANDALONE),
        ({**OPEN_MPI, "PMIX_NAMESPACE": "prterun-node1-4711@1"}, "prterun-node1-4711@1"),
        ({**TORCHRUN, "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}, None),
    ],
)
def test_ranks_of_all_nodes_share_a_launch_where_its_id_is_its_own(
    told: dict[str, str], launch: str | None
) -> None:
    assert launchers.launch_id(told) == launch


def test_ranks_of_one_torchrun_are_one_run_with_the_ranks_of_its_processes(tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(
        "import json\n"
        "from trainer_hooks.identity import identify\n"
        "who = identify(name='m')\n"
        "print(f'who {json.dumps(who)}\\n', end='', flush=True)  # one write: the ranks share the pipe\n"
    )
    launched = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    runs = set()
    for _ in range(2):
        done = subprocess.run(
            [*launched, str(script)],
            capture_output=True,
            text=True,
            env=environment(),
            timeout=120,
            check=True,
        )
        told = [line.split(" ", 1)[1] for line in done.stdout.splitlines() if line.startswith("who ")]
        who = sorted(json.loads(line)[2:] for line in told)
        assert who == [[0, 0, 2], [1, 1, 2]]
        (run,) = {json.loads(line)[0] for line in told}
        runs.add(run)
    assert len(runs) == 2


def test_torch_distributed_where_it_is_initialised_knows_better_than_the_environment(tmp_path: Path) -> None:
    script = """
    import json, os, sys
    from trainer_hooks.identity import identify

    os.environ.update(RANK="5", WORLD_SIZE="8")
    before = identify(run="r")
    assert "torch" not in sys.modules
    import torch.distributed
    store = torch.distributed.HashStore()
    imported = identify(run="r")
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=store)
    print(json.dumps([before, imported, identify(run="r"), identify(run="r", rank=3, world_size=4)]))
    """
    numbers = [(who[2], who[4]) for who in ended(script, tmp_path)[0]]
    assert numbers == [(5, 8), (5, 8), (0, 1), (3, 4)]


@pytest.mark.parametrize(
    ("told", "deadline"),
    [
        ({}, None),
        ({"SLURM_JOB_END_TIME": "1795659374"}, 1795659374.0),
        ({"SLURM_JOB_END_TIME": "1795659374", "TRAINVITALS_DEADLINE": "1795650000"}, 1795650000.0),
        ({"TRAINVITALS_DEADLINE": "2026-11-26T02:16:14Z"}, 1795659374.0),
        ({"TRAINVITALS_DEADLINE": "2026-11-26T03:16:14+01:00"}, 1795659374.0),
        ({"TRAINVITALS_DEADLINE": "2026-11-26T02:16:14"}, None),  # nobody knows of which zone
        ({"TRAINVITALS_DEADLINE": "tomorrow"}, None),
        ({"SLURM_JOB_END_TIME": "UNLIMITED"}, None),
    ],
)
def test_the_end_of_the_time_is_told_by_the_user_or_by_slurm(
    told: dict[str, str], deadline: float | None
) -> None:
    assert launchers.deadline(told) == deadline
