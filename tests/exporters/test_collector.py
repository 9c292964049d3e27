from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from exporters import catalog
from exporters.collector import Runner, Sample

UP = Sample(catalog.NVIDIA_GPU_UP, {"gpu": "0", "uuid": "GPU-0"}, 1.0)


class Source:
    """A collector that gives one sample, raises `fault`, or takes `takes_seconds` of the test's clock."""

    name = "source"
    interval_seconds = 0.01
    deadline_seconds = 10.0

    def __init__(self) -> None:
        self.fault: Exception | None = None
        self.takes_seconds = 0.0
        self.rounds = 0
        self.monotonic_seconds = 1000.0
        self.closed = False

    def close(self) -> None:
        self.closed = True

    def collect(self) -> Iterator[Sample]:
        self.rounds += 1
        self.monotonic_seconds += self.takes_seconds
        yield UP
        if self.fault:
            raise self.fault

    def runner(self) -> Runner:
        return Runner(self, monotonic=lambda: self.monotonic_seconds, wall=lambda: 1.7e9)


class HangingSource:
    """A collector that does not come back before `released` is set."""

    name = "hanging"
    interval_seconds = 0.01
    deadline_seconds = 10.0

    def __init__(self) -> None:
        self.released = threading.Event()
        self.hangs = threading.Event()

    def close(self) -> None:
        pass

    def collect(self) -> list[Sample]:
        if not self.released.is_set():
            self.hangs.set()
            assert self.released.wait(30)
        return [UP]


def own_series(runner: Runner) -> dict[str, object]:
    return {
        sample.metric.name: sample.value
        for sample in runner.samples()
        if sample.labels == {"collector": runner.collector.name}
    }


def wait_until(condition: Callable[[], bool], timeout_seconds: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.005)


def test_a_round_that_succeeds_gives_its_samples_and_says_how_long_it_took() -> None:
    source = Source()
    source.takes_seconds = 0.25
    runner = source.runner()

    runner.run_once()

    assert UP in runner.samples()
    assert runner.error is None
    assert own_series(runner) == {
        "trainvitals_collector_success": 1.0,
        "trainvitals_collector_duration_seconds": 0.25,
        "trainvitals_collector_last_success_timestamp_seconds": 1.7e9,
    }


def test_before_its_first_round_a_collector_has_not_succeeded_and_is_not_ready() -> None:
    runner = Source().runner()

    assert own_series(runner) == {"trainvitals_collector_success": 0.0}
    assert runner.error == "no round yet"
    assert not runner.ready


def test_a_round_that_fails_half_way_gives_none_of_its_samples() -> None:
    source = Source()
    source.fault = OSError("the disk is on fire")
    runner = source.runner()

    runner.run_once()

    assert UP not in runner.samples()
    assert own_series(runner) == {
        "trainvitals_collector_success": 0.0,
        "trainvitals_collector_duration_seconds": 0.0,
    }
    assert runner.error == "the disk is on fire"
    assert runner.ready


def test_the_time_of_the_last_success_stands_still_while_rounds_fail() -> None:
    source = Source()
    runner = source.runner()
    runner.run_once()
    source.fault = OSError("gone")
    source.monotonic_seconds += 60

    runner.run_once()

    assert own_series(runner)["trainvitals_collector_last_success_timestamp_seconds"] == 1.7e9 - 60


def test_a_lasting_fault_is_logged_once_and_its_end_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    source = Source()
    runner = source.runner()
    runner.run_once()
    source.fault = OSError("the disk is on fire")
    for _ in range(3):
        runner.run_once()
    source.fault = None
    for _ in range(3):
        runner.run_once()

    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "collector source: the disk is on fire"),
        ("INFO", "collector source: works again"),
    ]


def test_another_fault_in_place_of_the_first_is_logged_too(caplog: pytest.LogCaptureFixture) -> None:
    source = Source()
    runner = source.runner()
    for fault in (OSError("first"), OSError("second"), KeyError()):
        source.fault = fault
        runner.run_once()

    assert [record.getMessage() for record in caplog.records] == [
        "collector source: first",
        "collector source: second",
        "collector source: KeyError",
    ]


def test_a_round_that_ends_after_its_deadline_counts_as_failed() -> None:
    source = Source()
    runner = source.runner()
    source.takes_seconds = 10.5

    runner.run_once()

    assert UP not in runner.samples()
    assert runner.error == "no answer within 10 s"
    assert own_series(runner) == {
        "trainvitals_collector_success": 0.0,
        "trainvitals_collector_duration_seconds": 10.5,
    }


def test_a_collector_that_hangs_loses_its_series_at_its_deadline_and_recovers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    source = HangingSource()
    seconds = 0.0
    runner = Runner(source, monotonic=lambda: seconds)
    source.released.set()
    runner.start()
    wait_until(lambda: UP in runner.samples())
    source.released.clear()
    assert source.hangs.wait(20)

    seconds = 9.0
    assert UP in runner.samples(), "within its deadline the last round still counts"
    seconds = 11.0
    took_seconds = []
    for _ in range(3):
        before_scrape = time.perf_counter()
        assert UP not in runner.samples()
        took_seconds.append(time.perf_counter() - before_scrape)
    # The quickest of them, since another process may hold up any; one that waits waits always.
    assert min(took_seconds) < 0.1
    assert own_series(runner)["trainvitals_collector_success"] == 0.0
    assert runner.error == "no answer within 10 s"

    source.released.set()
    wait_until(lambda: UP in runner.samples())
    assert own_series(runner)["trainvitals_collector_success"] == 1.0
    runner.stop()
    assert [record.getMessage() for record in caplog.records] == [
        "collector hanging: no answer within 10 s",
        "collector hanging: works again",
    ]


def test_a_collector_that_hangs_in_its_first_round_is_ready_at_its_deadline_with_nothing_to_show() -> None:
    source = HangingSource()
    seconds = 0.0
    runner = Runner(source, monotonic=lambda: seconds)
    runner.start()
    assert source.hangs.wait(20)

    assert not runner.ready
    assert not runner.wait_for_first_round(0.01)
    seconds = 11.0
    assert runner.ready
    assert own_series(runner) == {"trainvitals_collector_success": 0.0}

    source.released.set()
    runner.stop()


def test_stopping_leaves_a_thread_that_hangs_behind() -> None:
    source = HangingSource()
    runner = Runner(source)
    runner.start()
    assert source.hangs.wait(20)

    runner.stop(timeout_seconds=0.05)

    assert runner._thread.is_alive()
    source.released.set()


def test_rounds_follow_each_other_until_the_runner_is_stopped() -> None:
    source = Source()
    runner = Runner(source)
    runner.start()
    assert runner.wait_for_first_round(20)
    wait_until(lambda: source.rounds >= 3)

    runner.stop()

    rounds = source.rounds
    time.sleep(5 * source.interval_seconds)
    assert source.rounds == rounds
    assert source.closed
