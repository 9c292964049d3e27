from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporters.progress import StepWindow, Totals, perplexity
from trainer_hooks.recording import PHASES, StepRecord

SECOND = 10**9
START_NS = 5_000 * SECOND


def steps(
    count: int,
    *,
    seconds: float = 1.0,
    first: int = 1,
    after: StepRecord | None = None,
    pause_seconds: float = 0.0,
    loss: float = 2.0,
    tokens: int = 10,
) -> list[StepRecord]:
    """Steps that take `seconds` each, following those before after a pause that is no part of a step."""
    records = []
    time_ns = (after.time_ns if after else START_NS) + int(pause_seconds * SECOND)
    all_tokens = after.loss_tokens if after else 0
    loss_sum = after.loss_token_sum if after else 0.0
    first = after.step + 1 if after else first
    for step in range(first, first + count):
        time_ns += int(seconds * SECOND)
        all_tokens += tokens
        loss_sum += loss * tokens
        records.append(
            StepRecord(
                step=step,
                time_ns=time_ns,
                duration_ns=int(seconds * SECOND),
                phase_ns=(0,) * len(PHASES),
                batches=step,
                samples=step,
                tokens_all=all_tokens,
                tokens_trained=all_tokens,
                loss_tokens=all_tokens,
                loss_token_sum=loss_sum,
                loss=loss,
                learning_rate=0.1,
                gradient_norm=1.0,
            )
        )
    return records


def window_of(*parts: Sequence[StepRecord]) -> StepWindow:
    window = StepWindow()
    for part in parts:
        window.add(part)
    return window


def test_totals_alone_give_a_pace_from_the_first_of_them_on() -> None:
    window = StepWindow()
    window.add_totals(Totals(START_NS, 10, 0, 0, 0.0))
    assert window.seconds_left(100, START_NS) is None

    window.add_totals(Totals(START_NS + 40 * SECOND, 30, 0, 0, 0.0))
    assert window.seconds_left(100, START_NS + 40 * SECOND) == pytest.approx(140)


def test_before_the_first_step_nothing_is_known() -> None:
    window = StepWindow()

    assert window.seconds_left(100, START_NS) is None
    assert window.tokens_per_second() is None
    assert window.loss_sums() == (0.0, 0)


def test_one_step_gives_a_pace() -> None:
    (step,) = steps(1, seconds=3)
    window = window_of([step])

    assert window.seconds_left(11, step.time_ns) == pytest.approx(30)
    assert window.tokens_per_second() == pytest.approx(10 / 3)
    assert window.loss_sums() == (20.0, 10)


def test_the_time_to_the_end_is_the_steps_left_at_the_mean_pace() -> None:
    records = steps(50, seconds=2)

    assert window_of(records).seconds_left(100, records[-1].time_ns) == pytest.approx(100)


def test_initialisation_before_the_first_step_does_not_slow_the_pace() -> None:
    records = steps(10, pause_seconds=3600)

    assert window_of(records).seconds_left(110, records[-1].time_ns) == pytest.approx(100)


def test_evaluations_and_checkpoints_between_the_steps_count_in_the_time_to_the_end() -> None:
    """100 steps of 1 s with 10 s of evaluation after every 10: 2 s a step."""
    records: list[StepRecord] = []
    for round_of_steps in range(11):
        records += steps(
            10, after=records[-1] if records else None, pause_seconds=10 if round_of_steps else 0
        )

    eta = window_of(records).seconds_left(210, records[-1].time_ns)

    assert eta == pytest.approx(200, rel=0.1)


def test_only_the_pace_of_the_last_15_minutes_counts() -> None:
    slow = steps(100, seconds=60)
    fast = steps(1000, seconds=1, after=slow[-1])

    assert window_of(slow, fast).seconds_left(1200, fast[-1].time_ns) == pytest.approx(100, rel=0.01)


def test_between_two_steps_the_time_counts_down_and_stops_at_the_end_of_the_step_under_way() -> None:
    records = steps(10, seconds=10)
    window = window_of(records)
    now_ns = records[-1].time_ns

    assert window.seconds_left(20, now_ns + 4 * SECOND) == pytest.approx(96)
    assert window.seconds_left(20, now_ns + 10 * SECOND) == pytest.approx(90)
    assert window.seconds_left(20, now_ns + 1000 * SECOND) == pytest.approx(90)


