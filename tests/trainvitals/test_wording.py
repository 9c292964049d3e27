from __future__ import annotations

import math

import pytest

from trainvitals import wording
from trainvitals.wording import UNKNOWN


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, UNKNOWN),
        (math.nan, UNKNOWN),
        (0, "0"),
        (2.345678, "2.346"),
        (12_345.6, "12,346"),
        (999.96, "1,000"),
        (5e-4, "5.00e-04"),
    ],
)
def test_numbers(value: float | None, text: str) -> None:
    assert wording.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((None, UNKNOWN), (7, "7"), (999, "999"), (999.7, "1k"), (12_345, "12.3k"), (999_960, "1M")),
        *((2.5e9, "2.5G"), (-999.7, "-1k"), (0.001234, "0.00123")),
    ],
)
def test_compact_numbers(value: float | None, text: str) -> None:
    assert wording.compact(value) == text


@pytest.mark.parametrize(("ratio", "text"), [(None, UNKNOWN), (0.5, "50 %"), (0.999, "99 %"), (1.0, "100 %")])
def test_all_is_said_only_of_all(ratio: float | None, text: str) -> None:
    assert wording.percent(ratio) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *(
            (None, UNKNOWN),
            (math.inf, UNKNOWN),
            (0, "0 s"),
            (0.25, "250 ms"),
            (0.9994, "999 ms"),
            (0.9996, "1 s"),
            (59.6, "1 min"),
            (86_399, "1 d"),
            (86_360, "23 h 59 min"),
            (59, "59 s"),
            (61, "1 min 1 s"),
        ),
        *((3599, "1 h"), (3600, "1 h"), (11_520, "3 h 12 min"), (86_400, "1 d"), (100_000, "1 d 4 h")),
    ],
)
def test_durations_have_two_units(seconds: float | None, text: str) -> None:
    assert wording.duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, UNKNOWN),
        (0, "0 B"),
        (1000, "1000 B"),
        (1536, "1.5 KiB"),
        (2.0**20 - 1, "1 MiB"),
        (2.0**40, "1 TiB"),
    ],
)
def test_sizes(count: float | None, text: str) -> None:
    assert wording.size(count) == text


def test_a_moment_has_its_day_where_that_is_another() -> None:
    noon = 1_700_000_000.0

    assert len(wording.moment(noon, noon)) == len("12:00")
    assert wording.moment(noon - 10 * 86_400, noon).split()[1] == "Nov"
    assert wording.moment(1e18, noon) == UNKNOWN
