"""Which optimizer's steps count, and what becomes of the micro-batches before each step."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

from trainer_hooks import readback
from trainer_hooks.monitor import Monitor
from trainer_hooks.torch_window import Window

_PATIENCE = 10


class Steps:
    """The steps of the leading optimizer: the first that stepped.

    Another one takes over when the leader is gone, or has not stepped while the other did so `_PATIENCE`
    times.
    """

    def __init__(self, monitor: Monitor, window: Window) -> None:
        self._monitor = monitor
        self._window = window
        self._leader: Callable[[], Any] = nothing
        self._followers: dict[int, int] = {}  # steps of others since the leader's last
        self._gradient_norm: Any = None
        self._norms = 0  # taken since the last step

    def lead(self, optimizer: Any) -> None:
        """This optimizer leads from now on."""
        self._leader = weakref.ref(optimizer)

    def gradient_norm(self, norm: Any) -> None:
        """A norm of gradients before the step to come, a number or a tensor; None for one of another kind.

        Several are those of parts, or of other steps' gradients: then it is not known.
        """
        if norm is not None and norm is self._gradient_norm:
            return  # told by a framework, and by torch's function within
        self._norms += 1
        self._gradient_norm = norm if self._norms == 1 else None

    def made(self, optimizer: Any) -> None:
        """This optimizer stepped."""
        monitor = self._monitor
        norm, self._gradient_norm, self._norms = self._gradient_norm, None, 0
        if self._leader() is not optimizer and not self._takes_over(optimizer):
            self._window.clear()
            return
        if self._followers:
            self._followers.clear()
        monitor.learning_rates([group["lr"] for group in optimizer.param_groups if "lr" in group])
        if norm is not None:
            monitor.log(gradient_norm=norm)
        self._window.record()
        monitor.end_step()

    def skipped(self, optimizer: Any) -> None:
        """The loss scaler left out the step of this optimizer."""
        self._gradient_norm, self._norms = None, 0  # that of gradients nobody used
        if optimizer is not None and self._leader() is not optimizer and not self._takes_over(optimizer):
            self._window.clear()
            return
        self._window.record()
        self._monitor.skip_step()

    def _takes_over(self, optimizer: Any) -> bool:
        if self._leader() is not None:
            steps = self._followers[id(optimizer)] = self._followers.get(id(optimizer), 0) + 1
            if steps <= _PATIENCE:
                return False
        self.lead(optimizer)
        self._followers.clear()
        return True


def overflowed(monitor: Monitor, optimizer: Any) -> bool:
    """Whether a fused optimizer, which the loss scaler calls in any case, found that it must do nothing.

    On a device that is known only later: the step counts then, and as skipped as well.
    """
    found = getattr(optimizer, "found_inf", None)
    if found is None:
        return False
    number = monitor.read(found)
    if isinstance(number, readback.Pending):
        monitor.when_arrived(functools.partial(_skip_where, monitor), number)
        return False
    return bool(number)


def _skip_where(monitor: Monitor, found_inf: float | None) -> None:
    if found_inf:
        monitor.skip_step()


def nothing() -> None:
    """Stands for a reference to nothing, and for nothing to do."""
