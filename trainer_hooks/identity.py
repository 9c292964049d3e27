"""Which run, rank and node this process is: from the caller, the launcher's environment, or made up."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

from trainer_hooks import launchers
from trainer_hooks.recording import (
    NAME_PATTERN,
    NotRecordableError,
    boot_id,
    pid_namespace,
    process_start_ticks,
)

_URL = r"[A-Za-z][A-Za-z0-9+.-]*:[/\\]"  # or a drive's letter
_PATH = re.compile(rf"[/~$]|\.{{1,2}}/|{_URL}|.*/.*/|.*\\", re.DOTALL)


class Identity(NamedTuple):
    run: str
    node: str
    rank: int
    local_rank: int
    world_size: int


def identify(
    *, run: str | None = None, name: str | None = None, rank: int | None = None, world_size: int | None = None
) -> Identity:
    """The identity of this process.

    `run` (or TRAINVITALS_RUN) is an identity: the same again is the next attempt. `name` (or
    TRAINVITALS_NAME, or that of the script) is for display and gets a suffix that every rank of one launch
    computes alike, at least on this node: see launchers. Raises NotRecordableError for
    a `run` that could not be a folder and a label.
    """
    run = run or os.environ.get("TRAINVITALS_RUN") or _launcher_run()
    if run is None:
        name = name or os.environ.get("TRAINVITALS_NAME") or _script_name()
        run = f"{sanitize(name)[:50]}-{_launch_suffix()}"
    elif not NAME_PATTERN.fullmatch(run):
        raise NotRecordableError(f"run name {run!r} must match {NAME_PATTERN.pattern}")
    place = launchers.place()
    return Identity(
        run=run,
        node=sanitize(os.uname().nodename)[:64],
        rank=place.rank if rank is None else rank,
        local_rank=place.local_rank,
        world_size=place.world_size if world_size is None else world_size,
    )


def is_worker() -> bool:
    """Whether this process is a helper of a training, not a rank of it: it must not record.

    A multiprocessing child counts as a rank only when somebody set RANK or LOCAL_RANK in the child itself, or
    when it, having been spawned, made itself one of a torch process group.
    """
    process = sys.modules.get("multiprocessing.process")  # of a process that it made, there from the start
    if process is None:
        return False
    if process.parent_process() is None:
        # A spawned child runs the main script once more before it knows its parent.
        return getattr(process.current_process(), "_inheriting", False)
    data = sys.modules.get("torch.utils.data")
    if data is not None and data.get_worker_info() is not None:
        return True
    if launchers.process_group() is not None and "--multiprocessing-fork" in sys.orig_argv:
        return False
    inherited = initial_environment()
    return all(os.environ.get(key) == inherited.get(key) for key in ("RANK", "LOCAL_RANK"))


def sanitize(name: str) -> str:
    """The name with every character a label or a folder could not bear replaced by an underscore."""
    clean = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
    return clean if clean[:1].isalnum() else f"x{clean}"


def without_folders(text: str) -> str:
    """The last component of what looks like a path or a URL, which may name persons; other text as it is.

    A name of a hub, `organisation/model`, has one slash and is no path; no more is a relative path like it.
    """
    if not _PATH.match(text):
        return text
    if re.match(_URL, text):
        text = re.split(r"[?#]", text)[0]  # a query may hold a key
    return re.split(r"[/\\]", text.rstrip("/\\"))[-1].rpartition("@")[2]


def _launcher_run() -> str | None:
    told = launchers.run_id()
    return sanitize(told)[:64] if told else None


def _launch_suffix() -> str:
    # Ranks of one launch are children of one launcher, or of local rank 0 where Lightning starts the others
    # itself and sets no RANK, or of the script that spawns them; a single process is its own launch.
    process = sys.modules.get("multiprocessing.process")
    launched = (
        launchers.is_launched()
        or os.environ.get("LOCAL_RANK", "0") != "0"
        or (process is not None and process.parent_process() is not None)
    )
    pid = (os.getppid() if launched else 0) or os.getpid()  # the first process of a container has no parent
    launch = f"{boot_id()} {pid_namespace()} {pid} {process_start_ticks(pid)}"
    return launchers.digest(launchers.launch_id() or launch)


def _script_name() -> str:
    return Path(sys.argv[0]).stem if sys.argv and sys.argv[0] else "training"


def initial_environment() -> dict[str, str]:
    """The environment this process was started with."""
    try:
        raw = Path("/proc/self/environ").read_bytes().decode(errors="replace")
    except OSError:  # closed after a change of user: as if nobody had set anything since
        return dict(os.environ)
    return dict(entry.split("=", 1) for entry in raw.split("\0") if "=" in entry)
