"""With which code a script leaves, as far as Python can be asked.

Of `sys.exit`, `exit`, `quit` and `os._exit` it is seen; of a `raise SystemExit(code)`, or a `sys.exit` that
somebody took by its name before `watch`, nothing is left when the interpreter ends.
"""

from __future__ import annotations

import _sitebuiltins
import functools
import os
import sys
import threading
from collections.abc import Callable
from time import monotonic_ns
from typing import Any

_left: tuple[int, SystemExit] | None = None  # when, with what
_watched = False


def watch(before_the_end: Callable[[SystemExit], None]) -> None:
    """Note from now on with which code the script leaves; tell of an `os._exit` before it ends all."""
    global _watched
    if not _watched:
        _watched = True
        sys.exit = _noting(sys.exit, 0)
        _sitebuiltins.Quitter.__call__ = _noting(_sitebuiltins.Quitter.__call__, 1)  # type: ignore[method-assign]
        os._exit = _telling(os._exit, before_the_end)


def left_after(since_ns: int) -> SystemExit | None:
    """With what the script left, where that was later than this monotonic time; else it went on."""
    return _left[1] if _left is not None and _left[0] >= since_ns else None


def exit_code(error: SystemExit) -> int:
    """The exit status of a process that such an exception ends: a text is printed, and is a 1."""
    if error.code is None:
        return 0
    return error.code & 0xFF if isinstance(error.code, int) else 1


def _noting(original: Callable[..., Any], place: int) -> Any:
    """`original`, whose argument at this place is the code, with a note of it on the main thread."""

    @functools.wraps(original)
    def leave(*args: Any, **kwargs: Any) -> Any:
        global _left
        if threading.current_thread() is threading.main_thread():  # another one ends alone
            code = args[place] if len(args) > place else kwargs.get("code")
            _left = monotonic_ns(), SystemExit(code)
        return original(*args, **kwargs)

    return leave


def _telling(original: Callable[..., Any], before_the_end: Callable[[SystemExit], None]) -> Any:
    @functools.wraps(original)
    def leave(*args: Any, **kwargs: Any) -> Any:
        code = args[0] if args else kwargs.get("status")
        if isinstance(code, int):
            before_the_end(SystemExit(code))
        return original(*args, **kwargs)

    return leave
