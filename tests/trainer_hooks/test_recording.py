from __future__ import annotations

import contextlib
import json
import math
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer_hooks.writer import record
from trainer_hooks import recording
from trainer_hooks.recording import (
    BODY,
    LIVE_SLOTS,
    PHASES,
    RECORD_FIELDS,
    SLOT,
    EventReader,
    Live,
    Recorder,
    RecordingReader,
    Static,
    StepRecord,
)

UNSIGNED = st.integers(0, 2**64 - 1)
DOUBLES = st.floats()
KINDS = pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "unmapped"])


def static(run: str = "run", rank: int = 0) -> Static:
    return recording.this_process(
        run=run, node="node", rank=rank, local_rank=rank, world_size=8, info={"model": "tiny"}
    )


def test_facts_may_be_missing_from_a_header() -> None:
    described = static()._asdict()
    del described["info"]
    assert recording._static(described).info == {}


@contextlib.contextmanager
def recorder_and_reader(capacity: int, mapped: bool) -> Iterator[tuple[Recorder, RecordingReader]]:
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(Path(folder), static(), ring_capacity=capacity, mapped=mapped)
        assert recorder.path is not None
        with contextlib.closing(RecordingReader(recorder.path)) as reader:
            yield recorder, reader
        recorder.close(recording.FINISHED, time.monotonic_ns())


def packed(step: StepRecord) -> bytes:
    return BODY.pack(*step[:3], *step.phase_ns, *step[4:])


def append(recorder: Recorder, step: StepRecord) -> None:
    recorder.append(packed(step))
    recorder.publish()


def same(one: object, other: object) -> bool:
    """Equality that takes NaN for NaN."""
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other or (one != one and other != other)


@st.composite
def live_values(draw: st.DrawFn) -> dict[str, list[Any]]:
    names = draw(st.sets(st.sampled_from([slot.name for slot in LIVE_SLOTS if slot.name != "records"])))
    return {
        slot.name: draw(
            st.lists(UNSIGNED if slot.code == "Q" else DOUBLES, min_size=slot.length, max_size=slot.length)
        )
        for slot in LIVE_SLOTS
        if slot.name in names
    }


step_records = st.builds(
    StepRecord,
    *[
        st.tuples(*[UNSIGNED] * field.length)
        if field.length > 1
        else (UNSIGNED if field.code == "Q" else DOUBLES)
        for field in RECORD_FIELDS
    ],
)


@settings(max_examples=60, deadline=None)
@given(values=live_values(), mapped=st.booleans())
def test_live_values_are_read_as_they_were_written_and_nan_as_unknown(
    values: dict[str, list[Any]], mapped: bool
) -> None:
    with recorder_and_reader(1, mapped) as (recorder, reader):
        before = reader.live()
        for slot in LIVE_SLOTS:
            views = recorder.unsigned if slot.code == "Q" else recorder.doubles
            for offset, value in enumerate(values.get(slot.name, [])):
                views[SLOT[slot.name] + offset] = value
        recorder.publish()
        live = reader.live()

    for slot in LIVE_SLOTS:
        expected: object = getattr(before, slot.name)
        if slot.name in values:
            known = tuple(None if math.isnan(value) else value for value in values[slot.name])
            expected = known if slot.length > 1 else known[0]
        assert getattr(live, slot.name) == expected, slot.name


@settings(max_examples=60, deadline=None)
@given(
    capacity=st.integers(1, 9),
    mapped=st.booleans(),
    actions=st.lists(st.one_of(step_records, st.just("read"), st.integers(0, 40)), max_size=40),
)
def test_each_step_record_is_read_once_and_in_order_whatever_is_written_and_whenever_it_is_read(
    capacity: int, mapped: bool, actions: list[StepRecord | str | int]
) -> None:
    written: list[StepRecord] = []
    after = 0
    with recorder_and_reader(capacity, mapped) as (recorder, reader):
        for action in [*actions, "read", 0]:
            if isinstance(action, StepRecord):
                append(recorder, action)
                written.append(action)
                continue
            begin = after if isinstance(action, str) else action
            found, newest = reader.steps(begin)
            assert newest == len(written) == reader.live().records
            assert same(tuple(found), tuple(written[max(begin, newest - capacity) :]))
            if isinstance(action, str):
                after = newest


