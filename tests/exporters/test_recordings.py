"""The collector over recordings that the real Monitor wrote, many of them in processes of their own."""

from __future__ import annotations

import itertools
import json
import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from exporters import recordings
from exporters.catalog import CATALOG
from exporters.collector import Histogram, Sample
from exporters.followed import Endings, Followed
from exporters.progress import StepWindow
from exporters.recordings import RecordingsCollector
from exporters.runs import Observation, RunStatus, run_status
from tests.exporters.looks import Clocks, Look, by_series, names, published, state, value, values
from tests.exporters.trainers import Trainer, set_slot, small_recording
from trainer_hooks import recording
from trainer_hooks.recording import FAILED, FINISHED, Recorder, this_process

HOUR = 3600.0


def skipped(samples: list[Sample]) -> dict[str, float | Histogram]:
    found = values(samples, "trainvitals_recordings_skipped", "reason")
    assert found.keys() == {"corrupt", "truncated", "newer_version", "not_permitted"}
    return {reason: count for reason, count in found.items() if count}


def test_a_training_under_way_is_running_and_its_numbers_are_published(tmp_path: Path, look: Look) -> None:
    with Trainer(tmp_path) as trainer:
        trainer.do("monitor.expect(steps=10, epochs=2)")
        trainer.do("steps(4, loss=1.5, tokens=8)")
        trainer.do("monitor.log(epoch=0.8, learning_rate=0.001)")
        samples = look()

    assert state(samples) == "running"
    assert value(samples, "training_step_current") == 4
    assert value(samples, "training_steps_expected") == 10
    assert value(samples, "training_progress_ratio") == 0.4
    assert value(samples, "training_epoch_current") == 0.8
    assert value(samples, "training_epochs_expected") == 2
    assert value(samples, "training_loss") == 1.5
    assert value(samples, "training_perplexity") == pytest.approx(math.exp(1.5))
    assert value(samples, "training_learning_rate", group="0") == 0.001
    assert value(samples, "training_steps_total", rank="0") == 4
    assert value(samples, "training_tokens_processed_total", kind="trained") == 32
    assert value(samples, "training_tokens_processed_total", kind="all") == 40
    assert value(samples, "training_run_info", model="tiny", attempt="1") == 1
    assert value(samples, "training_phase_active", phase="other") == 1
    memory = value(samples, "training_host_memory_bytes", rank="0")
    assert isinstance(memory, float | int)
    assert memory > 1 << 20
    assert "training_run_end_timestamp_seconds" not in names(samples)


def test_a_training_without_progress_is_stalled_until_it_goes_on(
    tmp_path: Path, clocks: Clocks, look: Look
) -> None:
    with Trainer(tmp_path) as trainer:
        trainer.do("steps(3)")
        clocks.ahead_seconds = 40
        assert state(look()) == "running"

        clocks.ahead_seconds = 61
        samples = look()
        assert state(samples) == "stalled"
        assert "training_run_end_timestamp_seconds" not in names(samples)

        clocks.ahead_seconds = 0
        trainer.do("monitor.progress()")
        assert state(look()) == "running"


@pytest.mark.parametrize(
    ("last_line", "expected", "reason"),
    [
        ("monitor.finish()", "finished", "completed"),
        ("sys.exit()", "finished", "exit"),
        ("raise ZeroDivisionError('quoting the data')", "failed", "ZeroDivisionError"),
        ("monitor.fail(KeyError('x'))", "failed", "KeyError"),
    ],
)
def test_a_training_that_ends_by_itself_says_how(
    tmp_path: Path, collector: RecordingsCollector, last_line: str, expected: str, reason: str
) -> None:
    with Trainer(tmp_path) as trainer:
        trainer.do("steps(2)")
        list(collector.collect())
        trainer.end(f"{last_line}; sys.exit()" if last_line.startswith("monitor") else last_line)

        samples = list(collector.collect())

    assert state(samples) == expected
    assert collector.runs[0].reason == reason
    assert "quoting" not in str(samples) + str(collector.runs)
    ended_at = value(samples, "training_run_end_timestamp_seconds")
    assert isinstance(ended_at, float)
    assert time.time() - 20 < ended_at <= time.time()
    assert {"training_phase_active", "training_host_memory_bytes", "training_eta_seconds"}.isdisjoint(
        names(samples)
    )


