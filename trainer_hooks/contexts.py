"""What `Monitor.phase` and `Monitor.step` hand out: classes with slots, half as dear as generators."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer_hooks.recording import PHASE_CODES

if TYPE_CHECKING:
    from trainer_hooks.monitor import Monitor

_COMPUTE, _OTHER = PHASE_CODES["compute"], PHASE_CODES["other"]


class PhaseContext:
    """A phase for a time. One of each serves all entries of a Monitor, nested ones too."""

    __slots__ = ("_before", "_code", "_monitor")

    def __init__(self, monitor: Monitor, code: int) -> None:
        self._monitor = monitor
        self._code = code
        self._before: list[int] = []

    def __enter__(self) -> None:
        self._before.append(self._monitor.active_phase)
        self._monitor.enter(self._code)

    def __exit__(self, *exception: object) -> None:
        self._monitor.enter(self._before.pop())


class StepContext:
    """An optimizer step: phase compute within, phase other after it. An exception ends no step."""

    __slots__ = ("_monitor",)

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def __enter__(self) -> None:
        self._monitor.enter(_COMPUTE)

    def __exit__(self, kind: object, error: BaseException | None, place: object) -> None:
        if error is None:
            self._monitor.end_step()
        else:
            self._monitor.passes(error)
        self._monitor.enter(_OTHER)
