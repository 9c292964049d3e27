from __future__ import annotations

from exporters.gpu.reading import Unwrapped


def test_wraps_of_counters_are_told_from_resets() -> None:
    counter = Unwrapped()
    top = 1 << 32

    assert counter.take("a", 10, 32, 1) == 10
    assert counter.take("a", top - 1, 32, 1) == top - 1
    assert counter.take("a", 5, 32, 1) == top + 5
    assert counter.take("a", top - 2, 32, 1) == 2 * top - 2
    assert counter.take("a", 0, 32, 1) == 2 * top
    assert counter.take("a", 1000, 32, 2) == 2 * top + 1000, "another session, the same driver"
    assert counter.take("a", 999, 32, 2) == 999, "a fall by little is a reset"
    assert counter.take("b", 7, 64, 2) == 7
    assert counter.take("a", top - 1, 32, 2) == top - 1
    assert counter.take("a", 5, 32, 3) == 5, "a fall over a gap is a reset"
