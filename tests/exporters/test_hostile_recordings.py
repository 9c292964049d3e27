"""Recordings whose header is right and whose numbers and events are anything: the collector stays sane."""

from __future__ import annotations

import contextlib
import json
import math
import os
import struct
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporters import exposition
from exporters.collector import Histogram, Sample
from exporters.history.database import Database
from exporters.history.gauges import GaugesCollector
from exporters.history.writer import HistoryCollector
from exporters.recordings import RecordingsCollector
from tests.exporters.history.written import SECOND, rows, steps, write
from tests.exporters.looks import by_series, published, state, value
from tests.exporters.trainers import set_slot, small_recording
from trainer_hooks import recording
from trainer_hooks.recording import (
    HEADER,
    LIVE,
    LIVE_OFFSET,
    LIVE_SLOTS,
    NUMBER,
    RECORD_FIELDS,
    RING_OFFSET,
    SLOT,
    EventReader,
    Recorder,
    RecordingError,
    RecordingReader,
)

# A sum of losses falls where they are negative. A gauge says what the file says.
MAY_FALL = "training_loss_token_sum_total"
MAY_OVERFLOW = ("training_perplexity", "validation_perplexity")

words = st.one_of(
    st.integers(0, 2**64 - 1),
    st.sampled_from([0, 1, 2**63 - 1, 2**63, 2**64 - 1]),
    st.floats(width=64).map(lambda number: int.from_bytes(struct.pack("@d", number), "little")),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
kinds = st.sampled_from(
    [
        *("start", "scalar", "info", "finish", "fail", "exception", "evaluation", "checkpoint", "resume"),
        "stage",
    ]
)
keys = st.sampled_from(
    ["event", "time_ns", "step", "name", "slot", "reason", "type", "place", "pid", "loss_kind", "seconds"]
)
events = st.builds(
    lambda kind, fields: json.dumps({"event": kind, **fields}).encode(),
    kinds | json_values,
    st.dictionaries(keys | st.text(max_size=8), json_values | kinds, max_size=6),
)


def sane(sample: Sample) -> bool:
    """Whether Prometheus could make sense of the value."""
    name, value = sample.metric.name, sample.value
    if isinstance(value, Histogram):
        counts = list(value.cumulative_counts)
        return counts == sorted(counts) and min(counts) >= 0 and math.isfinite(value.sum) and value.sum >= 0
    if math.isnan(value) or (math.isinf(value) and not (value > 0 and name in MAY_OVERFLOW)):
        return False
    return value >= 0 or sample.metric.kind != "counter" or name == MAY_FALL


def good_recording(directory: Path) -> Recorder:
    """One of three steps and an event."""
    good = small_recording(directory, "good")
    write(good, steps(good, [2.0] * 3))
    good.event({"event": "checkpoint", "time_ns": good.static.start_monotonic_ns, "step": 1})
    return good


def kept_beside_it(directory: Path, samples: list[Sample]) -> list[tuple[object, ...]]:
    """The steps of the bad run in the history, whose good run is whole."""
    with tempfile.TemporaryDirectory() as state_folder:
        database = Database(Path(state_folder) / "history.db")
        with contextlib.closing(HistoryCollector([directory], database)) as collector:
            for _ in range(2):
                list(collector.collect())
        list(GaugesCollector(lambda: samples, database).collect())
        of_run = "JOIN recordings ON recordings.id = recording WHERE run = ?"
        assert rows(database, f"SELECT count(*) FROM steps {of_run}", "good") == [(3,)]
        assert rows(database, f"SELECT count(*) FROM buckets {of_run}", "good") >= [(3,)]
        assert rows(database, "SELECT count(*) FROM events WHERE run = 'good'") == [(1,)]
        assert rows(database, "SELECT * FROM samples JOIN series ON series = id WHERE run = 'good'")
        found = rows(database, f"SELECT * FROM steps {of_run} ORDER BY end_ns", "bad")
        database.close()
        return found


@settings(max_examples=25, deadline=None)
@given(
    live=st.dictionaries(st.integers(0, LIVE.size // 8 - 1), words, max_size=60),
    ring=st.lists(st.tuples(st.integers(0, 100), words), max_size=20),
    lines=st.lists(events | st.binary(max_size=60), max_size=6),
)
def test_whatever_numbers_and_events_a_recording_holds_what_is_published_is_sane(
    live: dict[int, int], ring: list[tuple[int, int]], lines: list[bytes]
) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        good, bad = good_recording(Path(folder)), small_recording(Path(folder), "bad")
        assert bad.path is not None
        for _ in range(4):
            bad.append(bytes(recording.BODY.size))
        with bad.path.open("r+b") as file:
            for slot, word in live.items():
                os.pwrite(file.fileno(), NUMBER.pack(word), LIVE_OFFSET + 8 * slot)
            for place, word in ring:
                os.pwrite(file.fileno(), NUMBER.pack(word), RING_OFFSET + 8 * place)
        bad.path.with_suffix(".events.jsonl").write_bytes(b"\n".join(lines) + b"\n")
        with contextlib.closing(RecordingsCollector([Path(folder)])) as collector:
            for _ in range(2):
                samples = list(collector.collect())
                by_series(samples)
                assert [sample for sample in samples if not sane(sample)] == []
                assert state(samples, "good") == "running"
                assert json.dumps([each.run for each in collector.runs])
                assert exposition.render(samples, None)
        kept_beside_it(Path(folder), samples)
        with contextlib.suppress(RecordingError):
            reader = RecordingReader(bad.path)
            reader.steps()
            reader.close()
        EventReader(bad.path).new()
        for each in (good, bad):
            each.close(recording.FINISHED, 1)


def of_steps(**values: Any) -> Callable[[Recorder], None]:
    """Writes steps with these values."""

    def spoil(bad: Recorder) -> None:
        count = len(next(iter(values.values())))
        records = steps(bad, [2.0] * count)
        write(bad, (each._replace(**{k: v[i] for k, v in values.items()}) for i, each in enumerate(records)))

    return spoil


def with_slot(name: str, word: int) -> Callable[[Recorder], None]:
    return lambda bad: bad.unsigned.__setitem__(SLOT[name], word)


def times_that_go_back(bad: Recorder) -> None:
    start_ns = bad.static.start_monotonic_ns
    of_steps(time_ns=[start_ns + seconds * SECOND for seconds in (1, 2, 4, 0)])(bad)
    set_slot(bad, steps_expected=100)


def times_that_stand_still(bad: Recorder) -> None:
    of_steps(time_ns=[bad.static.start_monotonic_ns] * 4, duration_ns=[0] * 4)(bad)
    set_slot(bad, steps_expected=100)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda bad: bad.event({"event": "start", "time_ns": 10**400, "step": 0}),
        lambda bad: bad.event({"event": "start", "time_ns": 1, "step": 0, "loss": 10**400}),
        of_steps(duration_ns=[2**62] * 4),
        of_steps(time_ns=[2**63, 2**64 - 1, 2**63 - 1, 0]),
        times_that_go_back,
        times_that_stand_still,
        with_slot("nonfinite_loss", 2**63),
        with_slot("records", 2**64 - 1),
        with_slot("records", 2**62),
    ],
)
def test_a_recording_with_numbers_of_no_training_spoils_neither_metrics_nor_history(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil: Callable[[Recorder], None]
) -> None:
    good_recording(tmp_path)
    bad = small_recording(tmp_path, "bad")
    spoil(bad)

    with contextlib.closing(RecordingsCollector([tmp_path])) as collector:
        samples = list(collector.collect())

    assert [state(samples, run) for run in ("good", "bad")] == ["running", "running"]
    assert exposition.render(samples, None)
    kept_beside_it(tmp_path, samples)
    assert caplog.records == []


Slot = tuple[str, str, int]


def laid_out_with(recorder: Recorder, lengths: Mapping[str, int]) -> None:
    """Lay a recording out anew, as that of a killed process: fields longer, filled with 1, or shorter."""
    assert recorder.path is not None
    whole = recorder.path.read_bytes()
    recorder.disarm()
    *header, length, _ = HEADER.unpack_from(whole)
    content = json.loads(whole[HEADER.size : HEADER.size + length])

    def relaid(slots: Sequence[Slot], words: bytes) -> tuple[list[Slot], bytes]:
        described, laid = [], b""
        for name, code, count in slots:
            own, words = words[: 8 * count], words[8 * count :]
            wanted = lengths.get(name, count)
            described.append((name, code, wanted))
            laid += (own + NUMBER.pack(1) * wanted)[: 8 * wanted]
        return described, laid

    content["live"], live = relaid(LIVE_SLOTS, whole[LIVE_OFFSET : LIVE_OFFSET + LIVE.size])
    ring = b""
    for place in range(recorder.ring_capacity):
        at = RING_OFFSET + place * recording.RECORD.size
        number, body, _, _, _ = recording.RECORD.unpack_from(whole, at)
        content["record"], body = relaid(RECORD_FIELDS, body)
        packed = NUMBER.pack(number)
        ring += packed + body + struct.pack("@II", zlib.crc32(body), 0) + packed
    text = json.dumps(content).encode()
    header[5:8] = len(live) // 8, LIVE_OFFSET + len(live), len(body) + 24
    start = HEADER.pack(*header, len(text), 0)
    start = HEADER.pack(*header, len(text), zlib.crc32(start + text)) + text
    other = recorder.path.with_name("other")
    other.write_bytes(start.ljust(LIVE_OFFSET, b"\0") + live + ring)
    other.rename(recorder.path)


MANY = {slot.name: slot.length for slot in LIVE_SLOTS if slot.length > 1}


@pytest.mark.parametrize("more", [-1, 1, 7])
def test_a_recording_whose_fields_are_of_other_lengths_is_read_as_far_as_it_is_known(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, more: int
) -> None:
    good_recording(tmp_path)
    bad = small_recording(tmp_path, "bad", info={"loss_kind": "cross_entropy"})
    write(bad, steps(bad, [2.0] * 3))
    for index in range(MANY["step_duration_counts"]):
        bad.unsigned[SLOT["step_duration_counts"] + index] = 2
    laid_out_with(bad, {name: length + more for name, length in MANY.items()})

    with contextlib.closing(RecordingsCollector([tmp_path])) as collector:
        samples = list(collector.collect())

    assert [state(samples, run) for run in ("good", "bad")] == ["running", "killed"]
    assert [sample for sample in samples if not sane(sample)] == []
    assert exposition.render(samples, None)
    histogram = value(samples, "training_step_duration_seconds", run="bad")
    assert isinstance(histogram, Histogram)
    assert len(histogram.cumulative_counts) == MANY["step_duration_counts"]
    assert histogram.cumulative_counts[-1] == 2 * MANY["step_duration_counts"] + (more if more > 0 else -2)
    assert len(kept_beside_it(tmp_path, samples)) == 3
    assert caplog.records == []
    (path,) = (path for path in recording.find(tmp_path) if "bad" in path.parts)
    read = RecordingReader(path).steps()[0]
    other = recording.PHASE_CODES["other"]
    assert {len(each.phase_ns) for each in read} == {len(recording.PHASES)}
    assert [each.phase_ns[other] for each in read] == [max(0, more)] * 3


@pytest.mark.timeout(60)
def test_a_folder_full_of_what_is_no_recording_hides_none(tmp_path: Path) -> None:
    good = small_recording(tmp_path, "good")
    assert good.path is not None
    folder = good.path.parent
    (folder / "rank-1.1.steps").mkdir()
    os.mkfifo(folder / "rank-2.1.steps")
    (folder / "rank-3.1.steps").symlink_to("/dev/zero")
    (folder / "rank-4.1.steps").symlink_to(good.path)
    with (folder / "rank-5.1.steps").open("wb") as sparse:
        sparse.truncate(1 << 40)
    (folder / "rank-6.1.steps").write_bytes(os.urandom(1 << 16))
    (folder / "rank-0.1.events.jsonl").unlink()
    os.mkfifo(folder / "rank-0.1.events.jsonl")
    (tmp_path / "linked").symlink_to(tmp_path / "good")
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "deep" / "deeper" / "deepest").mkdir(parents=True)
    (tmp_path / "-rf").mkdir()

    with contextlib.closing(RecordingsCollector([tmp_path])) as collector:
        samples = list(collector.collect())

    assert state(samples, "good") == "running"
    assert published(samples)["full"] == 1
    assert {each.labels["run"] for each in samples if "run" in each.labels} == {"good"}
    good.close(recording.FINISHED, 1)
