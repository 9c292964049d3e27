"""What is no recording, a broken one, one of another version, or one that lies."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import struct
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.trainer_hooks.test_recording import append, static
from tests.trainer_hooks.writer import record
from trainer_hooks import recording
from trainer_hooks.recording import (
    HEADER,
    LIVE_OFFSET,
    LIVE_SLOTS,
    RECORD_FIELDS,
    RING_OFFSET,
    SLOT,
    EventReader,
    Live,
    Recorder,
    RecordingError,
    RecordingReader,
    StepRecord,
)

HEADER_FIELDS = (
    "magic",
    "byte_order_mark",
    "major",
    "minor",
    "live_offset",
    "live_slots",
    "ring_offset",
    "record_size",
    "ring_capacity",
    "description_length",
    "crc",
)
Slots = Sequence[Sequence[object]]


@functools.cache
def whole() -> bytes:
    """A recording of six steps with room for four."""
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(Path(folder), static(), ring_capacity=4)
        assert recorder.path is not None
        for step in range(1, 7):
            append(recorder, record(step))
        recorder.unsigned[SLOT["steps"]] = 6
        recorder.doubles[SLOT["loss"]] = 6.0
        recorder.close(recording.FINISHED, 99)
        return recorder.path.read_bytes()


def described() -> dict[str, Any]:
    """The JSON of a good header."""
    length = HEADER.unpack_from(whole())[-2]
    content: dict[str, Any] = json.loads(whole()[HEADER.size : HEADER.size + length])
    return content


def image(description: object, body: bytes | None = None, **header: object) -> bytes:
    """A recording with this description and these values of the header, whose checksum is right."""
    text = description if isinstance(description, bytes) else json.dumps(description).encode()
    values = dict(zip(HEADER_FIELDS, HEADER.unpack_from(whole()), strict=True))
    values.update({"description_length": len(text)} | header | {"crc": 0})
    values["crc"] = zlib.crc32(HEADER.pack(*values.values()) + text)
    start = (HEADER.pack(*values.values()) + text).ljust(LIVE_OFFSET, b"\0")
    return start + (whole()[LIVE_OFFSET:] if body is None else body)


def laid_down(folder: Path, content: bytes, name: str = "rank-0.1.steps") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def reason(path: Path) -> str:
    """Why the recording is refused."""
    with pytest.raises(RecordingError) as refusal:
        use(path)
    assert str(path) in str(refusal.value)
    return refusal.value.reason


def use(path: Path) -> tuple[Live, list[StepRecord]]:
    reader = RecordingReader(path)
    try:
        reader.alive()
        return reader.live(), reader.steps()[0]
    finally:
        reader.close()


def test_a_whole_recording_is_readable_at_another_place(tmp_path: Path) -> None:
    live, steps = use(laid_down(tmp_path, image(described())))

    assert (live.steps, live.loss, live.outcome) == (6, 6.0, recording.FINISHED)
    assert steps == [record(step) for step in range(3, 7)]


@settings(max_examples=80, deadline=None)
@given(length=st.integers(0, len(whole()) - 1))
@example(length=0)
@example(length=HEADER.size - 1)
@example(length=HEADER.size)
@example(length=LIVE_OFFSET)
@example(length=RING_OFFSET)
@example(length=len(whole()) - 1)
def test_a_truncated_recording_is_refused_as_truncated(length: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert reason(laid_down(Path(folder), whole()[:length])) == "truncated"


def test_a_recording_that_shrinks_while_it_is_read_is_refused_as_truncated(tmp_path: Path) -> None:
    path = laid_down(tmp_path, whole())
    reader = RecordingReader(path)
    os.truncate(path, LIVE_OFFSET + 8)

    for read in (reader.live, reader.steps):
        with pytest.raises(RecordingError) as refusal:
            read()
        assert refusal.value.reason == "truncated"
    reader.close()


@settings(max_examples=150, deadline=None)
@given(data=st.data(), other=st.integers(1, 255))
def test_one_wrong_byte_anywhere_in_the_header_is_noticed(data: st.DataObject, other: int) -> None:
    end = HEADER.size + HEADER.unpack_from(whole())[-2]
    at = data.draw(st.one_of(st.integers(0, HEADER.size - 1), st.integers(0, end - 1)))
    content = bytearray(whole())
    content[at] ^= other
    with tempfile.TemporaryDirectory() as folder:
        found = reason(laid_down(Path(folder), bytes(content)))

    major_at, length_at = 12, HEADER.size - 8
    allowed = {"corrupt"}
    if major_at <= at < major_at + 2:
        allowed = {"newer_version", "corrupt"}
    elif length_at <= at < length_at + 4:
        allowed = {"truncated", "corrupt"}
    assert found in allowed


@settings(max_examples=150, deadline=None)
@given(
    start=st.sampled_from([0, 8, HEADER.size, HEADER.size + 40, LIVE_OFFSET, LIVE_OFFSET + 64, RING_OFFSET]),
    noise=st.binary(max_size=600),
    end=st.one_of(st.just(len(whole())), st.integers(0, len(whole()))),
)
def test_whatever_bytes_there_are_the_reader_reads_or_refuses(start: int, noise: bytes, end: int) -> None:
    content = whole()[:start] + noise + whole()[start + len(noise) :]
    with tempfile.TemporaryDirectory() as folder:
        path = laid_down(Path(folder), content[:end])
        path.with_suffix(".events.jsonl").write_bytes(noise + b"\n" + noise)
        EventReader(path).new()
        with contextlib.suppress(RecordingError):
            _, steps = use(path)
            assert all(step == record(step.step) for step in steps)


def test_another_major_version_is_refused_a_newer_one_by_name(tmp_path: Path) -> None:
    major, minor = recording.VERSION

    assert reason(laid_down(tmp_path, image(described(), major=major + 1))) == "newer_version"
    assert reason(laid_down(tmp_path, image(b"of another layout", major=major + 9))) == "newer_version"
    assert reason(laid_down(tmp_path, image(described(), major=major - 1))) == "corrupt"
    assert use(laid_down(tmp_path, image(described(), minor=minor + 7)))[0].steps == 6


@pytest.mark.parametrize(
    "lie",
    [
        {"ring_capacity": 0},
        {"ring_capacity": 2**32 - 1},
        {"record_size": 2**32 - 1},
        {"record_size": 8},
        {"ring_offset": 2**32 - 1},
        {"ring_offset": LIVE_OFFSET},
        {"live_offset": 2**32 - 1},
        {"live_slots": 2**32 - 1},
        {"live_slots": 1},
        {"byte_order_mark": 0x04030201},
        {"magic": b"NOTAVITL"},
    ],
    ids=str,
)
def test_a_header_that_contradicts_itself_is_refused_before_anything_large_is_read(
    tmp_path: Path, lie: dict[str, Any]
) -> None:
    assert reason(laid_down(tmp_path, image(described(), **lie))) == "corrupt"


def test_a_recording_larger_than_any_is_refused_though_its_file_is_there(tmp_path: Path) -> None:
    capacity = recording.MAX_FILE_BYTES // recording.RECORD.size + 1
    path = laid_down(tmp_path, image(described(), ring_capacity=capacity))
    os.truncate(path, recording.MAX_FILE_BYTES * 2)

    assert reason(path) == "corrupt"


def altered(**static_values: object) -> dict[str, Any]:
    content = described()
    content["static"].update(static_values)
    return content


def with_live(slots: Slots) -> dict[str, Any]:
    return described() | {"live": slots}


SLOTS = [list(slot) for slot in LIVE_SLOTS]
MALICE = {
    "no JSON": b"{",
    "a list": [],
    "nested deeply": b"[" * 12_000,
    "no static part": {"live": [], "record": []},
    "a run that is a path": altered(run="../../etc"),
    "a run with a line break": altered(run='a"} 1\ntraining_run_state{run="b'),
    "a node that is no text": altered(node=1),
    "a pid that is text": altered(pid="self"),
    "a start beyond any clock": altered(start_wall_ns=10**400),
    "info that is a list": altered(info=[]),
    "info that holds a list": altered(info={"model": []}),
    "slots that are no list": with_live(1),  # type: ignore[arg-type]
    "a slot of text": with_live([*SLOTS[:-1], ["scalars", "s", 512]]),
    "a slot of two kinds": with_live([*SLOTS[:-1], ["scalars", "dd", 32]]),
    "a slot of a length that is text": with_live([*SLOTS[:-1], ["scalars", "d", "64"]]),
    "a slot of no length": with_live([*SLOTS, ["more", "d", 0]]),
    "a slot longer than memory": with_live([*SLOTS[:-1], ["scalars", "d", 10**12]]),
    "a slot that was a number and is text": with_live([["phase_word", "d", 1], *SLOTS[1:]]),
    "a slot that was one and is many": with_live([*SLOTS[:2], ["steps", "Q", 2], *SLOTS[4:]]),
    "a slot twice": with_live([*SLOTS[:3], SLOTS[2], *SLOTS[4:]]),
    "no phase": with_live([["phases", "Q", 1], *SLOTS[1:]]),
    "a slot whose name is no text": with_live([*SLOTS[:-1], [1, "d", 64]]),
}


@pytest.mark.parametrize("description", MALICE.values(), ids=MALICE)
def test_a_description_made_to_harm_is_refused_though_its_checksum_is_right(
    tmp_path: Path, description: object
) -> None:
    assert reason(laid_down(tmp_path, image(description))) == "corrupt"


def test_what_a_newer_minor_version_adds_is_left_out_and_the_rest_is_read_by_name(tmp_path: Path) -> None:
    live = [["invented", "d", 3], *reversed(SLOTS), ["phases_more", "Q", 1]]
    fields = [["invented", "Q", 2], *map(list, RECORD_FIELDS)]
    content = described() | {"live": live, "record": fields, "later": True}
    content["static"]["colour"] = "blue"
    values = described_values()
    live_bytes = b"".join(values.get(str(slot[0]), bytes(8 * int(str(slot[2])))) for slot in live)
    ring = b"".join(ring_record(number, bytes(16)) for number in (5, 6, 3, 4))
    minor = image(
        content,
        live_bytes + ring,
        minor=recording.VERSION[1] + 1,
        live_slots=len(live_bytes) // 8,
        ring_offset=LIVE_OFFSET + len(live_bytes),
        record_size=recording.RECORD.size + 16,
    )

    read_live, steps = use(laid_down(tmp_path, minor))

    assert read_live == use(laid_down(tmp_path, whole()))[0]
    assert steps == [record(step) for step in range(3, 7)]


def test_what_an_older_minor_version_lacks_is_unknown_and_the_rest_is_read_by_name(tmp_path: Path) -> None:
    live = [slot for slot in SLOTS if slot[0] in ("phase_word", "steps", "records", "samples")]
    content = described() | {"live": live, "record": [["step", "Q", 1]]}
    values = described_values()
    live_bytes = b"".join(values[str(slot[0])] for slot in live)
    ring = sealed(6, recording.NUMBER.pack(6)) * 4
    minor = image(
        content,
        live_bytes + ring,
        live_slots=len(live),
        ring_offset=LIVE_OFFSET + len(live_bytes),
        record_size=8 + 24,
    )

    read_live, (step,) = use(laid_down(tmp_path, minor))

    assert (read_live.steps, read_live.loss, read_live.learning_rates[0]) == (6, None, None)
    assert (step.step, step.samples, step.phase_ns) == (6, 0, (0,) * len(recording.PHASES))
    assert step.loss != step.loss


def described_values() -> dict[str, bytes]:
    """The bytes of each live slot of the whole recording."""
    return {slot.name: whole()[LIVE_OFFSET + 8 * SLOT[slot.name] :][: 8 * slot.length] for slot in LIVE_SLOTS}


def ring_record(number: int, before: bytes) -> bytes:
    """The whole recording's record of this number, with a field of these bytes put in front."""
    at = RING_OFFSET + (number - 1) % 4 * recording.RECORD.size
    leading, body, _, _, trailing = recording.RECORD.unpack_from(whole(), at)
    assert leading == trailing == number
    return sealed(number, before + body)