@KINDS
def test_after_an_overrun_the_totals_are_exact_and_the_gap_can_be_seen(mapped: bool) -> None:
    with recorder_and_reader(100, mapped) as (recorder, reader):
        for step in range(1, 51):
            append(recorder, record(step))
        first, seen = reader.steps()
        for step in range(51, 1235):
            append(recorder, record(step))
            recorder.unsigned[SLOT["steps"]] = step
        recorder.publish()
        second, newest = reader.steps(seen)
        live = reader.live()

    assert [each.step for each in first] == list(range(1, 51))
    assert [each.step for each in second] == list(range(1135, 1235))
    assert newest - seen - len(second) == 1084
    assert live.steps == live.records == 1234
    assert second[-1].samples - first[-1].samples == 3 * (1234 - 50)


def test_a_record_that_is_being_overwritten_is_left_out_and_no_other() -> None:
    with recorder_and_reader(4, True) as (recorder, reader):
        for step in range(1, 5):
            append(recorder, record(step))
        assert recorder.path is not None
        with recorder.path.open("r+b") as file:
            for spoilt in (0, 8 + BODY.size // 2, recording.RECORD.size - 8):  # its first number, body, last
                at = recording.RING_OFFSET + recording.RECORD.size + spoilt
                file.seek(at)
                before = file.read(8)
                file.seek(at)
                file.write(bytes(byte ^ 255 for byte in before))
                file.flush()
                assert [each.step for each in reader.steps()[0]] == [1, 3, 4]
                file.seek(at)
                file.write(before)
                file.flush()
        assert [each.step for each in reader.steps()[0]] == [1, 2, 3, 4]


def test_the_phases_add_up_to_the_age_at_any_moment() -> None:
    live = Live(phase_word=5_000 & ~15 | PHASES.index("data"), phase_ns=(1_000, 999_999, 2_000, *(0,) * 6))

    seconds = live.phase_seconds(start_ns=992, now_ns=10_992)

    assert seconds["init"] == 1e-6
    assert seconds["forward"] == 2e-6
    assert seconds["data"] == 7e-6
    assert math.isclose(sum(seconds.values()), 1e-5)


def test_phases_that_only_a_newer_writer_knows_count_as_other() -> None:
    unknown = len(PHASES) + 1
    known_ns = (1_000,) * len(PHASES)

    within = Live(phase_word=unknown, phase_ns=(*known_ns, 4_000, 500)).phase_seconds(0, 20_000)
    after = Live(phase_word=PHASES.index("data"), phase_ns=(*known_ns, 4_000, 500)).phase_seconds(0, 20_000)

    assert list(within) == list(after) == list(PHASES)
    assert math.isclose(within["other"], 12e-6)
    assert math.isclose(after["other"], 5.5e-6)
    assert math.isclose(after["data"], 7.5e-6)
    assert math.isclose(sum(within.values()), 20e-6)
    assert math.isclose(sum(after.values()), 20e-6)


@KINDS
def test_a_new_recording_is_alive_in_phase_init_with_all_values_unknown(tmp_path: Path, mapped: bool) -> None:
    who = static()
    recorder = Recorder(tmp_path, who, mapped=mapped)
    reader = RecordingReader(tmp_path / "run" / "node" / "rank-0.1.steps")

    assert reader.static == who
    assert (reader.rank, reader.attempt) == (0, 1)
    assert reader.alive()
    live = reader.live()
    assert live.phase == "init"
    assert live.last_sign_ns == who.start_monotonic_ns
    assert live == Live(
        phase_word=who.start_monotonic_ns,
        last_step_ns=who.start_monotonic_ns,
        last_progress_ns=who.start_monotonic_ns,
    )
    assert reader.steps() == ([], 0)
    recorder.close(recording.FINISHED, time.monotonic_ns())


@KINDS
def test_a_closed_recording_is_dead_and_tells_its_outcome_and_end(tmp_path: Path, mapped: bool) -> None:
    recorder = Recorder(tmp_path, static(), mapped=mapped)
    assert recorder.path is not None
    reader = RecordingReader(recorder.path)
    end_ns = time.monotonic_ns()

    recorder.close(recording.FAILED, end_ns)

    assert not reader.alive()
    assert (reader.live().outcome, reader.live().end_ns, reader.live().last_sign_ns) == (
        recording.FAILED,
        end_ns,
        end_ns,
    )
    recorder.append(packed(record(1)))
    recorder.close(recording.FINISHED, 0)
    assert not recorder.event({"event": "late"})
    assert reader.live().outcome == recording.FAILED
    assert reader.steps() == ([], 0)


def test_every_block_of_the_file_is_there_before_it_is_mapped(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, static(), mapped=True)
    assert recorder.path is not None

    found = recorder.path.stat()

    assert found.st_size == recording.RING_OFFSET + recording.RING_CAPACITY * recording.RECORD.size < 4 << 20
    assert found.st_blocks * 512 >= found.st_size
    recorder.close(recording.FINISHED, 0)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o027, 0o077])
