"""Recordings whose header is right and whose numbers and events are anything: the collector stays sane."""

from __future__ import annotations

import contextlib
import json
import math
import os
import struct
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporters.collector import Histogram, Sample
from exporters.recordings import RecordingsCollector
from tests.exporters.looks import by_series, published, state
from tests.exporters.trainers import small_recording
from trainer_hooks import recording
from trainer_hooks.recording import (
    LIVE,
    LIVE_OFFSET,
    NUMBER,
    RING_OFFSET,
    EventReader,
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
    ["start", "scalar", "info", "finish", "fail", "exception", "evaluation", "checkpoint", "resume"]
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
        good, bad = small_recording(Path(folder), "good"), small_recording(Path(folder), "bad")
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
        with contextlib.suppress(RecordingError):
            reader = RecordingReader(bad.path)
            reader.steps()
            reader.close()
        EventReader(bad.path).new()
        for each in (good, bad):
            each.close(recording.FINISHED, 1)


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
