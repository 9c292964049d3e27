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
    for number in SIGNALS:
        signal.signal(number, _handle)


@contextmanager
def held() -> Iterator[None]:
    """Within it no KeyboardInterrupt of `listen` is raised; one that came meanwhile is raised after it."""
    global _holds
    _holds += 1
    try:
        yield
    finally:
        _holds -= 1
    if _came:
        _raise()


def _handle(number: int, frame: object) -> None:
    global _came
    _came = True
    if not _holds:
        _raise()


def _raise() -> None:
    global _came
    _came = False
    for number in SIGNALS:  # ignored by the interpreter's own end too
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
