from __future__ import annotations

import itertools
import json
import math
import os
import resource
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from exporters import catalog
from exporters.collector import Sample
from exporters.history.database import Database
from exporters.history.steps import WIDTHS_SECONDS
from exporters.history.writer import HistoryCollector
from tests.exporters.history.written import full_disk, packed, read_all, recorder, rows, steps, write
from tests.exporters.looks import Clocks
from tests.exporters.trainers import small_recording
from trainer_hooks.recording import FINISHED, Recorder, RecordingReader, this_process


def told(samples: list[Sample]) -> dict[str, float]:
    return {each.metric.name: each.value for each in samples if isinstance(each.value, int | float)}


def test_every_step_is_there_as_it_was_recorded(
    directory: Path, database: Database, collector: HistoryCollector
) -> None:
    training = recorder(directory)
    records = steps(training, [2.0, 1.5, math.nan])
    write(training, records)

    list(collector.collect())

    found = rows(database, "SELECT step, end_ns, loss, forward_ns, tokens_all, gradient_norm FROM steps")
    assert found == [
        (
            each.step,
            each.time_ns,
            None if math.isnan(each.loss) else each.loss,
            each.phase_ns[2],
            each.tokens_all,
            None,
        )
        for each in records
    ]


def test_a_service_that_starts_anew_goes_on_where_the_last_one_was(
    directory: Path, database: Database
) -> None:
    training = recorder(directory)
    records = steps(training, [2.0] * 30)
    write(training, records[:10])
    training.event({"event": "start", "time_ns": 1, "step": 0})
    first = HistoryCollector([directory], database)
    list(first.collect())
    write(training, records[10:])
    training.event({"event": "resume", "time_ns": 2, "step": 7})

    second = HistoryCollector([directory], database)
    list(second.collect())

    assert rows(database, "SELECT count(*), max(step) FROM steps") == [(30, 30)]
    assert rows(database, "SELECT kind, step FROM events ORDER BY id") == [("start", 0), ("resume", 7)]
    for each in (first, second):
        each.close()


def test_what_the_ring_lost_before_it_was_read_is_counted(
    directory: Path, database: Database, collector: HistoryCollector
) -> None:
    training = recorder(directory, ring_capacity=8)
    records = steps(training, [2.0] * 20)
    write(training, records[:5])
    list(collector.collect())
    write(training, records[5:])

    samples = told(list(collector.collect()))

    assert samples[catalog.HISTORY_LOST_STEPS_TOTAL.name] == 7
    assert samples[catalog.HISTORY_STEPS_TOTAL.name] == 13
    assert rows(database, "SELECT lost_records FROM recordings") == [(7,)]


def test_a_round_that_finds_the_disk_full_loses_nothing(
    directory: Path, database: Database, collector: HistoryCollector
) -> None:
    training = recorder(directory)
    records = steps(training, [2.0] * 2000)
    write(training, records[:1000])
    list(collector.collect())
    write(training, records[1000:])

    with full_disk(database.path.with_name("history.db-wal")), pytest.raises(sqlite3.Error):
        list(collector.collect())

    assert rows(database, "SELECT count(*) FROM steps") == [(1000,)]
    assert told(list(collector.collect()))[catalog.HISTORY_STEPS_TOTAL.name] == 2000
    assert rows(database, "SELECT count(*), sum(loss) FROM steps") == [(2000, 4000)]


def test_a_database_that_was_removed_is_built_anew_from_the_recordings(
    directory: Path, tmp_path: Path
) -> None:
    training = recorder(directory)
    write(training, steps(training, [2.0] * 5000))
    found = []
    for name in ("first.db", "second.db"):
        database = Database(tmp_path / name)
        collector = HistoryCollector([directory], database)
        read_all(collector)
        found.append(rows(database, "SELECT * FROM steps ORDER BY end_ns"))
        collector.close()
        database.close()

    assert len(found[0]) == 5000
    assert found[0] == found[1]


def test_a_recording_that_is_over_is_read_to_its_end_and_let_go(
    directory: Path, database: Database, collector: HistoryCollector
) -> None:
    training = recorder(directory)
    write(training, steps(training, [2.0] * 5000))
    training.close(FINISHED, training.static.start_monotonic_ns + 1)

    read_all(collector)

    assert rows(database, "SELECT count(*) FROM steps") == [(5000,)]
    assert rows(database, "SELECT records, over FROM recordings") == [(5000, 1)]
    assert not collector.open_recordings


def test_a_recording_whose_file_is_removed_while_it_lives_is_read_on(
    directory: Path, database: Database, collector: HistoryCollector
) -> None:
    training = recorder(directory)
    records = steps(training, [2.0] * 10)
    write(training, records[:5])
    list(collector.collect())
    assert training.path is not None
    training.path.unlink()
    write(training, records[5:])

    list(collector.collect())

    assert rows(database, "SELECT count(*) FROM steps") == [(10,)]