def sealed(number: int, body: bytes) -> bytes:
    """A step record of this number, whatever its fields."""
    packed = recording.NUMBER.pack(number)
    return packed + body + struct.pack("@II", zlib.crc32(body), 0) + packed


def test_a_name_that_is_no_recordings_is_refused(tmp_path: Path) -> None:
    for name in ("rank-0.steps", "rank-0.1.steps.bak", "rank-x.1.steps", ".rank-0.1.2.tmp"):
        assert reason(laid_down(tmp_path, whole(), name)) == "corrupt"


@pytest.mark.timeout(10)
def test_a_pipe_a_link_a_folder_or_nothing_in_place_of_a_recording_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "rank-0.1.steps"
    assert reason(path) == "corrupt"
    os.mkfifo(path)
    assert reason(path) == "corrupt"
    path.unlink()
    laid_down(tmp_path, whole(), "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert reason(path) == "corrupt"
    path.unlink()
    path.mkdir()
    assert reason(path) == "corrupt"
    events = path.with_suffix(".events.jsonl")
    os.mkfifo(events)
    assert EventReader(path).new() == []


def test_a_recording_that_may_not_be_read_is_refused_with_that_reason() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = laid_down(Path(folder), whole())
        path.chmod(0)
        child = os.fork()
        if child == 0:
            if os.getuid() == 0:  # who may read everything
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            os._exit(0 if reason(path) == "not_permitted" else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_one_bad_recording_is_nothing_to_the_others(tmp_path: Path) -> None:
    recorders = [Recorder(tmp_path, static(f"run-{number}"), ring_capacity=4) for number in range(3)]
    assert recorders[1].path is not None
    recorders[1].path.write_bytes(b"no recording any more")
    refused, read = [], []
    for path in recording.find(tmp_path):
        try:
            use(path)
            read.append(path.parts[-3])
        except RecordingError as error:
            refused.append((path.parts[-3], error.reason))

    assert read == ["run-0", "run-2"]
    assert refused == [("run-1", "truncated")]
    for recorder in (recorders[0], recorders[2]):
        recorder.close(recording.FINISHED, 1)