def test_a_killed_training_is_killed_and_ended_at_its_last_sign_of_life(
    tmp_path: Path, collector: RecordingsCollector
) -> None:
    with Trainer(tmp_path) as trainer:
        trainer.do("steps(5)")
        assert state(list(collector.collect())) == "running"
        trainer.kill()

        samples = list(collector.collect())

    assert state(samples) == "killed"
    assert collector.runs[0].reason == "SIGKILL"
    assert value(samples, "training_run_end_timestamp_seconds") == pytest.approx(
        value(samples, "training_last_step_timestamp_seconds"), abs=0.1
    )
    assert value(samples, "training_steps_total") == 5


def test_a_recording_of_another_boot_is_dead(tmp_path: Path, look: Look) -> None:
    static = this_process(run="a-run", node="here", rank=0, local_rank=0, world_size=1, info={})
    a_day_ago = time.time_ns() - 86_400 * 10**9
    Recorder(
        tmp_path, static._replace(boot_id="another-boot", start_wall_ns=a_day_ago), ring_capacity=4
    )  # its lock is held by this living process

    samples = look()

    assert state(samples) == "killed"
    assert value(samples, "training_run_start_timestamp_seconds") == pytest.approx(a_day_ago / 1e9, abs=0.01)


def test_a_resumed_run_publishes_its_newest_attempt_and_counts_the_restart(
    tmp_path: Path, look: Look
) -> None:
    with Trainer(tmp_path) as first:
        first.do("steps(7)")
        before = look()
        first.kill()
    assert value(before, "training_restarts_total") == 0
    assert "training_resumed_from_step" not in names(before)
    assert state(look()) == "killed"

    with Trainer(tmp_path) as second:
        second.do("monitor.resume(5)")
        second.do("steps(3)")
        samples = look()

    by_series(samples)  # no series is there twice
    assert state(samples) == "running"
    assert value(samples, "training_restarts_total") == 1
    assert value(samples, "training_resumed_from_step") == 5
    assert value(samples, "training_step_current") == 8
    assert value(samples, "training_steps_total") == 3
    assert value(samples, "training_run_info", attempt="2") == 1
    start_before, start = (value(each, "training_run_start_timestamp_seconds") for each in (before, samples))
    assert isinstance(start, float)
    assert isinstance(start_before, float)
    assert start > start_before
    assert "training_run_end_timestamp_seconds" not in names(samples)


@pytest.mark.parametrize(
    ("outcome_of_rank_1", "expected"), [(FINISHED, "running"), (FAILED, "failed"), (None, "killed")]
)
def test_a_run_is_as_bad_as_its_worst_rank(
    tmp_path: Path, look: Look, outcome_of_rank_1: int | None, expected: str
) -> None:
    small_recording(tmp_path, "a-run", rank=0, world_size=2)
    rank_1 = small_recording(tmp_path, "a-run", rank=1, world_size=2)
    if outcome_of_rank_1 is None:
        rank_1.disarm()  # lets the lock go and says nothing: what the kernel does for a killed process
    else:
        rank_1.close(outcome_of_rank_1, time.monotonic_ns())

    samples = look()

    assert state(samples) == expected
    assert value(samples, "training_world_size") == 2
    assert ("training_run_end_timestamp_seconds" in names(samples)) == (expected != "running")


