"""Puts something of ours around what somebody else calls, and takes it off again."""

from __future__ import annotations

import functools
import inspect
from _thread import allocate_lock
from collections.abc import Callable
from typing import Any

_NOTHING = object()
_STACK = "_trainvitals_stack"
_LONGEST_WAIT_SECONDS = 1.0  # for a change made by another thread; in a forked child that is not there

_changing = allocate_lock()

Around = Callable[[Any], Any]


def put_around(owner: Any, name: str, around: Around, *others: Any) -> Callable[[], None]:
    """Replace `owner.name`, a function of a module, a class or one object, by `around` of it.

    Where `others` have the same one they get the same: a function is pickled as what its module has. Several
    are around the same function in the order of these calls, and are taken off in any. `around` is asked
    anew whenever one below it comes off.

    Returns what takes this one off, and after the last gives each owner back what it held itself, or
    inherits. Where somebody has put theirs around ours since, it does nothing, and ours stays within. Raises
    where there is no such function, and for an object that takes no attributes.
    """
    layer = functools.partial(around)  # an object of its own, however often the same is put around
    with_lock = _changing.acquire(timeout=_LONGEST_WAIT_SECONDS)
    try:
        stack = _stack_of(owner, name) or _Stack(owner, name, others)
        take_off = functools.partial(_take_off, stack, layer)
        stack.change([*stack.layers, layer])
    finally:
        if with_lock:
            _changing.release()
    return take_off


def _take_off(stack: _Stack, layer: Around) -> None:
    with_lock = _changing.acquire(timeout=_LONGEST_WAIT_SECONDS)
    try:
        if layer in stack.layers and stack.is_uppermost():
            stack.change([each for each in stack.layers if each is not layer])
    finally:
        if with_lock:
            _changing.release()


class _Stack:
    """All of ours that is around one function."""

    def __init__(self, owner: Any, name: str, others: tuple[Any, ...]) -> None:
        self.layers: list[Around] = []
        self.replacement: Any = None
        self._name = name
        self._original = getattr(owner, name)
        owners = [owner, *(each for each in others if getattr(each, name) is self._original)]
        self._held = [(each, vars(each).get(name, _NOTHING)) for each in owners]
        # A module's name for what another module calls otherwise is pickled by that name, too.
        self._is_alias = inspect.ismodule(owner) and self._original.__name__ != name

    def is_uppermost(self) -> bool:
        """Whether nobody has put theirs around ours, at one of its owners at least."""
        return any(vars(owner).get(self._name) is self.replacement for owner, _ in self._held)

    def change(self, layers: list[Around]) -> None:
        """Have just these around the function, at each owner where nobody has put theirs around ours."""
        replacement = self._composed(layers) if layers else _NOTHING
        for owner, before in self._held:
            if self.layers and vars(owner).get(self._name) is not self.replacement:
                continue
            now = before if replacement is _NOTHING else replacement
            if now is _NOTHING:
                delattr(owner, self._name)
            else:
                setattr(owner, self._name, now)
        self.layers, self.replacement = layers, replacement

    def _composed(self, layers: list[Around]) -> Any:
        composed = self._original
        for layer in layers:
            composed = layer(composed)
        functools.update_wrapper(composed, self._original)
        if self._is_alias:
            composed.__module__, composed.__qualname__ = self._held[0][0].__name__, self._name
        setattr(composed, _STACK, self)
        return composed


def _stack_of(owner: Any, name: str) -> _Stack | None:
    """Ours, where it is uppermost; a stranger's wrapper may have copied our attribute."""
    there = vars(owner).get(name)
    stack: _Stack | None = getattr(there, _STACK, None)
    return stack if stack is not None and stack.replacement is there else None