def test_files_are_0640_and_folders_0750_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        recorder = Recorder(tmp_path, static(), ring_capacity=4)
        recorder.close(recording.FINISHED, 0)
    finally:
        os.umask(before)

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {
        "run": 0o750,
        "node": 0o750,
        "rank-0.1.steps": 0o640,
        "rank-0.1.events.jsonl": 0o640,
    }


def test_folders_hand_on_the_group_of_a_setgid_directory(tmp_path: Path) -> None:
    tmp_path.chmod(0o2775)

    Recorder(tmp_path, static(), ring_capacity=4).close(recording.FINISHED, 0)

    for folder in (tmp_path / "run", tmp_path / "run" / "node"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o2750


def test_the_same_run_again_is_the_next_attempt_and_nothing_is_written_over(tmp_path: Path) -> None:
    first = Recorder(tmp_path, static(), ring_capacity=4)
    first.event({"event": "start"})
    first.close(recording.FAILED, 1)
    assert first.path is not None
    before = first.path.read_bytes()

    second = Recorder(tmp_path, static(), ring_capacity=4)
    other_rank = Recorder(tmp_path, static(rank=1), ring_capacity=4)

    assert (first.attempt, second.attempt, other_rank.attempt) == (1, 2, 1)
    assert first.path.read_bytes() == before
    for recorder in (second, other_rank):
        recorder.close(recording.FINISHED, 1)


def test_an_attempt_of_which_only_the_events_are_left_keeps_them_for_itself(tmp_path: Path) -> None:
    first = Recorder(tmp_path, static(), ring_capacity=4)
    first.event({"event": "start"})
    first.close(recording.FINISHED, 1)
    assert first.path is not None
    first.path.unlink()

    second = Recorder(tmp_path, static(), ring_capacity=4)

    assert second.attempt == 2
    assert EventReader(first.path).new() == [{"event": "start"}]
    second.close(recording.FINISHED, 1)


def test_a_recording_that_cannot_be_opened_leaves_nothing_behind(tmp_path: Path) -> None:
    too_much = static()._replace(info={"note": "x" * recording.LIVE_OFFSET})

    with pytest.raises(ValueError, match="description of the run takes"):
        Recorder(tmp_path, too_much)

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("name", ["", ".", "..", "-x", "a/b", "a b", "a\n", "ä", "x" * 65])
def test_names_that_could_not_be_a_folder_and_a_label_are_refused(name: str) -> None:
    for run, node in ((name, "node"), ("run", name)):
        with pytest.raises(ValueError, match="does not match"):
            recording.this_process(run=run, node=node, rank=0, local_rank=0, world_size=1, info={})


@pytest.mark.parametrize("rank", [-1, recording.MAX_RANK + 1])
def test_a_rank_that_no_file_name_could_hold_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match="is not between 0 and"):
        static(rank=rank)


def test_a_forked_child_holds_nothing_of_the_recording_and_writes_nothing(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, static(), ring_capacity=4)
    disarmed: list[bool] = []
    recorder.on_disarm = lambda: disarmed.append(True)
    assert recorder.path is not None
    reader = RecordingReader(recorder.path)
    child = os.fork()
    if child == 0:
        silent = not recorder.armed and disarmed == [True] and not recorder.event({"event": "child"})
        recorder.append(packed(record(1)))
        recorder.unsigned[SLOT["steps"]] = 7
        recorder.close(recording.FAILED, 1)
        reader.close()
        os._exit(0 if silent and not open_below(tmp_path) else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert recorder.armed
    assert len(open_below(tmp_path)) >= 4
    assert reader.alive()
    assert reader.live().steps == reader.live().outcome == 0
    assert reader.steps() == ([], 0)
    assert EventReader(recorder.path).new() == []
    recorder.close(recording.FINISHED, 1)


def open_below(folder: Path) -> list[str]:
    """The files below the folder that this process has open or mapped."""
    links = [*Path("/proc/self/fd").iterdir()]
    opened = [str(link.readlink()) for link in links if link.is_symlink()]
    mapped = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in (*opened, *mapped) if str(folder) in line]


