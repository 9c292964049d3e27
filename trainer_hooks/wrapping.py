"""Puts something of ours around what somebody else calls, and takes it off again."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

_NOTHING = object()


def put_around(owner: Any, name: str, around: Callable[[Any], Any]) -> Callable[[], None]:
    """Replace `owner.name`, a function of a module, a class or one object, by `around` of it.

    Returns what gives the owner back what it held itself, or inherits. Where somebody has put theirs around
    ours since, it does nothing, and ours stays within. Raises where there is no such function, and for an
    object that takes no attributes.
    """
    original = getattr(owner, name)
    before = vars(owner).get(name, _NOTHING)
    replacement = functools.wraps(original)(around(original))
    setattr(owner, name, replacement)

    def take_off() -> None:
        if vars(owner).get(name) is not replacement:
            return
        if before is _NOTHING:
            delattr(owner, name)
        else:
            setattr(owner, name, before)

    return take_off
