from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from exporters.access.limits import Buckets


def test_a_bucket_gives_its_burst_at_once_and_then_its_rate() -> None:
    seconds = 0.0
    buckets = Buckets(2.0, 3, clock=lambda: seconds)

    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert buckets.take("b") == 0
    seconds = 0.5
    assert [buckets.take("a") for _ in range(2)] == [0, 0.5]
    seconds = 100.0
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0.5]


@settings(deadline=None)
@given(waits=st.lists(st.floats(0, 3), max_size=200))
def test_no_pattern_of_calls_gets_more_than_burst_and_rate(waits: list[float]) -> None:
    seconds = 0.0
    buckets = Buckets(2.0, 3, clock=lambda: seconds)
    taken = 0
    for wait in waits:
        seconds += wait
        taken += buckets.take("a") == 0
        assert taken <= 3 + 2 * seconds + 1e-6


def test_the_least_recently_used_bucket_is_forgotten() -> None:
    buckets = Buckets(1.0, 1, most=2, clock=lambda: 0.0)
    for key in ("a", "b", "a", "c"):
        buckets.take(key)

    assert buckets.take("a") > 0
    assert buckets.take("b") == 0
