"""How often something may be done: token buckets, one a caller, the least recently used forgotten first."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

MOST_BUCKETS = 4096


class Buckets:
    """A bucket a key, full at first; each call takes one out, and `per_second` come back."""

    def __init__(
        self,
        per_second: float,
        burst: int,
        *,
        most: int = MOST_BUCKETS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_second = per_second
        self._burst = burst
        self._most = most
        self._clock = clock
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def take(self, key: Hashable) -> float:
        """0 where the call may go on, else the seconds until the next one may."""
        now = self._clock()
        at, left = self._buckets.get(key, (now, float(self._burst)))
        left = min(self._burst, left + (now - at) * self._per_second)
        may_go_on = left >= 1
        self._buckets[key] = (now, left - may_go_on)
        self._buckets.move_to_end(key)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        return 0.0 if may_go_on else (1 - left) / self._per_second