def test_a_run_of_two_processes_is_killed_with_one_of_them_and_finished_with_both(
    tmp_path: Path, look: Look
) -> None:
    with (
        Trainer(tmp_path, "lucky", rank=0, world_size=2) as lucky_0,
        Trainer(tmp_path, "lucky", rank=1, world_size=2) as lucky_1,
        Trainer(tmp_path, "poor", rank=0, world_size=2) as poor_0,
        Trainer(tmp_path, "poor", rank=1, world_size=2) as poor_1,
    ):
        for trainer in (lucky_0, lucky_1, poor_0, poor_1):
            trainer.do("steps(2)")
        lucky_1.end()
        poor_1.kill()
        samples = look()
        assert (state(samples, "lucky"), state(samples, "poor")) == ("running", "killed")

        lucky_0.end()
        assert state(look(), "lucky") == "finished"


def test_a_rank_of_an_earlier_attempt_says_nothing_about_the_newest(
    tmp_path: Path, collector: RecordingsCollector
) -> None:
    """The second attempt runs on fewer ranks."""
    for rank, outcome in ((0, FAILED), (1, FAILED)):
        recorder = small_recording(tmp_path, "a-run", rank=rank, world_size=2)
        recorder.event({"event": "fail", "type": "OutOfMemoryError"})
        recorder.close(outcome, time.monotonic_ns())
    small_recording(tmp_path, "a-run", rank=0, world_size=1)

    samples = list(collector.collect())

    assert state(samples) == "running"
    assert collector.runs[0].reason is None
    assert value(samples, "training_world_size") == 1
    assert {sample.labels["rank"] for sample in samples if "rank" in sample.labels} == {"0"}
    assert [rank.rank for rank in collector.runs[0].ranks] == [0, 1]


def test_a_rank_that_died_before_it_could_record_still_counts_in_the_next_attempt(
    tmp_path: Path, look: Look
) -> None:
    """Rank 1 counts one attempt less than rank 0: its first launch left no recording."""
    small_recording(tmp_path, "a-run", rank=0, world_size=2).disarm()
    small_recording(tmp_path, "a-run", rank=0, world_size=2)
    rank_1 = small_recording(tmp_path, "a-run", rank=1, world_size=2)
    assert state(look()) == "running"

    set_slot(rank_1, last_progress_ns=time.monotonic_ns())
    rank_1.disarm()

    assert state(look()) == "killed"


def test_what_is_published_of_an_evaluation_is_that_of_both_ranks(tmp_path: Path, look: Look) -> None:
    for rank, (loss, tokens) in enumerate(((1.0, 30), (3.0, 10))):
        recorder = small_recording(tmp_path, "a-run", rank=rank, world_size=2)
        set_slot(recorder, validation_loss=loss, validation_loss_best=loss, validation_loss_tokens=tokens)

    samples = look()

    assert value(samples, "validation_loss") == 1.5
    assert "validation_loss_best" not in names(samples)


def test_a_node_without_rank_0_publishes_its_ranks_only(tmp_path: Path, look: Look) -> None:
    small_recording(tmp_path, "a-run", rank=8, world_size=16)

    samples = look()

    scopes = {CATALOG[name].scope for name in names(samples)}
    assert scopes == {"rank", "service"}
    assert value(samples, "training_steps_total", rank="8") == 0


