"""Values in the order of the training: one on its way from a device holds up those that came after it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from trainer_hooks.readback import Pending

MOST_WAITING = 256

Apply = Callable[..., None]


class Arrivals:
    """Calls functions with values in the order given, each call when all of its values have arrived.

    A value that does not arrive before the end, or before too many calls wait, is left out: the function gets
    None for it. Nothing here waits or raises.

    Args:
        dropped: told of every value that is left out.
        fault: told of every exception, of a function or a device.
    """

    def __init__(self, dropped: Callable[[], None], fault: Callable[[Exception], None]) -> None:
        self.waiting: deque[tuple[Apply, tuple[Any, ...]]] = deque()
        self._dropped = dropped
        self._fault = fault

    def call(self, apply: Apply, *values: Any) -> None:
        """At once, or after all that wait. Raises what `apply` does where it is at once."""
        if self.waiting or Pending in map(type, values):
            self.wait(apply, *values)
        else:
            apply(*values)

    def wait(self, apply: Apply, *values: Any) -> None:
        """After all that wait, though that may be now."""
        self.waiting.append((apply, values))
        self.drain()

    def drain(self, *, everything: bool = False) -> None:
        """Make the calls whose values have arrived; with `everything`, leave out what has not."""
        while self.waiting:
            apply, values = self.waiting[0]
            if len(self.waiting) <= MOST_WAITING and not everything and not self._arrived(values):
                return
            self.waiting.popleft()
            try:
                apply(*[self._taken(value) for value in values])
            except Exception as error:
                self._fault(error)

    def _arrived(self, values: Iterable[Any]) -> bool:
        try:
            return all(value.arrived() for value in values if isinstance(value, Pending))
        except Exception as error:
            self._fault(error)
            return True  # nothing will come of a device that fails: `_taken` leaves it out

    def _taken(self, value: Any) -> Any:
        if not isinstance(value, Pending):
            return value
        try:
            if value.arrived():
                return value.take()
            value.abandon()
        except Exception as error:
            self._fault(error)
        self._dropped()
        return None
