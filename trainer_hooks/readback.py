"""Numbers out of whatever a trainer logs, without making a device wait.

A value on the host is read at once. A value on a CUDA device is copied to pinned memory on the stream that is
current, and read when the copy has arrived, which a later query tells; nothing ever waits for it.
"""

from __future__ import annotations

import sys
from typing import Any

_POOL_SIZE = 512


class Pending:
    """A number on its way from a device."""

    __slots__ = ("_cell", "_event", "_pool")

    def __init__(self, pool: _PinnedPool, cell: Any, event: Any) -> None:
        self._pool = pool
        self._cell = cell
        self._event = event

    def arrived(self) -> bool:
        return bool(self._event.query())

    def take(self) -> float:
        """The number; call it once, after `arrived`."""
        value = float(self._cell[0])
        self._pool.give_back(self._cell)
        return value


class _PinnedPool:
    """One-element float64 cells of one pinned buffer: pinning memory is slow, so it is done once."""

    def __init__(self, torch: Any) -> None:
        buffer = torch.empty(_POOL_SIZE, dtype=torch.float64, pin_memory=True)
        self._torch = torch
        self._free = list(buffer.split(1))

    def copy(self, tensor: Any) -> Pending | None:
        if not self._free:
            return None
        cell = self._free.pop()
        with self._torch.no_grad():
            cell.copy_(tensor.detach().reshape(1), non_blocking=True)
        event = self._torch.cuda.Event()
        event.record()
        return Pending(self, cell, event)

    def give_back(self, cell: Any) -> None:
        self._free.append(cell)


_pool: _PinnedPool | None = None


def read(value: Any) -> float | Pending | None:
    """The value as a float, or on its way; None when it cannot be read now without harm.

    Takes a Python or numpy number, or a tensor of one element. Raises TypeError or ValueError for else.
    """
    global _pool
    if isinstance(value, (float, int)):
        return float(value)
    if not hasattr(value, "detach"):
        return float(value)
    device = value.device.type
    if device == "cpu":
        return float(value.detach().item())
    if device != "cuda":
        return None  # no way is known to read it without waiting
    torch = sys.modules["torch"]
    if torch.cuda.is_current_stream_capturing():
        return None  # a copy or event would become part of the graph
    if _pool is None:
        _pool = _PinnedPool(torch)
    return _pool.copy(value)
