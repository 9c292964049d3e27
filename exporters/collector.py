"""What a collector is, and the runner that keeps one going.

A collector turns one source into samples; it lives in one file, in one class. Its runner calls it in a
daemon thread of its own, so that a source that hangs hangs nothing else, and reports its success, duration
and age. A collector that fails or outlives its deadline loses its own series, never the page.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from exporters import catalog
from exporters.catalog import Metric

logger = logging.getLogger(__name__)


class Histogram(NamedTuple):
    """Cumulative counts, one for each bucket of the metric and one for +Inf, and the sum in base units."""

    cumulative_counts: Sequence[int]
    sum: float


class Sample(NamedTuple):
    """One series of one metric: `labels` holds every label by name; for an info metric the value is 1."""

    metric: Metric
    labels: dict[str, str]
    value: float | Histogram


class Collector(Protocol):
    """One source of samples.

    `collect` may raise anything: the message goes to the log once, and the series vanish until it succeeds.
    `close` lets go of the source, and must not wait for one that hangs.
    """

    name: str
    interval_seconds: float
    deadline_seconds: float

    def collect(self) -> Iterable[Sample]: ...

    def close(self) -> None: ...


class Round(NamedTuple):
    """What came of a collector's last finished round; times are monotonic seconds."""

    samples: Sequence[Sample]
    error: str | None
    started_seconds: float
    duration_seconds: float


class Runner:
    """Calls one collector again and again in a daemon thread, and hands out its last snapshot."""

    def __init__(
        self,
        collector: Collector,
        *,
        said: set[str] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`said` holds the errors in the log now, shared by collectors of one source: each is told once."""
        self.collector = collector
        self._said = set() if said is None else said
        self._monotonic = monotonic
        self._wall = wall
        self._stop = threading.Event()
        self._first_round_done = threading.Event()
        self._round: Round | None = None
        self._round_started_seconds: float | None = None
        self._last_success_seconds: float | None = None
        self._logged_error: str | None = None
        self._thread = threading.Thread(target=self._run, name=f"collector-{collector.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def ask_to_stop(self) -> None:
        """Let the round that is going on be the last; does not wait for it."""
        self._stop.set()

    def stop(self, timeout_seconds: float = 2.0) -> None:
        """Ask the thread to end, and close the collector; one that hangs in its source is left behind."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)
        self.collector.close()

    def wait_for_first_round(self, timeout_seconds: float) -> bool:
        """True once a round is over, good or bad; False when none is within this time."""
        return self._first_round_done.wait(timeout_seconds)

    @property
    def ready(self) -> bool:
        """True once a round is over or overdue: there is something true to say about the source."""
        return self._first_round_done.is_set() or self._overdue()

    @property
    def error(self) -> str | None:
        """Why the source gives nothing at present; None when it does."""
        return self._error_after(self._round)

    def samples(self) -> list[Sample]:
        """The collector's series, none when it failed or is overdue; and those about the collector itself."""
        labels = {"collector": self.collector.name}
        # Taken once: the collector's thread may put the next round in its place at any moment.
        last_round = self._round
        error = self._error_after(last_round)
        if error == self._no_answer:
            # The thread that would say so hangs.
            self._log(error)
        samples = [Sample(catalog.COLLECTOR_SUCCESS, labels, 0.0 if error else 1.0)]
        if last_round is not None:
            samples.append(Sample(catalog.COLLECTOR_DURATION_SECONDS, labels, last_round.duration_seconds))
            if not error:
                samples.extend(last_round.samples)
        if self._last_success_seconds is not None:
            age = self._monotonic() - self._last_success_seconds
            samples.append(
                Sample(catalog.COLLECTOR_LAST_SUCCESS_TIMESTAMP_SECONDS, labels, self._wall() - age)
            )
        return samples

    def run_once(self) -> None:
        """One round in the calling thread."""
        started = self._monotonic()
        self._round_started_seconds = started
        samples: Sequence[Sample] = ()
        error = None
        try:
            samples = tuple(self.collector.collect())
        except Exception as exception:
            error = str(exception) or type(exception).__name__
        ended = self._monotonic()
        if error is None and ended - started > self.collector.deadline_seconds:
            samples, error = (), self._no_answer
        self._round = Round(samples, error, started, ended - started)
        if error is None:
            self._last_success_seconds = ended
        self._round_started_seconds = None
        self._first_round_done.set()
        self._log(error)

    def _run(self) -> None:
        while not self._stop.is_set():
            self.run_once()
            self._stop.wait(self.collector.interval_seconds)

    @property
    def _no_answer(self) -> str:
        return f"no answer within {self.collector.deadline_seconds:g} s"

    def _error_after(self, last_round: Round | None) -> str | None:
        if self._overdue():
            return self._no_answer
        return last_round.error if last_round else "no round yet"

    def _overdue(self) -> bool:
        started = self._round_started_seconds
        return started is not None and self._monotonic() - started > self.collector.deadline_seconds

    def _log(self, error: str | None) -> None:
        if error == self._logged_error:
            return
        if self._logged_error is not None:
            self._said.discard(self._logged_error)
        if error is not None and error not in self._said:
            self._said.add(error)
            logger.warning("collector %s: %s", self.collector.name, error)
        elif error is None:
            logger.info("collector %s: works again", self.collector.name)
        self._logged_error = error


def problems(runners: Iterable[Runner]) -> list[str]:
    """What gives nothing at present, and why: `gpu, gpu_mig: the driver is not loaded`."""
    failing: dict[str, list[str]] = {}
    for runner in runners:
        if runner.ready and runner.error:
            failing.setdefault(runner.error, []).append(runner.collector.name)
    return [f"{', '.join(names)}: {error}" for error, names in failing.items()]


def stop_all(runners: Sequence[Runner], timeout_seconds: float = 2.0) -> None:
    """Stop them at once, so that several which hang take no longer than one."""
    for runner in runners:
        runner.ask_to_stop()
    deadline = time.monotonic() + timeout_seconds
    for runner in runners:
        runner.stop(max(0.0, deadline - time.monotonic()))
