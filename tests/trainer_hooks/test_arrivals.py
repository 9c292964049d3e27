from __future__ import annotations

from typing import Any, cast

import pytest

from trainer_hooks.arrivals import MOST_WAITING, Arrivals
from trainer_hooks.readback import Pending


class Copy:
    """The copy of a number from a device: its pool, cell and event in one. It lands when it is told to."""

    def __init__(self, value: float) -> None:
        self.value = value
        self.landed = self.broken = False
        self.free: list[object] = []
        self.abandoned: list[Pending] = []
        self.pending = Pending(cast(Any, self), 0, self, self)

    def capturing(self) -> bool:
        return False

    def query(self) -> bool:
        if self.broken:
            raise RuntimeError("an illegal memory access was encountered")
        return self.landed

    def item(self) -> float:
        return self.value


class Seen:
    """Arrivals, and what came of them."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.dropped = 0
        self.faults: list[Exception] = []
        self.arrivals = Arrivals(self._drop, self.faults.append)

    def _drop(self) -> None:
        self.dropped += 1

    def call(self, *values: object) -> None:
        self.arrivals.call(self.apply, *values)

    def apply(self, *values: object) -> None:
        self.calls.append(values)


@pytest.fixture
def seen() -> Seen:
    return Seen()


def test_values_on_the_host_are_applied_at_once(seen: Seen) -> None:
    seen.call(1.0, None, 2)
    assert seen.calls == [(1.0, None, 2)]
    assert not seen.arrivals.waiting


def test_what_comes_after_a_number_under_way_waits_for_it(seen: Seen) -> None:
    first, second = Copy(1.0), Copy(2.0)
    seen.call(first.pending, 10)
    seen.call(20)
    seen.call(second.pending)
    second.landed = True
    seen.arrivals.drain()
    assert seen.calls == []
    first.landed = True
    seen.call(30)
    assert seen.calls == [(1.0, 10), (20,), (2.0,), (30,)]


def test_at_the_end_what_has_not_arrived_is_left_out_and_counted(seen: Seen) -> None:
    late, here = Copy(1.0), Copy(2.0)
    seen.call(late.pending, here.pending, 5)
    here.landed = True
    seen.arrivals.drain(everything=True)
    assert seen.calls == [(None, 2.0, 5)]
    assert (seen.dropped, late.abandoned, here.abandoned) == (1, [late.pending], [])


def test_when_too_many_wait_the_oldest_is_left_out(seen: Seen) -> None:
    copies = [Copy(float(each)) for each in range(MOST_WAITING + 3)]
    for copy in copies:
        seen.call(copy.pending)
    assert seen.calls == [(None,)] * 3
    assert len(seen.arrivals.waiting) == MOST_WAITING
    assert (seen.dropped, [copy for copy in copies if copy.abandoned]) == (3, copies[:3])


def test_a_device_that_fails_costs_its_value_and_holds_up_nothing(seen: Seen) -> None:
    copy = Copy(1.0)
    copy.broken = True
    seen.call(copy.pending, 7)
    assert seen.calls == [(None, 7)]
    assert seen.dropped == 1
    assert {type(fault) for fault in seen.faults} == {RuntimeError}


def test_a_function_that_fails_later_is_a_fault_and_those_after_it_are_called(seen: Seen) -> None:
    def fails(value: object) -> None:
        raise ValueError(value)

    copy = Copy(1.0)
    seen.arrivals.call(fails, copy.pending)
    seen.call(2)
    copy.landed = True
    seen.arrivals.drain()
    assert seen.calls == [(2,)]
    assert [fault.args for fault in seen.faults] == [(1.0,)]
