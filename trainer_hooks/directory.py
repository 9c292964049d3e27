"""Where recordings live, and how long."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISDIR

from trainer_hooks import recording

NEEDED_FREE_BYTES = 256 << 20  # filling a container's /dev/shm kills DataLoader workers
KEPT_SECONDS = 26 * 3600
KEPT_RUNS = 20
MOST_RUNS = 200
# Recordings, their events, and what a recorder that died while it opened has left.
_RECORDERS_FILE = re.compile(r"\.?rank-\d{1,7}\.\d{1,7}\.(steps|events\.jsonl|[0-9a-f]{8}\.tmp)")


def candidates() -> list[Path]:
    """Every place a recording may be in, the preferred first; `$TRAINVITALS_DIR` stands alone."""
    chosen = os.environ.get("TRAINVITALS_DIR")
    if chosen:
        return [Path(chosen)]
    return [*_temporary_file_systems(), Path("/run/trainvitals"), state_directory()]


def choose_directory() -> Path:
    """The directory a recorder of this process writes to.

    A tmpfs with room first, since a store into a mapping of a busy disk can wait; then what is writable.
    Raises NotRecordableError when nothing is.
    """
    chosen = os.environ.get("TRAINVITALS_DIR")
    if chosen:
        directory = Path(chosen)
        if not _usable(directory):
            raise recording.NotRecordableError(
                f"TRAINVITALS_DIR={chosen} cannot be written; make it or choose another"
            )
        return directory
    for directory in _temporary_file_systems():
        if _usable(directory) and _is_tmpfs(directory) and _free_bytes(directory) >= NEEDED_FREE_BYTES:
            return directory
    for directory in (Path("/run/trainvitals"), state_directory()):
        if _usable(directory):
            return directory
    raise recording.NotRecordableError(
        "no directory for recordings can be written; set TRAINVITALS_DIR to one"
    )


def _temporary_file_systems() -> list[Path]:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return [
        Path("/run/trainvitals"),
        *([Path(runtime) / "trainvitals"] if runtime else []),
        Path(f"/dev/shm/trainvitals-{os.getuid()}"),
    ]


def state_directory() -> Path:
    """This user's directory for what outlives a reboot."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "trainvitals"


def _usable(directory: Path) -> bool:
    """Whether the directory can be written; all but /run/trainvitals is made where it is missing."""
    if directory != Path("/run/trainvitals"):
        with contextlib.suppress(OSError):
            directory.mkdir(mode=0o750, parents=True, exist_ok=True)
    if not os.access(directory, os.W_OK | os.X_OK):
        return False
    # In a directory all may write, another user could have laid this one out for us.
    found = directory.lstat()
    return directory.parent != Path("/dev/shm") or (S_ISDIR(found.st_mode) and found.st_uid == os.getuid())


def _is_tmpfs(directory: Path) -> bool:
    return recording.file_system(directory) == "tmpfs"


def _free_bytes(directory: Path) -> int:
    volume = os.statvfs(directory)
    return volume.f_bavail * volume.f_frsize


def prune(directory: Path, *, now: float | None = None) -> list[str]:
    """Remove this user's old runs and return their names; what is no recording is never touched.

    A run goes when it has ended, gave its last sign over 26 hours ago and is not among the newest 20; beyond
    the newest 200 an ended run goes at any age. `now` is wall time in seconds.
    """
    now = time.time() if now is None else now
    runs = []
    with contextlib.suppress(OSError):
        for folder in directory.iterdir():
            with contextlib.suppress(OSError, recording.RecordingError):
                files = _files(folder)
                if files:
                    runs.append((_last_sign(files), folder, files))
    runs.sort(reverse=True)
    removed = []
    for position, (last_sign, folder, files) in enumerate(runs):
        old = now - last_sign > KEPT_SECONDS and position >= KEPT_RUNS
        with contextlib.suppress(OSError):  # another rank may be removing the same one
            if (old or position >= MOST_RUNS) and _is_ours(folder) and not _has_life(files):
                _remove(folder, files)
                removed.append(folder.name)
    return removed


def _files(folder: Path) -> list[Path]:
    """The recordings' files in a folder; none when it is not that of a run."""
    if not recording.NAME_PATTERN.fullmatch(folder.name) or not S_ISDIR(folder.lstat().st_mode):
        return []
    nodes = [node for node in folder.iterdir() if S_ISDIR(node.lstat().st_mode)]
    return [path for node in nodes for path in node.iterdir() if _RECORDERS_FILE.fullmatch(path.name)]


def _remove(folder: Path, files: list[Path]) -> None:
    for path in files:
        path.unlink(missing_ok=True)
    for empty in (*{path.parent for path in files}, folder):
        with contextlib.suppress(OSError):  # it holds what is not ours
            empty.rmdir()


def _last_sign(files: list[Path]) -> float:
    """Wall time in seconds of a run's last sign of life: a store into a mapping does not show in a file's."""
    times = [path.lstat().st_mtime for path in files]
    for reader in _readers(files):
        static = reader.static
        elapsed_ns = reader.live().last_sign_ns - static.start_monotonic_ns
        times.append((static.start_wall_ns + elapsed_ns) / 1e9)
    return max(times)


def _is_ours(folder: Path) -> bool:
    return folder.lstat().st_uid == os.getuid()


def _has_life(files: list[Path]) -> bool:
    return any(reader.alive() for reader in _readers(files))


def _readers(files: list[Path]) -> Iterator[recording.RecordingReader]:
    """Readers of a run's recordings, each open until the next; those that cannot be read are passed over."""
    for path in files:
        with (
            contextlib.suppress(recording.RecordingError),
            contextlib.closing(recording.RecordingReader(path)) as reader,
        ):
            yield reader