def test_two_services_with_one_database_write_each_step_and_event_once(
    directory: Path, database: Database, tmp_path: Path
) -> None:
    training = recorder(directory)
    records = steps(training, [2.0] * 30)
    other = Database(database.path)
    services = [HistoryCollector([directory], each) for each in (database, other)]
    for number, record in enumerate(records):
        training.append(packed(record))
        training.event({"event": "checkpoint", "time_ns": record.time_ns, "step": record.step})
        list(services[number % 2].collect())

    assert rows(database, "SELECT count(*) FROM steps") == [(30,)]
    assert rows(database, "SELECT count(*) FROM events") == [(30,)]
    for service in services:
        service.close()
    other.close()


def test_a_record_with_a_number_beyond_63_bits_stops_neither_the_others_nor_the_service(
    directory: Path, database: Database, collector: HistoryCollector
) -> None:
    training = recorder(directory)
    records = steps(training, [2.0] * 3)
    write(training, [records[0], records[1]._replace(tokens_all=2**63), records[2]])

    samples = told(list(collector.collect()))

    assert rows(database, "SELECT step FROM steps") == [(1,), (3,)]
    assert samples[catalog.HISTORY_LOST_STEPS_TOTAL.name] == 1


def test_an_event_keeps_numbers_and_short_texts_and_nothing_else(
    directory: Path, database: Database, collector: HistoryCollector
) -> None:
    training = recorder(directory)
    training.event(
        {"event": "exception", "time_ns": 1, "step": 3, "type": "ValueError", "deep": [1], "text": "x" * 5000}
    )
    training.event({"event": "scalar", "time_ns": 1, "step": 3, "name": "a", "slot": 0})
    training.event({"event": "no time"})

    list(collector.collect())

    ((kind, fields),) = rows(database, "SELECT kind, fields FROM events")
    assert kind == "exception"
    assert fields == '{"type": "ValueError", "text": "' + "x" * 1024 + '"}'


def test_an_event_of_a_number_that_no_database_holds_is_passed_over_and_the_others_stay(
    directory: Path, database: Database, collector: HistoryCollector
) -> None:
    training = recorder(directory)
    training.event({"event": "start", "time_ns": 10**400, "step": 0})
    training.event({"event": "start", "time_ns": -1, "step": 0})
    training.event({"event": "evaluation", "time_ns": 1, "step": 10**400, "loss": 10**400, "accuracy": 0.5})

    list(collector.collect())

    ((kind, step, fields),) = rows(database, "SELECT kind, step, fields FROM events")
    assert (kind, step, json.loads(str(fields))) == ("evaluation", None, {"accuracy": 0.5})


def test_a_kind_of_event_is_cut_and_only_the_service_tells_of_states(
    directory: Path, database: Database, collector: HistoryCollector
) -> None:
    training = recorder(directory)
    training.event({"event": "state", "time_ns": 1, "step": 0, "state": "finished"})
    training.event({"event": "x" * 5000, "time_ns": 1, "step": 0})

    list(collector.collect())

    assert rows(database, "SELECT kind FROM events") == [("x" * 64,)]


def test_events_older_than_anything_is_kept_are_left_out(
    directory: Path, database: Database, collector: HistoryCollector
) -> None:
    for days in (89, 91):
        static = this_process(run="a-run", node="here", rank=0, local_rank=0, world_size=1, info={})
        began_ns = time.time_ns() - days * 86_400 * 10**9
        training = Recorder(
            directory, static._replace(boot_id="another-boot", start_wall_ns=began_ns), ring_capacity=4
        )
        training.event({"event": "checkpoint", "time_ns": static.start_monotonic_ns, "step": days})

    list(collector.collect())

    assert rows(database, "SELECT step FROM events") == [(89,)]


def test_a_sum_too_great_for_an_integer_stops_neither_the_others_nor_the_service(
    directory: Path, database: Database, collector: HistoryCollector
) -> None:
    training, other = recorder(directory), recorder(directory, "other")
    write(training, (each._replace(duration_ns=2**62, loss=2.0**62) for each in steps(training, [2.0] * 5)))
    write(other, steps(other, [2.0] * 5))

    for _ in range(2):
        list(collector.collect())

    # The five seconds may lie in two buckets.
    of_widest = f"FROM buckets WHERE width_seconds = {WIDTHS_SECONDS[-1]} GROUP BY recording"
    sums = rows(database, f"SELECT total(duration_ns_sum), total(loss_sum) {of_widest}")
    assert sorted(sums) == [(5e9, 10.0), (5 * 2.0**62, 5 * 2.0**62)]


