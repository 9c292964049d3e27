"""Numbers out of whatever a trainer logs, without making a device wait.

A value on the host is read at once. A value on a CUDA device is copied to pinned memory on the stream that is
current, and read when the copy has arrived, which a later query tells; nothing ever waits for it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

_POOL_SIZE = 512


class Pending:
    """A number on its way from a device. Either `take` or `abandon` ends it, once."""

    __slots__ = ("_cell", "_event", "_pool", "_slot")

    def __init__(self, pool: _PinnedPool, slot: int, cell: Any, event: Any) -> None:
        self._pool = pool
        self._slot = slot
        self._cell = cell
        self._event = event

    def arrived(self) -> bool:
        """Whether it can be taken; False while a graph is captured, which a query would spoil."""
        return not self._pool.capturing() and bool(self._event.query())

    def take(self) -> float:
        """The number, once it has arrived."""
        try:
            return float(self._cell.item())
        finally:
            self._pool.free.append(self._slot)

    def abandon(self) -> None:
        """Nobody wants the number any more; its cell is not free before the copy has landed in it."""
        self._pool.abandoned.append(self)

    def reclaim(self) -> bool:
        """Whether an abandoned number's cell could be given back."""
        if not self.arrived():
            return False
        self._pool.free.append(self._slot)
        return True


class _PinnedPool:
    """Slots of 8 bytes in one pinned buffer: pinning memory is slow, so it is done once.

    A slot is a cell of the type that is copied into it: to convert takes a kernel and memory on the device.
    """

    def __init__(self, torch: Any) -> None:
        self._inference_mode = torch.inference_mode
        with torch.inference_mode(False):  # born in an evaluation, the buffer could not be written outside it
            self._buffer = torch.empty(_POOL_SIZE, dtype=torch.int64, pin_memory=True)
        self._cells: dict[Any, Sequence[Any]] = {}  # those of each type, in the order of the slots
        self._cuda = torch.cuda
        self.capturing = torch.cuda.is_current_stream_capturing
        self.free = list(range(_POOL_SIZE))
        self.abandoned: list[Pending] = []

    def copy(self, tensor: Any) -> Pending | None:
        """Start the copy of a one-element tensor; None when no cell is free."""
        value = tensor.detach().reshape(1)
        cells = self._cells.get(value.dtype) or self._cells_of(value.dtype)
        if not self.free:
            abandoned, self.abandoned = self.abandoned, []  # other threads add to it meanwhile
            self.abandoned.extend([each for each in abandoned if not each.reclaim()])
            if not self.free:
                return None
        slot = self.free.pop()  # at once: other threads have trainings, too
        try:
            cell = cells[slot]
            cell.copy_(value, non_blocking=True)
            event = self._cuda.Event()
            # The copy runs there, whatever device is current.
            event.record(self._cuda.current_stream(tensor.get_device()))
        except BaseException:
            self.free.append(slot)
            raise
        return Pending(self, slot, cell, event)

    def _cells_of(self, dtype: Any) -> Sequence[Any]:
        """The slots as cells of this type. Raises RuntimeError for one of more than 8 bytes."""
        with self._inference_mode(False):
            cells: Sequence[Any] = self._buffer.view(dtype).view(_POOL_SIZE, -1)[:, :1].unbind()
        self._cells[dtype] = cells
        return cells


_pool: _PinnedPool | None = None
_plain_tensor: Any = None  # torch.Tensor, once torch is there: no subclass, so no DTensor either


def _remember_plain_tensors() -> None:
    global _plain_tensor
    _plain_tensor = getattr(sys.modules.get("torch"), "Tensor", None)


def read_now(value: Any) -> float | None:
    """The value as a float; None when it cannot be read now without waiting for a device or another rank.

    Takes a Python or numpy number, or a tensor of one element. Raises TypeError, ValueError or RuntimeError
    for anything else, text that spells a number included.
    """
    if hasattr(value, "is_cpu"):  # a tensor; first, since a loss is one
        if not value.is_cpu or hasattr(value, "to_local"):  # a DTensor's number may take a collective
            return None
        return float(value.item())
    if isinstance(value, (str, bytes, bytearray)):
        raise TypeError(f"a {type(value).__name__} is no number")
    return float(value.item() if hasattr(value, "item") else value)


def capturing(*values: Any) -> bool:
    """Whether to calculate with these would put kernels into a CUDA graph."""
    return any(getattr(value, "is_cuda", False) for value in values) and bool(
        sys.modules["torch"].cuda.is_current_stream_capturing()
    )


def read(value: Any) -> float | Pending | None:
    """The value as a float, or on its way; None when it cannot be read without harm. Raises as `read_now`."""
    global _pool
    if value.__class__ is _plain_tensor and value.is_cpu:
        return float(value.item())
    _remember_plain_tensors()
    number = read_now(value)
    if number is not None or not value.is_cuda or hasattr(value, "to_local"):
        return number
    torch = sys.modules["torch"]
    if torch.cuda.is_current_stream_capturing():
        return None  # a copy or event would become part of the graph
    if value.is_complex():
        raise TypeError("a complex number is no number here")
    if _pool is None:
        _pool = _PinnedPool(torch)
    return _pool.copy(value)
