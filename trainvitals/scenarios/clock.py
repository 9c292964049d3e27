"""The time of a scenario, which passes as it is told to."""

from __future__ import annotations

_LOOK_SECONDS = 0.0005
# Where its monotonic clock stands when a scenario begins: a machine that was booted days ago.
_BOOTED_SECONDS_AGO = 1_000_000


class Clock:
    """Both clocks of every node. Each look at them takes half a millisecond, so that work takes time."""

    def __init__(self, start: float) -> None:
        """`start` in unix seconds."""
        self.now = start
        self._booted = start - _BOOTED_SECONDS_AGO

    def set(self, now: float) -> None:
        """Go on to this moment, in unix seconds."""
        self.now = now

    def wall(self) -> float:
        self.now += _LOOK_SECONDS
        return self.now

    def monotonic(self) -> float:
        return self.wall() - self._booted

    def monotonic_ns(self) -> int:
        return self.nanoseconds(self.wall())

    def nanoseconds(self, wall: float) -> int:
        """What the monotonic clock shows at this moment."""
        return round((wall - self._booted) * 1e9)
