"""What is read, when and in which order. `Device` stands in for a GPU: its copies land when it is told."""

from __future__ import annotations

import contextlib
import math
import types
import warnings
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from tests.trainer_hooks.recorded import only
from trainer_hooks import readback
from trainer_hooks.monitor import Monitor


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (2, 2.0),
        (True, 1.0),
        (0.5, 0.5),
        (Fraction(1, 4), 0.25),
        (Decimal("0.5"), 0.5),
        (np.float32(0.5), 0.5),
        (np.int64(2**40), 2.0**40),
        (np.array(0.5), 0.5),
        (np.array([0.5]), 0.5),
        (torch.tensor(0.5), 0.5),
        (torch.tensor([[0.5]]), 0.5),
        (torch.tensor(0.5, dtype=torch.bfloat16), 0.5),
        (torch.tensor(2**40), 2.0**40),
        (torch.tensor(True), 1.0),
        (torch.nn.Parameter(torch.tensor(0.5)), 0.5),
    ],
    ids=lambda value: type(value).__name__,
)
def test_numbers_of_every_kind_are_read_at_once(value: Any, number: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = readback.read(value)
    assert type(read) is float
    assert read == number


def test_a_result_with_a_gradient_is_read_without_a_warning_and_keeps_its_graph() -> None:
    weight = torch.tensor(3.0, requires_grad=True)
    loss = weight * 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert readback.read(loss) == 6.0
    loss.backward()  # type: ignore[no-untyped-call]
    assert weight.grad == 2.0


def test_a_tensor_without_an_end_is_read_as_it_is() -> None:
    assert readback.read(torch.tensor(math.inf)) == math.inf
    assert math.isnan(cast(float, readback.read(torch.tensor(math.nan))))


@pytest.mark.parametrize(
    "value", ["1.5", b"1", object(), [1.0], None, 1j], ids=lambda value: type(value).__name__
)
def test_what_is_no_number_raises(value: Any) -> None:
    with pytest.raises(TypeError):
        readback.read(value)


@pytest.mark.parametrize(
    "value", [torch.zeros(2), torch.zeros(0), np.zeros(2)], ids=["tensor", "empty", "array"]
)
def test_what_is_not_one_number_raises(value: Any) -> None:
    with pytest.raises((ValueError, RuntimeError)):
        readback.read(value)


def test_a_text_is_refused_without_quoting_it() -> None:
    with pytest.raises(TypeError) as raised:
        readback.read("the client said")
    assert "client" not in str(raised.value)


def test_a_device_without_a_way_to_wait_less_is_left_alone() -> None:
    assert readback.read(torch.zeros((), device="meta")) is None


def test_a_tensor_spread_over_ranks_is_left_alone() -> None:
    class Spread:
        """Of a DTensor what counts: reading its number may be a collective."""

        is_cpu = True
        is_cuda = False

        def item(self) -> Any:
            raise AssertionError("it was read")

        to_local = item

    assert readback.read(Spread()) is None


class Device:
    """A device whose copies land when it is told so, oldest first."""

    def __init__(self) -> None:
        self.capturing = False
        self.queries = 0
        self.pinned = 0
        self.work: list[Any] = []

    def tensor(self, value: float, index: int = 0, dtype: str = "float32") -> DeviceTensor:
        return DeviceTensor(self, [value], index, dtype)

    def lands(self, copies: int = 1) -> None:
        """Let the device do its next copies, and reach the events behind them."""
        for _ in range(copies):
            self.work.pop(0)()
            while self.work and isinstance(getattr(self.work[0], "__self__", None), Event):
                self.work.pop(0)()

    def lands_all(self) -> None:
        while self.work:
            self.work.pop(0)()

    def torch(self) -> Any:
        """As much of the torch module as reading needs."""
        cuda = types.SimpleNamespace(
            Event=lambda: Event(self),
            current_stream=lambda index: ("stream", index),
            is_current_stream_capturing=lambda: self.capturing,
        )
        return types.SimpleNamespace(
            cuda=cuda, int64="int64", empty=self._empty, inference_mode=contextlib.nullcontext
        )

    def _empty(self, size: int, *, dtype: str, pin_memory: bool) -> Any:
        assert (dtype, pin_memory) == ("int64", True)
        self.pinned += 1
        return Buffer(self, size)


class DeviceTensor:
    is_cpu = False
    is_cuda = True

    def __init__(self, device: Device, values: list[float], index: int = 0, dtype: str = "float32") -> None:
        self.values = values
        self.index = index
        self.dtype = dtype

    def get_device(self) -> int:
        return self.index

    def is_complex(self) -> bool:
        return self.dtype.startswith("complex")

    def detach(self) -> DeviceTensor:
        return self

    def reshape(self, size: int) -> DeviceTensor:
        if len(self.values) != size:
            raise RuntimeError(f"shape '[{size}]' is invalid for input of size {len(self.values)}")
        return self

    def item(self) -> float:
        raise AssertionError("the hook waited for the device")

    __float__ = __bool__ = __int__ = __index__ = item


class Buffer:
    """What is pinned at once, seen as cells of one type or another."""

    def __init__(self, device: Device, size: int) -> None:
        self._device = device
        self._size = size
        self._dtype = "int64"

    def view(self, *shape: Any) -> Buffer:
        if len(shape) == 1:
            self._dtype = shape[0]
        return self

    def __getitem__(self, part: Any) -> Buffer:
        return self

    def unbind(self) -> list[Cell]:
        return [Cell(self._device, self._dtype) for _ in range(self._size)]


class Cell:
    """Pinned memory: what is read before the copy has landed is garbage."""

    def __init__(self, device: Device, dtype: str) -> None:
        self._device = device
        self._dtype = dtype
        self._value = -1e300

    def copy_(self, source: DeviceTensor, *, non_blocking: bool) -> None:
        assert non_blocking
        assert source.dtype == self._dtype, "to convert takes a kernel and memory on the device"
        value = source.values[0]
        self._device.work.append(lambda: setattr(self, "_value", value))

    def item(self) -> float:
        return self._value


class Event:
    def __init__(self, device: Device) -> None:
        self._device = device
        self.reached = False
        self.stream: Any = None

    def record(self, stream: Any) -> None:
        self.stream = stream
        self._device.work.append(self._reach)

    def _reach(self) -> None:
        self.reached = True

    def query(self) -> bool:
        assert not self._device.capturing, "a query spoils the graph"
        self._device.queries += 1
        return self.reached


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    device = Device()
    monkeypatch.setitem(readback.sys.modules, "torch", device.torch())  # type: ignore[attr-defined]
    monkeypatch.setattr(readback, "_pool", None)
    return device


@pytest.fixture
def monitor(device: Device, tmp_path: Path) -> Iterator[Monitor]:
    opened = Monitor(run="a-run", directory=tmp_path)
    yield opened
    opened.finish()


def test_a_number_is_taken_only_when_its_copy_has_arrived(device: Device) -> None:
    pending = readback.read(device.tensor(1.5))
    assert isinstance(pending, readback.Pending)
    assert not pending.arrived()
    device.lands()
    assert pending.arrived()
    assert pending.take() == 1.5


def test_memory_is_pinned_once_for_all_types(device: Device) -> None:
    for number in range(1200):
        pending = readback.read(device.tensor(2, dtype=("int64", "bfloat16")[number % 2]))
        device.lands()
        assert isinstance(pending, readback.Pending)
        pending.take()
    assert device.pinned == 1


@pytest.mark.parametrize(
    "number",
    [
        torch.tensor(True),
        torch.tensor(3, dtype=torch.int8),
        torch.tensor(1.5, dtype=torch.bfloat16),
        torch.tensor([[1.5]], dtype=torch.float16),
        torch.tensor(0.1),
        torch.tensor(0.1, dtype=torch.float64),
        torch.tensor(2**40),
    ],
    ids=lambda number: str(number.dtype),
)
def test_torchs_own_cells_hold_numbers_of_every_type(number: torch.Tensor) -> None:
    """Of memory that is not pinned: there is none without a device."""
    cuda = types.SimpleNamespace(
        Event=lambda: types.SimpleNamespace(record=lambda stream: None, query=lambda: True),
        current_stream=lambda index: None,
        is_current_stream_capturing=lambda: False,
    )
    without_a_device: Any = types.SimpleNamespace(
        cuda=cuda,
        int64=torch.int64,
        empty=lambda size, *, dtype, pin_memory: torch.empty(size, dtype=dtype),
        inference_mode=torch.inference_mode,
    )
    with torch.inference_mode():
        pool = readback._PinnedPool(without_a_device)
        pending = [pool.copy(number)]
    pending += [pool.copy(torch.zeros_like(number)), pool.copy(number)]

    taken = [cast(readback.Pending, each).take() for each in pending]
    assert taken == [float(number), 0.0, float(number)]
    assert sorted(pool.free) == list(range(512))


def test_a_number_that_cannot_be_read_costs_no_cell(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    pending = cast(readback.Pending, readback.read(device.tensor(1.5)))
    device.lands()
    monkeypatch.setattr(Cell, "item", lambda cell: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pending.take()
    assert len(readback._pool.free) == 512  # type: ignore[union-attr]


def test_a_complex_number_on_a_device_is_no_number(device: Device) -> None:
    with pytest.raises(TypeError):
        readback.read(device.tensor(1.5, dtype="complex64"))
    assert device.work == []


def test_two_threads_never_get_the_same_cell(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = Cell.copy_
    others: list[Any] = []

    def copying(cell: Cell, source: DeviceTensor, *, non_blocking: bool) -> None:
        if not others:  # the other thread's turn comes in the middle
            others.append(None)
            others.append(readback.read(device.tensor(2.5)))
        copy(cell, source, non_blocking=non_blocking)

    monkeypatch.setattr(Cell, "copy_", copying)
    mine, theirs = cast(Any, readback.read(device.tensor(1.5))), cast(Any, others[1])
    device.lands_all()
    assert (mine.take(), theirs.take()) == (1.5, 2.5)
    assert len(set(readback._pool.free)) == 512  # type: ignore[union-attr]


def test_a_number_that_another_thread_abandons_meanwhile_is_not_forgotten(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    pending = [cast(Any, readback.read(device.tensor(1.5))) for _ in range(512)]
    pending[0].abandon()
    reclaim = readback.Pending.reclaim

    def reclaiming(each: readback.Pending) -> bool:
        if each is pending[0]:
            pending[1].abandon()  # the other thread's turn comes in the middle
        return reclaim(each)

    monkeypatch.setattr(readback.Pending, "reclaim", reclaiming)
    device.lands_all()
    assert readback.read(device.tensor(2.5)) is not None
    assert readback._pool.abandoned == [pending[1]]  # type: ignore[union-attr]


def test_a_copy_that_fails_costs_no_cell(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error")

    with monkeypatch.context() as broken:
        broken.setattr(Cell, "copy_", fails)
        with pytest.raises(RuntimeError, match="CUDA"):
            readback.read(device.tensor(1.5))
    assert len(readback._pool.free) == 512  # type: ignore[union-attr]


def test_the_event_is_recorded_where_the_copy_runs(device: Device) -> None:
    pending = cast(Any, readback.read(device.tensor(1.5, index=3)))
    assert pending._event.stream == ("stream", 3)


def test_nothing_is_copied_or_asked_while_a_graph_is_captured(device: Device) -> None:
    before = readback.read(device.tensor(1.5))
    assert isinstance(before, readback.Pending)
    device.lands()
    device.capturing = True
    work = len(device.work)
    assert readback.read(device.tensor(2.5)) is None
    assert not before.arrived()
    assert len(device.work) == work
    device.capturing = False
    assert before.arrived()


def test_when_all_cells_are_taken_there_is_no_copy(device: Device) -> None:
    pending = [readback.read(device.tensor(each)) for each in range(513)]
    assert pending.count(None) == 1
    assert pending[-1] is None


def test_a_tensor_of_many_elements_costs_no_cell(device: Device) -> None:
    for _ in range(600):
        with pytest.raises(RuntimeError):
            readback.read(DeviceTensor(device, [1.0, 2.0]))
    assert readback.read(device.tensor(1.0)) is not None


def test_the_cell_of_an_abandoned_number_is_free_after_its_copy_has_landed(device: Device) -> None:
    pending = [cast(readback.Pending, readback.read(device.tensor(each))) for each in range(512)]
    for each in pending:
        each.abandon()
    assert readback.read(device.tensor(1.0)) is None
    device.lands_all()
    again = [readback.read(device.tensor(-each)) for each in range(512)]
    assert None not in again
    device.lands_all()
    assert [cast(readback.Pending, each).take() for each in again] == [-each for each in range(512)]


def test_values_that_arrive_late_are_counted_exactly_and_in_order(
    device: Device, monitor: Monitor, tmp_path: Path
) -> None:
    for step in range(20):
        for micro in range(2):
            monitor.batch(
                loss=device.tensor(step + micro),
                samples=1,
                tokens=10,
                trained_tokens=device.tensor(1 + micro * 3),
            )
        monitor.learning_rates([0.1 * step])
        monitor.log(gradient_norm=device.tensor(step), accuracy=device.tensor(step / 20))
        monitor.end_step()
    early = only(tmp_path)
    assert (early.live.steps, early.live.samples) == (20, 40)
    assert (early.steps, early.live.loss_tokens, early.live.loss) == ([], 0, None)
    device.lands(2)
    monitor.progress()
    monitor.log(accuracy=0.5)  # what is on the host waits its turn
    assert only(tmp_path).live.loss_tokens == 1
    assert only(tmp_path).live.accuracy is None
    device.lands_all()
    monitor.log(loss_scale=1.0)
    seen = only(tmp_path)
    assert [record.step for record in seen.steps] == list(range(1, 21))
    assert [record.loss for record in seen.steps] == pytest.approx([step + 0.8 for step in range(20)])
    assert [record.gradient_norm for record in seen.steps] == list(range(20))
    assert [record.learning_rate for record in seen.steps] == pytest.approx(
        [0.1 * step for step in range(20)]
    )
    assert [record.loss_tokens for record in seen.steps] == [5 * (step + 1) for step in range(20)]
    assert [record.tokens_all for record in seen.steps] == [20 * (step + 1) for step in range(20)]
    assert seen.live.loss_token_sum == pytest.approx(sum(step + 4 * (step + 1) for step in range(20)))
    assert seen.live.accuracy == 0.5
    assert seen.live.hook_dropped == seen.live.hook_errors == 0


def test_a_late_loss_that_is_not_finite_is_counted(device: Device, monitor: Monitor, tmp_path: Path) -> None:
    monitor.batch(loss=device.tensor(math.nan))
    monitor.end_step()
    device.lands_all()
    monitor.end_step()
    assert (only(tmp_path).live.nonfinite_loss, only(tmp_path).live.loss) == (1, None)


def test_more_than_the_queue_bears_is_dropped_and_counted(
    device: Device, monitor: Monitor, tmp_path: Path
) -> None:
    def train(steps: int) -> None:
        for _ in range(steps):
            monitor.batch(loss=device.tensor(1.0), samples=1, tokens=5, trained_tokens=2)
            monitor.end_step()

    train(300)  # a queue of 256 holds 128 of these
    live = only(tmp_path).live
    assert (live.steps, live.batches, live.samples, live.hook_dropped) == (300, 300, 300, 300 - 128)
    assert (live.tokens_all, live.loss_tokens) == (172 * 5, 0)
    device.lands_all()
    monitor.end_step()
    live = only(tmp_path).live
    assert (live.tokens_all, live.tokens_trained, live.loss_tokens) == (300 * 5, 300 * 2, 128 * 2)
    train(1000)  # far more than there are cells
    assert len(cast(Any, monitor)._arrivals.waiting) <= 256
    device.lands_all()
    monitor.end_step()
    dropped = only(tmp_path).live.hook_dropped
    for _ in range(600):  # the device is back, and so are its cells
        train(1)
        device.lands_all()
    monitor.end_step()
    seen = only(tmp_path)
    assert (seen.live.hook_dropped, seen.live.hook_errors) == (dropped, 0)
    assert seen.live.loss_tokens >= 2 * (128 + 600)
    assert (seen.live.steps, seen.live.tokens_all) == (1903, 1900 * 5)
    assert [record.step for record in seen.steps] == list(range(1, 1904))


def test_while_a_graph_is_captured_values_are_dropped_and_counted(
    device: Device, monitor: Monitor, tmp_path: Path
) -> None:
    monitor.batch(loss=device.tensor(1.0))
    device.capturing = True
    monitor.batch(loss=device.tensor(2.0))
    monitor.end_step()
    device.capturing = False
    device.lands_all()
    monitor.end_step()
    live = only(tmp_path).live
    assert (live.hook_dropped, live.hook_errors, live.steps, live.batches) == (1, 0, 2, 3)
    assert only(tmp_path).steps[0].loss == 1.0


def test_the_end_does_not_wait_for_what_has_not_arrived(device: Device, tmp_path: Path) -> None:
    monitor = Monitor(run="a-run", directory=tmp_path)
    monitor.batch(loss=device.tensor(1.0), tokens=7)
    monitor.batch(loss=device.tensor(2.0), tokens=7)
    monitor.end_step()
    device.lands()
    monitor.finish()
    seen = only(tmp_path)
    assert (seen.live.steps, seen.live.tokens_all, seen.live.hook_dropped) == (1, 14, 1)
    assert seen.steps[0].loss == 1.0


def test_a_device_that_fails_costs_the_values_and_nothing_else(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(event: Event) -> bool:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monitor = Monitor(run="a-run", directory=tmp_path)
    monkeypatch.setattr(Event, "query", fails)
    for _ in range(300):
        monitor.batch(loss=device.tensor(1.0), tokens=3)
        monitor.end_step()
    monitor.finish()
    seen = only(tmp_path)
    assert (seen.live.steps, seen.live.batches, seen.live.tokens_all) == (300, 300, 900)
    assert seen.live.loss is None
    assert seen.live.outcome != 0
    assert len(seen.steps) == 300


def test_a_gradient_norm_logged_twice_frees_the_first(
    device: Device, monitor: Monitor, tmp_path: Path
) -> None:
    for _ in range(400):
        monitor.log(gradient_norm=device.tensor(1.0))
        monitor.log(gradient_norm=device.tensor(2.0))
        monitor.end_step()
        device.lands_all()
    monitor.end_step()
    assert only(tmp_path).live.hook_dropped == 0
    assert {record.gradient_norm for record in only(tmp_path).steps[:400]} == {2.0}


def test_a_learning_rate_on_a_device_is_left_out(device: Device, monitor: Monitor, tmp_path: Path) -> None:
    monitor.learning_rates([device.tensor(0.1), 0.2])
    live = only(tmp_path).live
    assert live.learning_rates[:2] == (None, 0.2)
    assert (live.hook_dropped, live.hook_errors, device.work) == (0, 0, [])


@contextlib.contextmanager
def waiting_is_an_error() -> Iterator[None]:
    """Torch raises where something waits for the CUDA device; it calls the mode a prototype, as a warning."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_tensor_is_read_without_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readback, "_pool", None)
    with Monitor(run="a-run", directory=tmp_path) as monitor, torch.inference_mode():
        losses = list(torch.arange(200.0, device="cuda").unbind())
        with waiting_is_an_error():
            for loss in losses:
                monitor.batch(loss=loss, trained_tokens=1)
                monitor.end_step()
        torch.cuda.synchronize()
        monitor.end_step()
    seen = only(tmp_path)
    assert [record.loss for record in seen.steps[:200]] == list(range(200))
    assert (seen.live.hook_dropped, seen.live.hook_errors) == (0, 0)
