"""One recording followed from its first look to its end, and when it was last seen alive."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from exporters.deaths import Death, Witness, witness
from exporters.progress import StepWindow
from exporters.runs import Failure, Observation, Stage, printable
from trainer_hooks import recording
from trainer_hooks.recording import SCALARS, EventReader, RecordingReader, Static, StepRecord

CLOCK_WAS_SET_SECONDS = 0.25
_RECORDS_AT_ONCE = 256
_ASKED_FOR_NS = 60 * 10**9
_MOST_INFO = 64
_LONGEST_INFO = 1024  # the uuids of 16 devices
_OF_EVERY_EVENT = {"event", "time_ns", "step"}
_LABEL_VALUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,63}")


class SeenAlive(NamedTuple):
    """When a recording was last seen alive, in monotonic ns of that boot, and how its process died.

    `start_ns`, when it began, tells it from an earlier one under its name.
    """

    path: Path
    boot_id: str
    start_ns: int
    monotonic_ns: int
    death: Death | None = None


class Endings:
    """When each recording was last seen alive, and how it died, so that a service started later knows.

    Its phases were published up to then; a counter must not fall back to the recording's own last sign.
    Neither method raises.
    """

    def last_seen(self, path: Path, boot_id: str, start_ns: int) -> SeenAlive | None:
        return None

    def remember(self, seen: Iterable[SeenAlive]) -> None: ...


class _WindowAtEnd(StepWindow):
    """The figures of a window when its rank was dead, without the steps they are of."""

    def __init__(self, window: StepWindow, steps_expected: int, now_ns: int) -> None:
        super().__init__()
        self._loss_sums = window.loss_sums()
        self._tokens_per_second = window.tokens_per_second()
        self._seconds_left = window.seconds_left(steps_expected, now_ns)
        self._range = window.seconds_left_range(steps_expected, now_ns)

    def loss_sums(self) -> tuple[float, int]:
        return self._loss_sums

    def tokens_per_second(self) -> float | None:
        return self._tokens_per_second

    def seconds_left(self, steps_expected: int, now_ns: int) -> float | None:
        return self._seconds_left

    def seconds_left_range(self, steps_expected: int, now_ns: int) -> tuple[float, float] | None:
        return self._range


class Followed:
    """One recording with what has been read of it so far. A dead one is read once more and closed."""

    def __init__(self, reader: RecordingReader) -> None:
        self.path = reader.path
        self.has_name = True
        self._reader = reader
        self._events = EventReader(reader.path)
        self._window = StepWindow()
        self._newest_record = 0
        self._reason: str | None = None
        self._scalar_names: dict[int, str] = {}
        self._info = dict(reader.static.info)
        self._seen_alive_ns = 0
        self._death: Death | None = None
        self._remembered: tuple[int, Death | None] = (0, None)
        self._witness: Witness | None = None
        self._died_ns = 0
        self._failure: Failure | None = None
        self._stage: Stage | None = None
        self._phase_seconds: dict[str, float] = {}
        self._last: Observation | None = None
        self._file: tuple[int, int] | None = None

    @property
    def alive(self) -> bool:
        """Whether it was at the last look; true before the first."""
        return self._last is None or self._last.alive

    @property
    def ended_at(self) -> float:
        """Of a dead one: when, in unix seconds."""
        assert self._last is not None
        return self._last.wall(self._last.end_ns)

    @property
    def was_killed(self) -> bool:
        return self._last is not None and not self.alive and self._last.live.outcome == recording.RUNNING

    def not_yet_remembered(self) -> SeenAlive | None:
        """When it was last seen alive, and how it died: each news told once."""
        known = (self._seen_alive_ns, self._death)
        if known == self._remembered or not self._seen_alive_ns:
            return None
        self._remembered = known
        static = self._reader.static
        return SeenAlive(self.path, static.boot_id, static.start_monotonic_ns, *known)

    def was_replaced(self) -> bool:
        """Whether the file of this name is no longer the one that was opened."""
        return self._reader.unlinked if self.alive else file_at(self.path) != self._file

    def observe(
        self, monotonic_ns: Callable[[], int], clocks_offset_seconds: float, endings: Endings
    ) -> Observation:
        if self._last is not None and not self._last.alive:
            self._ask_how_it_died(monotonic_ns())
            return self._last
        reader, static = self._reader, self._reader.static
        asked_ns = monotonic_ns()
        alive = reader.alive()  # before the values: those of a dead one are its last
        live = reader.live()
        if self._last is None:
            self._take_newest_steps(live.records)
        records, newest = reader.steps(self._newest_record)
        self._window.add(records, complete=newest - self._newest_record == len(records))
        self._newest_record = newest
        if self.has_name:
            for event in self._events.new():
                self._take(event)
        if alive:
            self._stand_by(first=self._seen_alive_ns == 0)
            self._seen_alive_ns = asked_ns
        else:
            self._died_ns = asked_ns
            if self._seen_alive_ns == 0:
                self._recall(endings.last_seen(self.path, static.boot_id, static.start_monotonic_ns))
        now_ns = max(self._seen_alive_ns, live.last_sign_ns)
        if not alive:
            self._window = _WindowAtEnd(self._window, live.steps_expected, now_ns)
        self._last = Observation(
            static=static,
            attempt=reader.attempt,
            live=live,
            alive=alive,
            now_ns=now_ns,
            phase_seconds=self._never_less(live.phase_seconds(static.start_monotonic_ns, now_ns)),
            wall_offset_seconds=wall_offset_seconds(static, clocks_offset_seconds),
            window=self._window,
            reason=f"exit code {live.exit_code}" if live.exit_code else self._reason,
            scalar_names=self._scalar_names,
            info=self._info,
            failure=self._failure,
            death=self._death,
            stage=self._stage,
        )
        if not alive:
            reader.close()
            self._file = file_at(self.path)
            self._ask_how_it_died(asked_ns)
        return self._last

    def _stand_by(self, *, first: bool) -> None:
        if first:
            self._witness = witness(self._reader.static)
        elif self._witness is not None:
            self._witness.look()

    def _ask_how_it_died(self, now_ns: int) -> None:
        """The kernel knows once the process is gone, which may be seconds after its lock fell."""
        if self._witness is None or self._last is None:
            return
        self._death = self._witness.death()
        if self._death is not None:
            self._last = replace(self._last, death=self._death)
        if self._death is not None or now_ns - self._died_ns > _ASKED_FOR_NS:
            self._witness.close()
            self._witness = None

    def _recall(self, seen: SeenAlive | None) -> None:
        if seen is not None:
            self._seen_alive_ns, self._death = seen.monotonic_ns, seen.death
            self._remembered = (self._seen_alive_ns, self._death)

    def _take_newest_steps(self, newest: int) -> None:
        """Fill the window, back from the record `newest` to where it needs no more."""
        records: list[StepRecord] = []
        first = newest
        while first > 0 and not StepWindow.reached(records):
            first, up_to = max(0, first - _RECORDS_AT_ONCE), first
            older, _ = self._reader.steps(first, up_to)
            if not older:
                break
            records = older + records
        self._window.add(records, complete=len(records) == newest)
        self._newest_record = newest

    def _never_less(self, phase_seconds: Mapping[str, float]) -> Mapping[str, float]:
        """The seconds, of no phase less than at an earlier look.

        Between the writer's look at its clock and its change of phase, the phase that ends was seen longer.
        """
        self._phase_seconds = {
            phase: max(seconds, self._phase_seconds.get(phase, 0.0))
            for phase, seconds in phase_seconds.items()
        }
        return self._phase_seconds

    def _take(self, event: dict[str, object]) -> None:
        match event:
            case {"event": "scalar", "name": str(name), "slot": int(slot)}:
                if 0 <= slot < SCALARS and _LABEL_VALUE.fullmatch(name) and self._is_free(name, slot):
                    self._scalar_names[slot] = name
            case {"event": "finish", "reason": str(reason)} | {"event": "fail", "type": str(reason)}:
                self._reason = printable(reason)
            case {"event": "exception", "type": str(kind), "place": str(place), **more}:
                message = more.get("message")
                told = printable(message)[:_LONGEST_INFO] if isinstance(message, str) else None
                self._failure = Failure(printable(kind), printable(place), told)
            case {"event": "stage", "name": str(name), "time_ns": int(since_ns)}:
                if _LABEL_VALUE.fullmatch(name) and 0 <= since_ns < 2**63:
                    self._stage = Stage(name, since_ns)
            case {"event": "info"}:
                self._take_info(event)

    def _take_info(self, event: Mapping[str, object]) -> None:
        """Facts that became known later, over those the recording opened with."""
        for key, value in event.items():
            known = key in self._info or len(self._info) < _MOST_INFO
            if key not in _OF_EVERY_EVENT and isinstance(value, str) and known:
                self._info[key[:_LONGEST_INFO]] = value[:_LONGEST_INFO]

    def _is_free(self, name: str, slot: int) -> bool:
        return slot not in self._scalar_names and name not in self._scalar_names.values()

    def close(self) -> None:
        self._reader.close()
        if self._witness is not None:
            self._witness.close()
            self._witness = None


def file_at(path: Path) -> tuple[int, int] | None:
    """What tells a dead recording from another under its name: inode and time of the last change, in ns."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def wall_offset_seconds(static: Static, clocks_offset_seconds: float) -> float:
    """What turns monotonic seconds of a recording into unix time.

    Its own pair of clocks, so that times come out alike in every service and after its restart; the clocks
    of now where somebody has set them since.
    """
    own = (static.start_wall_ns - static.start_monotonic_ns) / 1e9
    was_set = abs(clocks_offset_seconds - own) > CLOCK_WAS_SET_SECONDS
    return clocks_offset_seconds if was_set and static.boot_id == recording.boot_id() else own
