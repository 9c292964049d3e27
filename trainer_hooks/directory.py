"""Where recordings live, and how long."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISDIR

from trainer_hooks import recording

NEEDED_FREE_BYTES = 256 << 20  # filling a container's /dev/shm kills DataLoader workers
KEPT_SECONDS = 26 * 3600
KEPT_RUNS = 20
MOST_RUNS = 200


def candidates() -> list[Path]:
    """Every place a recording may be in, the preferred first; `$TRAINVITALS_DIR` stands alone."""
    chosen = os.environ.get("TRAINVITALS_DIR")
    if chosen:
        return [Path(chosen)]
    return [*_temporary_file_systems(), Path("/run/trainvitals"), _state_directory()]


def choose_directory() -> Path:
    """The directory a recorder of this process writes to.

    A tmpfs with room first, since a store into a mapping of a busy disk can wait; then what is writable.
    Raises OSError with a sentence when nothing is.
    """
    chosen = os.environ.get("TRAINVITALS_DIR")
    if chosen:
        directory = Path(chosen)
        if not _usable(directory):
            raise OSError(f"TRAINVITALS_DIR={chosen} cannot be written; make it or choose another")
        return directory
    for directory in _temporary_file_systems():
        if _usable(directory) and _is_tmpfs(directory) and _free_bytes(directory) >= NEEDED_FREE_BYTES:
            return directory
    for directory in (Path("/run/trainvitals"), _state_directory()):
        if _usable(directory):
            return directory
    raise OSError("no directory for recordings can be written; set TRAINVITALS_DIR to one")


def _temporary_file_systems() -> list[Path]:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return [
        Path("/run/trainvitals"),
        *([Path(runtime) / "trainvitals"] if runtime else []),
        Path(f"/dev/shm/trainvitals-{os.getuid()}"),
    ]


def _state_directory() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "trainvitals"


def _usable(directory: Path) -> bool:
    """Whether the directory can be written; all but /run/trainvitals is made where it is missing."""
    if directory != Path("/run/trainvitals"):
        with contextlib.suppress(OSError):
            directory.mkdir(mode=0o750, parents=True, exist_ok=True)
    if not os.access(directory, os.W_OK | os.X_OK):
        return False
    # In a directory all may write, another user could have laid this one out for us.
    return directory.parent != Path("/dev/shm") or directory.stat().st_uid == os.getuid()


def _is_tmpfs(directory: Path) -> bool:
    return recording.file_system(directory) == "tmpfs"


def _free_bytes(directory: Path) -> int:
    volume = os.statvfs(directory)
    return volume.f_bavail * volume.f_frsize


def prune(directory: Path, *, now: float | None = None) -> list[str]:
    """Remove this user's old runs and return their names.

    A run goes when it has ended, gave its last sign over 26 hours ago and is not among the newest 20; beyond
    the newest 200 an ended run goes at any age. `now` is wall time in seconds.
    """
    now = time.time() if now is None else now
    runs = []
    with contextlib.suppress(OSError):
        for folder in directory.iterdir():
            with contextlib.suppress(OSError, recording.RecordingError):
                if recording.NAME_PATTERN.fullmatch(folder.name) and S_ISDIR(folder.lstat().st_mode):
                    runs.append((_last_sign(folder), folder))
    runs.sort(reverse=True)
    removed = []
    for position, (last_sign, folder) in enumerate(runs):
        old = now - last_sign > KEPT_SECONDS and position >= KEPT_RUNS
        with contextlib.suppress(OSError):  # another rank may be removing the same one
            if (old or position >= MOST_RUNS) and _is_ours(folder) and not _has_life(folder):
                shutil.rmtree(folder, ignore_errors=True)
                removed.append(folder.name)
    return removed


def _last_sign(folder: Path) -> float:
    """Wall time in seconds of a run's last sign of life: a store into a mapping does not show in a file's."""
    times = [path.stat().st_mtime for path in folder.rglob("*")]
    for reader in _readers(folder):
        static = reader.static
        elapsed_ns = reader.live().last_sign_ns - static.start_monotonic_ns
        times.append((static.start_wall_ns + elapsed_ns) / 1e9)
    return max(times, default=folder.stat().st_mtime)


def _is_ours(folder: Path) -> bool:
    return folder.stat().st_uid == os.getuid()


def _has_life(folder: Path) -> bool:
    return any(reader.alive() for reader in _readers(folder))


def _readers(folder: Path) -> Iterator[recording.RecordingReader]:
    """Readers of a run's recordings, each open until the next; those that cannot be read are passed over."""
    for path in folder.glob("*/rank-*.steps"):
        with (
            contextlib.suppress(recording.RecordingError),
            contextlib.closing(recording.RecordingReader(path)) as reader,
        ):
            yield reader
