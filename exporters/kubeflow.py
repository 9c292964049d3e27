"""Runs that tell of themselves by Kubeflow's status protocol, with nothing of ours in their process.

A training that dies posts nothing more, and neither does one that hangs: there is no lock of ours that the
kernel would let go, and the process may be on another machine. So `killed` cannot be known; a run without a
word is stalled, and after 25 hours it is given up. Where a run of the same name has a recording, that knows
more and wins.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from exporters.collector import Sample
from exporters.kubeflow_attempt import Attempt, Change, Report, change_by
from exporters.kubeflow_status import GIVEN_UP_SECONDS, run_status, samples
from exporters.progress import StepWindow, Totals
from exporters.recordings import FULL_AFTER_END_SECONDS, LIFECYCLE_AFTER_END_SECONDS
from exporters.runs import Acknowledgement, RunStatus

logger = logging.getLogger(__name__)

MOST_RUNS = 200
MOST_UNWRITTEN = 512  # changes of one run
HELD_BACK_SECONDS = 3.0  # by then the collector of recordings has found one of that name
HEARD_AGAIN_SECONDS = 60.0  # what a restarted service waits for a run's next word
_FORGOTTEN_SECONDS = GIVEN_UP_SECONDS + 3600


class TooManyRunsError(Exception):
    """As many runs report as can be followed, and none of them is over."""


class Restored(NamedTuple):
    """An attempt that an earlier service knew, and whether it was running when last looked at."""

    attempt: Attempt
    was_running: bool = True


@dataclass
class _ReportingRun:
    """A run that reports. Before `shown_at` nobody is told of it; `heard_by` is when it is due to report."""

    attempt: Attempt
    shown_at: float
    heard_by: float = 0.0
    is_shown: bool = False
    window: StepWindow = field(default_factory=StepWindow)
    unwritten: deque[Change] = field(default_factory=deque)


class KubeflowCollector:
    """Takes reports, and tells what they come to: `runs`, of the newest look, the newest start first."""

    name = "kubeflow"
    interval_seconds = 1.0
    deadline_seconds = 10.0

    def __init__(
        self,
        *,
        stall_after_seconds: float = 1800.0,
        restored: Iterable[Restored] = (),
        recorded: Callable[[], Iterable[RunStatus]] = tuple,
        attempts_before: Callable[[str], int] = lambda run: 0,
        acknowledgement: Callable[[str, int], Acknowledgement | None] = lambda run, attempt: None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`recorded` are the runs that have recordings.

        `attempts_before` says how many attempts a run has had that nobody here has heard of.
        """
        self._stall_after_seconds = stall_after_seconds
        self._recorded = recorded
        self._attempts_before = attempts_before
        self._acknowledgement = acknowledgement
        self._wall = wall
        self._lock = threading.Lock()
        self._dropped = 0
        now = wall()
        self._followed = {
            attempt.run: _ReportingRun(
                *(attempt, now, now + HEARD_AGAIN_SECONDS if was_running else 0.0), is_shown=True
            )
            for attempt, was_running in restored
        }
        self._shadowed: set[str] = set()
        self.runs: tuple[RunStatus, ...] = ()
        self.runs = self._look(now)

    def tell(self, run: str, report: Report) -> None:
        """Take a report. Touches neither disk nor database. Raises TooManyRunsError."""
        with self._lock:
            known = self._followed.get(run)
            change = change_by(report, run, known.attempt if known else None)
            if change is None:
                return
            if known is None:
                self._make_room()
                known = self._followed[run] = _ReportingRun(change.attempt, report.at + HELD_BACK_SECONDS)
            elif known.attempt.number != change.attempt.number:
                known.window = StepWindow()
            if change.step is not None and change.attempt.step > known.attempt.step:
                # The first is but a base: when it began is not known.
                known.window.add_totals(Totals(int(change.step.at * 1e9), change.step.step, 0, 0, 0.0))
            known.attempt = change.attempt
            known.unwritten.append(change)
            self._drop_the_oldest(known)

    def collect(self) -> Iterator[Sample]:
        """What the runs have reported up to now."""
        now = self._wall()
        self._forget(now)
        self.runs = self._look(now)
        for status in self.runs:
            with self._lock:
                known = self._followed.get(status.run)
            found = samples(status, known.attempt.logged if known else {})
            age = 0.0 if status.ended_at is None else now - status.ended_at
            if age <= FULL_AFTER_END_SECONDS:
                yield from found
            elif age <= LIFECYCLE_AFTER_END_SECONDS:
                yield from (each for each in found if each.metric.lifecycle)

    def close(self) -> None: ...

    @property
    def known(self) -> frozenset[str]:
        """The runs that are followed."""
        with self._lock:
            return frozenset(run for run in self._followed if run not in self._shadowed)

    @contextlib.contextmanager
    def unwritten(self, *, with_held_back: bool = False) -> Iterator[list[Change]]:
        """What is to be written, the oldest first of each run; it is there again where the block raises.

        Raises sqlite3.Error where the database cannot say how many attempts a run has had.
        """
        if with_held_back:
            self._show(math.inf)
        with self._lock:
            taken = [
                (known, list(known.unwritten))
                for run, known in self._followed.items()
                if known.is_shown and run not in self._shadowed
            ]
            for known, _ in taken:
                known.unwritten.clear()
        try:
            yield [
                each._replace(attempt=replace(each.attempt, earlier=known.attempt.earlier))
                for known, changes in taken
                for each in changes
            ]
        except BaseException:
            with self._lock:
                for known, changes in taken:
                    known.unwritten.extendleft(reversed(changes))
                    self._drop_the_oldest(known)
            raise
        with self._lock:
            dropped, self._dropped = self._dropped, 0
        if dropped:
            logger.warning("%d reports of runs came while nothing could be written, and are lost", dropped)

    def _drop_the_oldest(self, known: _ReportingRun) -> None:
        while len(known.unwritten) > MOST_UNWRITTEN:
            known.unwritten.popleft()
            self._dropped += 1

    def _make_room(self) -> None:
        """Forget the run that ended longest ago, else the one that is silent longest, where it is stalled."""
        if len(self._followed) < MOST_RUNS:
            return
        oldest = min(
            self._followed.values(), key=lambda known: (known.attempt.ended_at is None, known.attempt.told_at)
        )
        if oldest.attempt.ended_at is None and not self._is_stalled(oldest, self._wall()):
            raise TooManyRunsError(f"{MOST_RUNS} runs report already, and none of them is over")
        del self._followed[oldest.attempt.run]

    def _forget(self, now: float) -> None:
        with self._lock:
            for run, known in list(self._followed.items()):
                if now - known.attempt.told_at > _FORGOTTEN_SECONDS:
                    del self._followed[run]

    def _look(self, now: float) -> tuple[RunStatus, ...]:
        """Every run that is shown by now and has no recording."""
        self._show(now)
        statuses = []
        for run in self.known:
            with self._lock:  # for each anew: a report must not wait for all of them
                known = self._followed.get(run)
                if known is not None and known.is_shown:
                    statuses.append(self._status(known, now))
        return tuple(sorted(statuses, key=lambda status: status.started_at, reverse=True))

    def _show(self, now: float) -> None:
        """Begin to tell of the runs that were held back until now, but of none that has a recording."""
        recorded = {status.run for status in self._recorded()}
        with self._lock:
            runs = list(self._followed)
            self._shadowed = recorded.intersection(runs)
            for run in self._shadowed:
                self._followed[run].unwritten.clear()
        for run in runs:
            with self._lock:
                known = self._followed.get(run)
                if known is None or known.is_shown or run in recorded or now < known.shown_at:
                    continue
            earlier = self._attempts_before(run)  # asks the database
            with self._lock:
                known.attempt = replace(known.attempt, earlier=earlier)
                known.is_shown = True

    def _is_stalled(self, known: _ReportingRun, now: float) -> bool:
        return now > max(known.attempt.told_at + self._stall_after_seconds, known.heard_by)

    def _status(self, known: _ReportingRun, now: float) -> RunStatus:
        attempt = known.attempt
        return run_status(
            *(attempt, known.window),
            now=now,
            is_stalled=self._is_stalled(known, now),
            acknowledgement=self._acknowledgement(attempt.run, attempt.number_of_all),
        )
