"""Puts something of ours around what somebody else calls, and takes it off again."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

_NOTHING = object()


def put_around(owner: Any, name: str, around: Callable[[Any], Any], *others: Any) -> Callable[[], None]:
    """Replace `owner.name`, a function of a module, a class or one object, by `around` of it.

    Where `others` have the same one they get the same: a function is pickled as what its module has. Returns
    what gives each owner back what it held itself, or inherits. Where somebody has put theirs around ours
    since, it does nothing, and ours stays within. Raises where there is no such function, and for an object
    that takes no attributes.
    """
    original = getattr(owner, name)
    replacement = functools.wraps(original)(around(original))
    if inspect.ismodule(owner) and original.__name__ != name:  # another's alias
        replacement.__module__, replacement.__qualname__ = owner.__name__, name
    held = []
    for each in (owner, *others):
        if getattr(each, name) is original or each is owner:
            held.append((each, vars(each).get(name, _NOTHING)))
            setattr(each, name, replacement)

    def take_off() -> None:
        for each, before in held:
            if vars(each).get(name) is not replacement:
                continue
            if before is _NOTHING:
                delattr(each, name)
            else:
                setattr(each, name, before)

    return take_off