def test_a_reader_leaves_the_lock_as_it_is(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, static(), ring_capacity=4)
    assert recorder.path is not None
    readers = [RecordingReader(recorder.path) for _ in range(3)]

    assert [reader.alive() for reader in readers] == [True] * 3
    readers.pop().close()
    assert [reader.alive() for reader in readers] == [True] * 2
    recorder.close(recording.FINISHED, 1)
    assert [reader.alive() for reader in readers] == [False] * 2


def test_a_reader_knows_when_the_file_has_lost_its_name(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, static(), ring_capacity=4)
    assert recorder.path is not None
    reader = RecordingReader(recorder.path)
    assert not reader.unlinked

    recorder.path.unlink()

    assert reader.unlinked
    assert reader.alive()
    recorder.close(recording.FINISHED, 1)


def test_events_are_read_once_whole_and_in_order_as_they_come(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, static(), ring_capacity=4)
    assert recorder.path is not None
    reader = EventReader(recorder.path)
    assert reader.new() == []

    assert recorder.event({"event": "start", "name": "ä\n"})
    assert recorder.event({"event": "epoch", "epoch": 1})
    assert reader.new() == [{"event": "start", "name": "ä\n"}, {"event": "epoch", "epoch": 1}]
    assert recorder.event({"event": "finish"})
    with recorder.path.with_suffix(".events.jsonl").open("ab") as file:
        file.write(b'{"event":"half')
        file.flush()
        assert reader.new() == [{"event": "finish"}]
        file.write(b'"}\n')
    assert reader.new() == [{"event": "half"}]
    recorder.close(recording.FINISHED, 1)


def test_lines_that_are_no_json_object_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "rank-0.1.steps"
    lines = [b'{"event":"start"}', b"\xff\xfe", b"[1]", b"NaN", b"[" * 100_000, b"", b'{"event":"finish"}']
    path.with_suffix(".events.jsonl").write_bytes(b"\n".join(lines) + b"\n")

    assert EventReader(path).new() == [{"event": "start"}, {"event": "finish"}]


def test_events_end_at_their_cap(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, static(), ring_capacity=4)
    assert recorder.path is not None
    line = {"event": "message", "message": "x" * (1 << 20)}

    written = [recorder.event(line) for _ in range(9)]

    assert written == [True] * 7 + [False] * 2
    assert recorder.event({"event": "finish"})
    assert len(EventReader(recorder.path).new()) == 8
    recorder.close(recording.FINISHED, 1)


def test_recordings_are_found_by_name_and_no_link_is_followed(tmp_path: Path) -> None:
    directory, elsewhere = tmp_path / "recordings", tmp_path / "elsewhere"
    for parent in (directory, elsewhere):
        Recorder(parent, static(rank=3), ring_capacity=4).close(recording.FINISHED, 1)
    (directory / "linked").symlink_to(elsewhere / "run")
    (directory / ".hidden").mkdir()
    (directory / "file").write_text("no folder")
    (directory / "run" / "node" / "rank-x.1.steps").write_text("no recording")

    assert list(recording.find(directory)) == [directory / "run" / "node" / "rank-3.1.steps"]
    assert list(recording.find(tmp_path / "absent")) == []


@pytest.mark.parametrize(
    "make",
    [lambda line: line, lambda line: {**line, "event": "é" * 10}],
    ids=["plain", "not ASCII"],
)
def test_an_event_is_one_line_of_ascii(
    tmp_path: Path, make: Callable[[dict[str, object]], dict[str, object]]
) -> None:
    recorder = Recorder(tmp_path, static(), ring_capacity=4)
    assert recorder.path is not None

    recorder.event(make({"event": "start", "step": 1}))

    raw = recorder.path.with_suffix(".events.jsonl").read_bytes()
    assert raw.isascii()
    assert raw.count(b"\n") == 1
    assert json.loads(raw)["step"] == 1
    recorder.close(recording.FINISHED, 1)


def test_who_holds_the_lock_of_a_recording_is_seen_without_reading_it(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, static(), ring_capacity=4)
    assert recorder.path is not None

    assert recording.is_locked(recorder.path)
    recorder.close(recording.FINISHED, 1)
    assert not recording.is_locked(recorder.path)
    assert not recording.is_locked(tmp_path / "absent")
