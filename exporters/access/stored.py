"""Files that decide who comes in: read anew when they change, refused when others could have written them."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from stat import S_IMODE, S_ISREG
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

MOST_BYTES = 4_000_000
OTHERS_WRITE = 0o022
OTHERS_AT_ALL = 0o077

T = TypeVar("T")
Signature = tuple[int, int, int, int]


class StoredFile(Generic[T]):
    """What a file says at present. A look costs one `stat` as long as the file is the same."""

    def __init__(self, path: Path, parse: Callable[[bytes], T], nothing: T, *, forbidden_mode: int) -> None:
        """`nothing` stands in for a file that cannot be used; `parse` raises ValueError with a sentence."""
        self.path = path
        self._parse = parse
        self._nothing = nothing
        self._problem: str | None = None
        self._forbidden_mode = forbidden_mode
        self._signature: Signature | None = None
        self._value = nothing

    @property
    def value(self) -> T:
        problem = None
        try:
            if _signature(self.path.stat()) == self._signature:
                return self._value
            data, self._signature = read_private(self.path, self._forbidden_mode)
            self._value = self._parse(data)
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
        except ValueError as error:
            problem = str(error)
        if problem is not None:
            self._value, self._signature = self._nothing, None
        self._tell(problem)
        return self._value

    def check(self) -> None:
        """Raises ValueError with a sentence where the file cannot be used at present."""
        _ = self.value
        if self._problem is not None:
            raise ValueError(f"{self.path} {self._problem}")

    def _tell(self, problem: str | None) -> None:
        """Once, not with every request."""
        if problem == self._problem:
            return
        if problem is None:
            logger.info("%s can be used again", self.path)
        else:
            logger.error("%s %s; until that is mended it lets nobody in", self.path, problem)
        self._problem = problem


def read_private(path: Path, forbidden_mode: int) -> tuple[bytes, Signature]:
    """The bytes of a file that is this user's or root's, and which one it was.

    Raises OSError where it cannot be read, ValueError with a sentence where somebody else could have written
    it (or read it: `forbidden_mode`), or where it is no file of a size one reads.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with contextlib.closing(os.fdopen(descriptor, "rb")) as file:
        found = os.fstat(descriptor)
        if not S_ISREG(found.st_mode) or found.st_size > MOST_BYTES:
            raise ValueError("is no file of a usual size")
        if found.st_uid not in (0, os.geteuid()):
            raise ValueError("belongs to another user; make it your own, or choose another file")
        if found.st_mode & forbidden_mode:
            raise ValueError(
                f"is open to others (mode {S_IMODE(found.st_mode):04o}); close it with chmod 600 {path}"
            )
        return file.read(), _signature(found)


def write_private(path: Path, data: bytes, *, replace: bool) -> None:
    """Put a whole file of mode 0600 there at once; raises FileExistsError unless it is to be replaced.

    After a power cut the one before may be there again, unless the folder is synchronized.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        if replace:
            temporary.replace(path)
        else:
            path.hardlink_to(temporary)
    finally:
        temporary.unlink(missing_ok=True)


def synchronize(folder: Path) -> None:
    """Have the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _signature(found: os.stat_result) -> Signature:
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size