def test_a_recording_that_fails_is_nothing_to_the_others_logged_once_and_tried_again(
    directory: Path,
    database: Database,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever it is that nobody has thought of, also after a part was written."""
    clocks = Clocks()
    collector = HistoryCollector([directory], database, monotonic=lambda: clocks.monotonic_ns() / 1e9)
    for run in ("bad", "good"):
        training = recorder(directory, run)
        write(training, steps(training, [2.0] * 3))
        training.event({"event": "start", "time_ns": 1, "step": 0})
    add_events = HistoryCollector._add_events

    def add_events_but_of_one(
        self: HistoryCollector, connection: sqlite3.Connection, reader: RecordingReader, *rest: Any
    ) -> None:
        if reader.static.run == "bad":
            raise ValueError("unheard of")
        add_events(self, connection, reader, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(HistoryCollector, "_add_events", add_events_but_of_one)
        for _ in range(3):
            samples = told(list(collector.collect()))
            clocks.ahead_seconds += 60
    assert samples[catalog.HISTORY_FAILING_RECORDINGS.name] == 1
    assert rows(database, "SELECT run FROM recordings") == [("good",)]
    assert rows(database, "SELECT count(*) FROM steps") == [(3,)]
    (line,) = (record.getMessage() for record in caplog.records)
    assert "bad/here/rank-0.1.steps is missing in the history: ValueError: unheard of" in line

    samples = told(list(collector.collect()))

    assert samples[catalog.HISTORY_FAILING_RECORDINGS.name] == 0
    assert rows(database, "SELECT count(*) FROM steps") == [(6,)]
    collector.close()


def test_a_recording_that_was_refused_is_read_once_it_can_be(directory: Path, database: Database) -> None:
    """What refuses it for a while, a mode or a want of descriptors, leaves no trace in the file."""
    clocks = Clocks()
    collector = HistoryCollector([directory], database, monotonic=lambda: clocks.monotonic_ns() / 1e9)
    training = recorder(directory, ring_capacity=8)
    write(training, steps(training, [2.0] * 3))
    assert training.path is not None
    changed_at = training.path.stat().st_mtime_ns
    with training.path.open("r+b") as file:
        magic = file.read(8)
        os.pwrite(file.fileno(), bytes(8), 0)
        os.utime(training.path, ns=(changed_at, changed_at))
        list(collector.collect())
        os.pwrite(file.fileno(), magic, 0)
    os.utime(training.path, ns=(changed_at, changed_at))
    clocks.ahead_seconds = 60

    list(collector.collect())

    assert rows(database, "SELECT count(*) FROM steps") == [(3,)]
    collector.close()


@contextmanager
def few_descriptors(more: int) -> Iterator[None]:
    """Within it this process can open so many."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = {int(each.name) for each in Path("/proc/self/fd").iterdir()}
    free = (number for number in itertools.count() if number not in taken)  # the limit may be a billion
    resource.setrlimit(resource.RLIMIT_NOFILE, (next(itertools.islice(free, more, None)), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_many_dead_recordings_need_few_descriptors(
    directory: Path, database: Database, collector: HistoryCollector
) -> None:
    for number in range(60):
        small_recording(directory, f"run-{number}").close(FINISHED, time.monotonic_ns())

    with few_descriptors(30):
        read_all(collector)

    assert rows(database, "SELECT count(*) FROM recordings WHERE over") == [(60,)]
    assert not collector.open_recordings


def test_what_the_ring_has_lost_is_passed_in_one_round(
    directory: Path, database: Database, collector: HistoryCollector
) -> None:
    training = recorder(directory, ring_capacity=8)
    write(training, steps(training, [2.0] * 10_000))

    samples = told(list(collector.collect()))

    assert rows(database, "SELECT min(step), max(step) FROM steps") == [(9_993, 10_000)]
    assert samples[catalog.HISTORY_LOST_STEPS_TOTAL.name] == 9_992


def test_events_stay_beside_the_steps_when_the_clock_is_set(directory: Path, database: Database) -> None:
    clocks = Clocks()
    collector = HistoryCollector([directory], database, wall=clocks.wall)
    training = recorder(directory)
    start_ns = training.static.start_monotonic_ns
    before: list[tuple[object, ...]] = []
    for number, seconds in enumerate((0.0, 0.1, 3600.0, 3600.1)):
        clocks.wall_set_by_seconds = seconds
        training.event({"event": "checkpoint", "time_ns": start_ns + number * 10**9, "step": number})
        list(collector.collect())
        ((offset,),) = rows(database, "SELECT wall_offset_seconds FROM recordings")
        assert isinstance(offset, float)
        events = rows(database, "SELECT at FROM events ORDER BY id")
        assert [at for (at,) in events] == [
            pytest.approx(offset + start_ns / 1e9 + each, abs=0.002) for each in range(number + 1)
        ]
        assert events[:-1] == before or seconds == 3600.0
        before = events
    assert offset == pytest.approx(clocks.wall() - time.monotonic(), abs=0.2)
    collector.close()


def test_the_events_of_another_recording_under_the_name_of_a_removed_one_are_its_own(
    directory: Path, database: Database, collector: HistoryCollector
) -> None:
    first = small_recording(directory, "a-run")
    list(collector.collect())
    assert first.path is not None
    first.path.unlink()
    first.path.with_suffix(".events.jsonl").unlink()
    second = small_recording(directory, "a-run")
    assert second.path == first.path
    second.event({"event": "checkpoint", "time_ns": second.static.start_monotonic_ns, "step": 1})

    for _ in range(2):
        list(collector.collect())

    assert first.armed
    assert rows(database, "SELECT count(*) FROM recordings") == [(2,)]
    assert rows(database, "SELECT kind, step FROM events") == [("checkpoint", 1)]
