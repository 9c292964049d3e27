"""Ctrl-C and its kin as one KeyboardInterrupt, which waits while something must not be left half done."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_holds = 0
_came = False


def listen() -> None:
    """From now on the first SIGINT, SIGTERM or SIGHUP raises KeyboardInterrupt; later ones are ignored."""
    global _came
    _came = False
    for number in SIGNALS:
        signal.signal(number, _handle)


@contextmanager
def held() -> Iterator[None]:
    """Within it no KeyboardInterrupt of `listen` is raised; one that came meanwhile is raised after it."""
    global _holds
    came_before = _came
    _holds += 1
    try:
        yield
    finally:
        _holds -= 1
    if not came_before:
        check()


def check() -> None:
    """Raise KeyboardInterrupt where one has come; for loops that wait.

    The first may have been lost: what a signal raises while Python runs a finalizer is printed and forgotten.
    """
    if _came and not _holds:
        raise KeyboardInterrupt


def _handle(number: int, frame: object) -> None:
    global _came
    _came = True
    for each in SIGNALS:  # ignored by the interpreter's own end too
        signal.signal(each, signal.SIG_IGN)
    check()