def test_there_is_no_time_to_an_end_that_is_not_known_and_none_left_beyond_it() -> None:
    records = steps(10)
    window = window_of(records)

    assert window.seconds_left(0, records[-1].time_ns) is None
    assert window.seconds_left(10, records[-1].time_ns) == 0
    assert window.seconds_left(5, records[-1].time_ns) == 0


def test_a_resumed_attempt_has_the_pace_of_its_own_steps() -> None:
    records = steps(10, first=90_001, seconds=2)

    assert window_of(records).seconds_left(90_110, records[-1].time_ns) == pytest.approx(200)


def test_where_the_first_steps_are_lost_the_window_begins_with_the_oldest_that_is_left() -> None:
    records = steps(1000)
    window = StepWindow()
    window.add(records[900:], complete=False)

    assert window.seconds_left(1100, records[-1].time_ns) == pytest.approx(100)
    assert window.tokens_per_second() == pytest.approx(10)
    assert window.loss_sums() == (99 * 20.0, 99 * 10)


def test_steps_lost_in_the_middle_do_not_matter() -> None:
    records = steps(100)
    window = StepWindow()
    window.add(records[:20])
    window.add(records[60:], complete=False)

    assert window.loss_sums() == (2000.0, 1000)
    assert window.tokens_per_second() == pytest.approx(10)


def test_tokens_per_second_is_the_mean_of_the_last_minute() -> None:
    slow = steps(600, seconds=1, tokens=10)
    fast = steps(120, seconds=0.5, tokens=100, after=slow[-1])

    assert window_of(slow, fast).tokens_per_second() == pytest.approx(200)


def test_perplexity_covers_20_steps_where_5_minutes_are_fewer() -> None:
    old = steps(30, seconds=60, loss=9.0)
    new = steps(20, seconds=60, loss=2.0, after=old[-1])

    loss_sum, tokens = window_of(old, new).loss_sums()

    assert tokens == 200
    assert loss_sum / tokens == pytest.approx(2.0)


def test_perplexity_covers_5_minutes_where_20_steps_are_fewer() -> None:
    old = steps(1000, loss=9.0)
    new = steps(300, loss=2.0, after=old[-1])

    loss_sum, tokens = window_of(old, new).loss_sums()

    assert tokens == 3000
    assert loss_sum / tokens == pytest.approx(2.0)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(st.integers(1, 90), st.floats(0.01, 20), st.integers(0, 5000)), min_size=1, max_size=80
    ),
    st.integers(1, 80),
)
def test_the_window_sums_are_those_of_its_steps_however_the_records_arrive(
    chosen: list[tuple[int, float, int]], at_once: int
) -> None:
    records: list[StepRecord] = []
    for seconds, loss, tokens in chosen:
        records += steps(1, seconds=seconds, loss=loss, tokens=tokens, after=records[-1] if records else None)
    parts = [records[start : start + at_once] for start in range(0, len(records), at_once)]

    loss_sum, tokens = window_of(*parts).loss_sums()

    newest_ns = records[-1].time_ns
    recent = sum(record.time_ns > newest_ns - 300 * SECOND for record in records)
    within = chosen[-max(20, recent) :]
    assert tokens == sum(count for _, _, count in within)
    assert loss_sum == pytest.approx(math.fsum(loss * count for _, loss, count in within), abs=1e-6)


def test_a_window_of_a_week_of_fast_steps_stays_small() -> None:
    window = StepWindow()
    newest: StepRecord | None = None
    for _ in range(30):
        records = steps(1000, seconds=0.1, after=newest)
        newest = records[-1]
        window.add(records)

    assert len(window._kept) <= 15 * 60 + 2


def test_the_window_is_reached_with_15_minutes_and_20_steps() -> None:
    assert not StepWindow.reached([])
    assert not StepWindow.reached(steps(900))
    assert StepWindow.reached(steps(901))
    assert not StepWindow.reached(steps(20, seconds=60))
    assert StepWindow.reached(steps(21, seconds=60))


def test_perplexity_of_known_values() -> None:
    assert perplexity(20.0, 10) == pytest.approx(math.exp(2))
    assert perplexity(0.0, 10) == 1.0
    assert perplexity(0.0, 0) is None
    assert perplexity(1e9, 10) == math.inf
    assert perplexity(math.nan, 10) is None