@pytest.mark.parametrize("alive", [True, False])
@pytest.mark.parametrize(("steps_a_second", "needed"), [(2, 1801), (0.01, 21)])
def test_a_first_look_reads_no_more_steps_than_its_windows_need(
    tmp_path: Path,
    clocks: Clocks,
    collector: RecordingsCollector,
    monkeypatch: pytest.MonkeyPatch,
    alive: bool,
    steps_a_second: float,
    needed: int,
) -> None:
    """15 minutes of them, and 20; some come with the last that are read at once."""
    static = this_process(run="a-run", node="here", rank=0, local_rank=0, world_size=1, info={})
    recorder = Recorder(tmp_path, static, ring_capacity=5000)
    clocks.ahead_seconds = 30 * 24 * HOUR  # a machine may be up for less than this training takes
    now_ns, step_ns = clocks.monotonic_ns(), int(1e9 / steps_a_second)
    for step in range(1, 6001):
        counts = (step, step, 100 * step, 100 * step, 100 * step)
        time_ns = now_ns - (6000 - step) * step_ns
        recorder.append(
            recording.BODY.pack(step, time_ns, step_ns, *(0,) * len(recording.PHASES), *counts, *(1.0,) * 4)
        )
    set_slot(recorder, step=6000, steps_expected=6100, last_progress_ns=now_ns)
    if not alive:
        recorder.close(FINISHED, now_ns)
    read = []
    steps = recording.RecordingReader.steps

    def counted_steps(*arguments: int) -> tuple[list[recording.StepRecord], int]:
        found = steps(*arguments)  # type: ignore[arg-type]
        read.append(len(found[0]))
        return found

    monkeypatch.setattr(recording.RecordingReader, "steps", counted_steps)

    list(collector.collect())
    assert sum(read) < needed + 256
    (status,) = collector.runs
    if alive:
        assert status.eta_seconds == pytest.approx(100 / steps_a_second, rel=0.02)
        assert status.tokens_per_second == pytest.approx(100 * steps_a_second)

    read.clear()
    list(collector.collect())
    assert sum(read) == 0


def test_what_a_first_look_has_no_time_for_waits_for_the_next_the_newest_first(
    tmp_path: Path, clocks: Clocks
) -> None:
    """Each glance at the clock is a second after the one before."""
    for number in range(20):
        small_recording(tmp_path, f"run-{number}").close(FINISHED, time.monotonic_ns())
        time.sleep(0.002)

    def slow_monotonic_ns() -> int:
        clocks.ahead_seconds += 1
        return clocks.monotonic_ns()

    collector = RecordingsCollector([tmp_path], monotonic_ns=slow_monotonic_ns, wall=clocks.wall)
    known: list[list[str]] = []
    while len(known) < 20 and (not known or len(known[-1]) < 20):
        list(collector.collect())
        known.append([status.run for status in collector.runs])
    collector.close()

    assert 1 <= len(known[0]) <= 4
    for before, after in itertools.pairwise(known):
        assert len(after) > len(before)
    assert all(runs == [f"run-{number}" for number in range(19, 19 - len(runs), -1)] for runs in known)
    assert len(known[-1]) == 20


def test_a_living_training_whose_files_were_removed_is_followed_to_its_end_and_told_of_for_a_day(
    tmp_path: Path, clocks: Clocks, look: Look
) -> None:
    with Trainer(tmp_path) as trainer:
        trainer.do("steps(2)")
        look()
        shutil.rmtree(tmp_path / "a-run")
        trainer.do("steps(1)")
        samples = look()
        assert (state(samples), value(samples, "training_steps_total")) == ("running", 3)
        trainer.kill()

    for hours in (0, 1, 24):
        clocks.ahead_seconds = hours * HOUR
        assert state(look()) == "killed"
    clocks.ahead_seconds = 26 * HOUR
    assert "training_run_state" not in names(look())


def test_a_dead_recording_is_forgotten_with_its_files(
    tmp_path: Path, look: Look, collector: RecordingsCollector
) -> None:
    small_recording(tmp_path, "a-run").close(FINISHED, time.monotonic_ns())
    assert state(look()) == "finished"

    shutil.rmtree(tmp_path / "a-run")

    assert "training_run_state" not in names(look())
    assert collector.runs == ()


