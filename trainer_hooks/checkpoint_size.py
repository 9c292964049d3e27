"""How large a checkpoint is, where it may lie among others, and how much room it leaves on its volume."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISDIR
from typing import NamedTuple

_MOST_ENTRIES = 10_000  # of a folder, beyond which to look at them would take long

_Entry = tuple[int, int, int]  # what a file that is written anew has no more: inode, change, size


class Volume(NamedTuple):
    """A file system, in bytes: how large it is, and what a process without privileges can still take."""

    size_bytes: int
    free_bytes: int


class CheckpointSize:
    """The bytes at `path`: of the file, or of the files in the folder that change from now on.

    Those within its folders count too, and no deeper ones: where such a folder has changed, the size is not
    known, nor is it of a URL or a stream. Raises nothing.
    """

    def __init__(self, path: object) -> None:
        self._path = path
        self._before = self._entries()

    def read(self) -> int:
        """The size now; 0 where it is not known."""
        with contextlib.suppress(OSError, TypeError, ValueError):
            path = Path(self._path)  # type: ignore[arg-type]
            if not path.is_dir():
                return path.stat().st_size
        before, now = self._before, self._entries()
        if before is None or now is None:
            return 0
        new = [(path, entry) for path, entry in now.items() if before.get(path) != entry]
        return 0 if any(entry[2] < 0 for _, entry in new) else sum(entry[2] for _, entry in new)

    def _entries(self) -> dict[str, _Entry] | None:
        """By path: files, and with a size of -1 the folders too deep to look into; None if unknown."""
        found: dict[str, _Entry] = {}
        try:
            path = Path(self._path)  # type: ignore[arg-type]
            if path.is_dir():
                for count, (each, deep) in enumerate(_within(path)):
                    if count >= _MOST_ENTRIES:
                        return None
                    state = each.stat()
                    if not S_ISDIR(state.st_mode):
                        found[each.path] = state.st_ino, state.st_ctime_ns, state.st_size
                    elif deep:
                        found[each.path] = state.st_ino, state.st_ctime_ns, -1
        except (OSError, TypeError, ValueError):
            return None
        return found


def volume_of(path: object) -> Volume | None:
    """The file system at `path`; None where that is not known, as of a URL or a stream. Raises nothing."""
    with contextlib.suppress(OSError, TypeError, ValueError):
        place = Path(path)  # type: ignore[arg-type]
        try:
            state = os.statvfs(place)
        except FileNotFoundError:  # another rank is still writing it
            state = os.statvfs(place.parent)
        if state.f_blocks > 0:  # else one that does not tell
            return Volume(state.f_blocks * state.f_frsize, state.f_bavail * state.f_frsize)
    return None


def _within(folder: Path) -> Iterator[tuple[os.DirEntry[str], bool]]:
    """What is in the folder, and in its folders, which is told beside it."""
    folders = []
    with os.scandir(folder) as entries:
        for each in entries:
            yield each, False
            if each.is_dir(follow_symlinks=False):
                folders.append(each.path)
    for path in folders:
        with os.scandir(path) as entries:
            for each in entries:
                yield each, True
