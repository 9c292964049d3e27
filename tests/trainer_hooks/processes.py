"""Real processes to record from: a Python script as one, also with mounts of its own."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RUN = [sys.executable, "-m", "trainer_hooks", "run"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
LAUNCHERS = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "SLURM_", "TORCHELASTIC_", "TRAINVITALS_"),
    *("OMPI_", "PMI_", "PMIX_", "MPI_LOCALRANKID", "MV2_"),
)


def environment(**changes: str) -> dict[str, str]:
    """The environment of a process that no launcher started, with these changes."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(LAUNCHERS)}
    return {**kept, "PYTHONPATH": str(ROOT), **changes}


def command(script: str, folder: Path, *arguments: object, prefix: Sequence[str] = ()) -> list[str]:
    """The command that runs the script, which it lays down in the folder."""
    path = folder / "trainer.py"
    path.write_text(textwrap.dedent(script))
    return [*prefix, sys.executable, str(path), *map(str, arguments)]


@contextlib.contextmanager
def running(
    script: str, folder: Path, *arguments: object, prefix: Sequence[str] = ()
) -> Iterator[subprocess.Popen[str]]:
    """The script as a running process whose output can be read line by line; killed at the end."""
    with started(command(script, folder, *arguments, prefix=prefix)) as process:
        yield process


@contextlib.contextmanager
def started(arguments: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """The command as a running process; killed at the end."""
    process = subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> Any:
    """The next line of the process, as JSON."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "the process ended without a word"
    return json.loads(line)


def ended(
    script: str, folder: Path, *arguments: object, prefix: Sequence[str] = (), **changes: str
) -> tuple[Any, str]:
    """Run the script to its end: the last line it printed, as JSON, and what it wrote to stderr."""
    done = subprocess.run(
        command(script, folder, *arguments, prefix=prefix),
        capture_output=True,
        text=True,
        timeout=240,
        env=environment(**changes),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def done(
    command: Sequence[str], folder: Path, *, standard_input: bytes = b"", **changes: str
) -> subprocess.CompletedProcess[bytes]:
    """The command at its end; it runs in the folder and records below its `recordings`."""
    return subprocess.run(
        command,
        cwd=folder,
        input=standard_input,
        capture_output=True,
        timeout=240,
        env=settings(folder, **changes),
        check=False,
    )


def settings(folder: Path, **changes: str) -> dict[str, str]:
    """The environment of a process that leaves what it writes in the folder."""
    return environment(
        TRAINVITALS_DIR=str(folder / "recordings"),
        XDG_STATE_HOME=str(folder / "state"),
        OMP_NUM_THREADS="1",
        **changes,
    )


def own_mounts() -> list[str]:
    """What to put before a command so that its mounts are its own; skips where the user may not mount."""
    if not _may_mount():
        pytest.skip("needs util-linux's unshare, and root or user namespaces for all, to mount a small tmpfs")
    return _unshare()


def _unshare() -> list[str]:
    return ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else [])]


@functools.cache
def _may_mount() -> bool:
    try:
        attempt = subprocess.run(
            [*_unshare(), "mount", "-t", "tmpfs", "tmpfs", "/tmp"], capture_output=True, check=False
        )
    except FileNotFoundError:
        return False
    return attempt.returncode == 0


def wait_until(condition: Callable[[], bool], timeout_seconds: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.001)