@pytest.mark.parametrize("first_still_lives", [True, False])
def test_another_recording_under_the_name_of_a_removed_one_is_followed(
    tmp_path: Path, look: Look, first_still_lives: bool
) -> None:
    first = small_recording(tmp_path, "a-run")
    set_slot(first, step=5)
    if not first_still_lives:
        first.close(FINISHED, time.monotonic_ns())
        assert first.path is not None
        os.utime(first.path, (1, 1))  # the next may have its inode, and be made in the same tick
    assert value(look(), "training_step_current") == 5
    shutil.rmtree(tmp_path / "a-run")
    second = small_recording(tmp_path, "a-run")
    assert first.path == second.path
    set_slot(second, step=2)

    samples = look()

    by_series(samples)
    assert value(samples, "training_step_current") == 2
    assert state(samples) == "running"


def damaged(path: Path, damage: str) -> None:
    whole = path.read_bytes()
    if damage == "newer_version":
        major_at = len(recording.MAGIC) + 4
        path.write_bytes(whole[:major_at] + (99).to_bytes(2, "little") + whole[major_at + 2 :])
    elif damage == "truncated":
        path.write_bytes(whole[:-1])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "random bytes":
        path.write_bytes(os.urandom(len(whole)))
    elif damage == "one wrong byte":
        at = recording.HEADER.size + 20
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    elif damage == "symbolic link":
        path.rename(path.with_name("elsewhere"))
        path.symlink_to(path.with_name("elsewhere"))
    elif damage == "pipe":
        path.unlink()
        os.mkfifo(path)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("random bytes", "corrupt"),
        ("one wrong byte", "corrupt"),
        ("symbolic link", "corrupt"),
        ("pipe", "corrupt"),
        ("truncated", "truncated"),
        ("empty", "truncated"),
        ("newer_version", "newer_version"),
    ],
)
def test_a_recording_that_cannot_be_read_is_skipped_logged_once_and_counted(
    tmp_path: Path, look: Look, caplog: pytest.LogCaptureFixture, damage: str, reason: str
) -> None:
    small_recording(tmp_path, "good")
    bad = small_recording(tmp_path, "bad").path
    assert bad is not None
    damaged(bad, damage)

    looks = [look() for _ in range(3)]

    for samples in looks:
        assert skipped(samples) == {reason: 1}
        assert {sample.labels["run"] for sample in samples if "run" in sample.labels} == {"good"}
    (line,) = (record.getMessage() for record in caplog.records)
    assert str(bad) in line
    assert reason in line


def test_a_recording_is_no_longer_counted_as_skipped_once_it_is_gone(tmp_path: Path, look: Look) -> None:
    bad = small_recording(tmp_path, "bad").path
    assert bad is not None
    damaged(bad, "truncated")
    assert skipped(look()) == {"truncated": 1}

    bad.unlink()

    assert skipped(look()) == {}


def test_a_living_recording_that_is_cut_short_is_skipped_and_the_others_stay(
    tmp_path: Path, look: Look, caplog: pytest.LogCaptureFixture
) -> None:
    small_recording(tmp_path, "good")
    bad = small_recording(tmp_path, "bad").path
    assert bad is not None
    assert published(look())["full"] == 2

    os.truncate(bad, 100)

    for _ in range(3):
        samples = look()
        assert skipped(samples) == {"truncated": 1}
        assert state(samples, "good") == "running"
    assert len(caplog.records) == 1


@contextmanager
def without_privileges() -> Iterator[None]:
    """As a user to whom permissions apply."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_recording_of_another_user_is_counted_as_not_permitted(caplog: pytest.LogCaptureFixture) -> None:
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        directory.chmod(0o755)
        for run in ("open", "closed"):
            recorder = small_recording(directory, run)
            assert recorder.path is not None
            for path in (recorder.path.parents[1], recorder.path.parent):
                path.chmod(0o755)
            recorder.path.chmod(0o644 if run == "open" else 0o000)
        collector = RecordingsCollector([directory])
        with without_privileges():
            for _ in range(2):
                samples = list(collector.collect())
        collector.close()

    assert skipped(samples) == {"not_permitted": 1}
    assert state(samples, "open") == "running"
    (line,) = (record.getMessage() for record in caplog.records)
    assert "closed/here/rank-0.1.steps: not_permitted" in line


def test_the_interval_and_the_room_of_checkpoints_are_published_once_they_are_known(
    tmp_path: Path, look: Look
) -> None:
    recorder = small_recording(tmp_path, "a-run")
    figures = {"checkpoint_volume_size_bytes": 4e12, "checkpoint_volume_free_bytes": 0.0}
    set_slot(recorder, **figures)
    samples = look()
    assert {f"training_{name}": size for name, size in figures.items()}.items() <= {
        name: number for (name, _), number in by_series(samples).items()
    }.items()
    assert "training_checkpoint_interval_seconds" not in names(samples)

    set_slot(recorder, checkpoint_interval_seconds=1800.0, checkpoint_volume_free_bytes=math.nan)
    samples = look()
    assert value(samples, "training_checkpoint_interval_seconds", run="a-run") == 1800
    assert "training_checkpoint_volume_free_bytes" not in names(samples)


def test_the_volume_of_recordings_is_that_with_the_least_room_of_those_that_hold_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def statvfs(path: Path) -> os.statvfs_result:
        free = {"ample": 500, "tight": 30, "empty": 20}[path.name]
        return os.statvfs_result((4096, 1024, 1000, free + 10, free, 0, 0, 0, 0, 255))

    folders = [tmp_path / name for name in ("ample", "tight", "empty", "absent")]
    for folder in folders[:2]:
        small_recording(folder, "a-run").close(FINISHED, time.monotonic_ns())
    folders[2].mkdir()
    monkeypatch.setattr(os, "statvfs", statvfs)
    collector = RecordingsCollector(folders)
    samples = list(collector.collect())
    assert value(samples, "trainvitals_recordings_volume_size_bytes") == 1000 << 10
    assert value(samples, "trainvitals_recordings_volume_free_bytes") == 30 << 10

    shutil.rmtree(folders[0])
    shutil.rmtree(folders[1])
    assert "trainvitals_recordings_volume_free_bytes" not in names(list(collector.collect()))
    collector.close()


def test_a_directory_that_does_not_exist_is_found_once_it_is_there(tmp_path: Path) -> None:
    collector = RecordingsCollector([tmp_path / "later"])
    assert published(list(collector.collect())) == {"full": 0, "lifecycle": 0, "hidden": 0}

    small_recording(tmp_path / "later", "a-run")

    assert published(list(collector.collect()))["full"] == 1
    collector.close()


def test_lines_of_events_that_make_no_sense_are_passed_over(tmp_path: Path, look: Look) -> None:
    recorder = small_recording(tmp_path, "a-run")
    assert recorder.path is not None
    recorder.event({"event": "scalar", "name": "reward", "slot": 1})
    with recorder.path.with_suffix(".events.jsonl").open("ab") as events:
        events.write(b'{"event": "scalar"}\n[]\n{"event": "scalar", "name": 7, "slot": "x"}\n\xff\xfe\n{"ev')
    set_slot(recorder, scalars=3.0)  # slot 0 has no name
    recorder.doubles[recording.SLOT["scalars"] + 1] = 0.5

    assert values(look(), "training_scalar", "name") == {"reward": 0.5}


def test_a_scalar_whose_name_or_slot_is_not_as_the_hook_writes_them_is_passed_over(
    tmp_path: Path, look: Look
) -> None:
    recorder = small_recording(tmp_path, "a-run")
    for slot, name in [
        *((0, "reward/mean"), (1, "reward/mean"), (0, "renamed"), (2, "a text, with blanks"), (2, "")),
        *((2, "/home/x"), (2, "x" * 65), (2, "line\nbreak"), (2, "é"), (recording.SCALARS, "far")),
        *((-1, "before"), (3, "x" * 64)),
    ]:
        recorder.event({"event": "scalar", "name": name, "slot": slot})
    for slot in range(recording.SCALARS):
        recorder.doubles[recording.SLOT["scalars"] + slot] = slot

    assert values(look(), "training_scalar", "name") == {"reward/mean": 0, "x" * 64: 3}


def test_only_the_stage_told_last_has_a_series_since_it_began(tmp_path: Path, look: Look) -> None:
    stage = "training_stage_start_timestamp_seconds"
    recorder = small_recording(tmp_path, "a-run")
    assert stage not in names(look())
    began = recorder.static.start_monotonic_ns

    recorder.event({"event": "stage", "name": "foundation", "time_ns": began + 10**9})
    assert values(look(), stage, "stage").keys() == {"foundation"}
    recorder.event({"event": "stage", "name": "voice-persona", "time_ns": began + 3 * 10**9})

    start = recorder.static.start_wall_ns / 1e9
    assert values(look(), stage, "stage") == {"voice-persona": pytest.approx(start + 3, abs=0.002)}


@pytest.mark.parametrize(
    "line",
    [
        {"name": "two words", "time_ns": 1},
        {"name": "x" * 65, "time_ns": 1},
        {"name": "early", "time_ns": -1},
        {"name": "late", "time_ns": 10**400},
        {"name": "never"},
    ],
)
def test_a_stage_that_is_not_as_the_hook_writes_it_is_passed_over(
    tmp_path: Path, look: Look, line: dict[str, object]
) -> None:
    recorder = small_recording(tmp_path, "a-run")
    recorder.event({"event": "stage", "name": "foundation", "time_ns": recorder.static.start_monotonic_ns})
    recorder.event({"event": "stage", **line})

    assert values(look(), "training_stage_start_timestamp_seconds", "stage").keys() == {"foundation"}


def test_of_several_ranks_the_stage_is_that_of_rank_0(tmp_path: Path, look: Look) -> None:
    for rank, name in ((0, "foundation"), (1, "edge-cases")):
        recorder = small_recording(tmp_path, "a-run", rank=rank, world_size=2)
        recorder.event({"event": "stage", "name": name, "time_ns": recorder.static.start_monotonic_ns})

    assert values(look(), "training_stage_start_timestamp_seconds", "stage").keys() == {"foundation"}


def test_a_number_that_is_nan_in_the_file_is_absent_and_the_others_stay(tmp_path: Path, look: Look) -> None:
    recorder = small_recording(tmp_path, "a-run", info={"loss_kind": "cross_entropy"})
    set_slot(recorder, loss_token_sum=math.nan, loss=math.nan, steps=7)

    samples = look()

    assert {"training_loss_token_sum_total", "training_loss"}.isdisjoint(names(samples))
    assert value(samples, "training_steps_total") == 7


def test_facts_of_the_run_become_labels_that_prometheus_can_read(tmp_path: Path, look: Look) -> None:
    strange = {"learning rate": "3e-4", "1st": "x", "__name__": "y", "model": os.fsdecode(b"model-\xff")}
    small_recording(tmp_path, "a-run", info=strange)

    (info,) = (sample.labels for sample in look() if sample.metric.name == "training_run_info")

    assert info == {
        "run": "a-run",
        "attempt": "1",
        "learning_rate": "3e-4",
        "x1st": "x",
        "x__name__": "y",
        "model": "model-?",
    }


def test_events_are_whole_json_for_the_reader_while_they_are_written(
    tmp_path: Path, look: Look, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    recorder = small_recording(tmp_path, "a-run")
    assert recorder.path is not None
    line = json.dumps({"event": "scalar", "name": "reward", "slot": 0}).encode() + b"\n"
    set_slot(recorder, scalars=1.0)
    with recorder.path.with_suffix(".events.jsonl").open("ab", buffering=0) as events:
        events.write(line[:20])
        assert "training_scalar" not in names(look())
        events.write(line[20:])

    assert values(look(), "training_scalar", "name") == {"reward": 1.0}
    assert caplog.records == []


def test_the_living_are_looked_at_before_the_dead_however_long_ago_their_files_changed(
    tmp_path: Path, clocks: Clocks
) -> None:
    """Stores into a mapping on a tmpfs do not change the time. Each glance at the clock is a second."""
    lives = small_recording(tmp_path, "lives").path
    assert lives is not None
    os.utime(lives, (1, 1))
    for number in range(20):
        small_recording(tmp_path, f"run-{number}").close(FINISHED, time.monotonic_ns())

    def slow_monotonic_ns() -> int:
        clocks.ahead_seconds += 1
        return clocks.monotonic_ns()

    collector = RecordingsCollector([tmp_path], monotonic_ns=slow_monotonic_ns, wall=clocks.wall)
    assert not collector.is_complete
    list(collector.collect())

    assert "lives" in {status.run for status in collector.runs}
    assert not collector.is_complete
    for _ in range(20):
        list(collector.collect())
        assert collector.is_complete == (len(collector.runs) == 21)
    assert collector.is_complete
    collector.close()


def test_the_look_is_complete_though_a_recording_cannot_be_read(
    tmp_path: Path, look: Look, collector: RecordingsCollector
) -> None:
    bad = small_recording(tmp_path, "bad").path
    assert bad is not None
    damaged(bad, "truncated")

    look()

    assert collector.is_complete


def test_what_is_told_of_the_dead_is_made_once(
    tmp_path: Path, look: Look, collector: RecordingsCollector
) -> None:
    small_recording(tmp_path, "dead").close(FINISHED, time.monotonic_ns())
    small_recording(tmp_path, "lives")

    def of_run(samples: list[Sample], run: str) -> list[Sample]:
        return [sample for sample in samples if sample.labels.get("run") == run]

    looks = [(of_run(look(), "dead"), {each.run: each for each in collector.runs}) for _ in range(2)]

    (samples, runs), (samples_after, runs_after) = looks
    assert samples
    assert all(before is after for before, after in zip(samples, samples_after, strict=True))
    assert runs_after["dead"] is runs["dead"]
    assert runs_after["lives"] is not runs["lives"]


def test_a_dead_rank_keeps_its_figures_and_not_its_steps(tmp_path: Path, clocks: Clocks) -> None:
    with Trainer(tmp_path) as trainer:
        trainer.do("monitor.expect(steps=60)")
        trainer.do("steps(30, loss=1.5)")
        (path,) = recording.find(tmp_path)
        followed = Followed(recording.RecordingReader(path))

        def window() -> StepWindow:
            return followed.observe(clocks.monotonic_ns, 0.0, Endings()).window

        def figures(window: StepWindow) -> tuple[object, ...]:
            return (window.loss_sums(), window.tokens_per_second(), window.seconds_left_range(60, 2**62))

        lived = figures(window())
        trainer.kill()

    died = window()
    assert figures(died)[:2] == lived[:2]
    assert died.seconds_left(60, 2**62) is not None
    assert not died._kept
    assert not died._last
    followed.close()


def test_a_run_that_makes_no_sense_is_left_out_logged_once_and_counted(
    tmp_path: Path,
    look: Look,
    collector: RecordingsCollector,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever it is that nobody has thought of."""
    for run in ("good", "bad"):
        small_recording(tmp_path, run)

    def status_but_of_one(observations: Sequence[Observation], stall_after_seconds: float) -> RunStatus:
        if observations[0].static.run == "bad":
            raise ValueError("unheard of")
        return run_status(observations, stall_after_seconds)

    monkeypatch.setattr(recordings, "run_status", status_but_of_one)
    for _ in range(3):
        samples = look()

    assert skipped(samples) == {"corrupt": 1}
    assert [status.run for status in collector.runs] == ["good"]
    assert state(samples, "good") == "running"
    (line,) = (record.getMessage() for record in caplog.records)
    assert line == "run bad left out: ValueError: unheard of"
