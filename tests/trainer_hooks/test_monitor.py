from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from tests.trainer_hooks.recorded import Recorded, every_byte, only, recorded
from trainer_hooks import monitor as monitor_module
from trainer_hooks.monitor import BACKWARD, DATA, FORWARD, OPTIMIZER, OTHER, Monitor
from trainer_hooks.recording import (
    FAILED,
    FINISHED,
    PHASES,
    RUNNING,
    SCALARS,
    STEP_DURATION_BOUNDS_SECONDS,
    RecordingReader,
    find,
)

SECRET = "the client said that she"


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[Monitor]:
    opened = Monitor(run="a-run", directory=tmp_path)
    assert opened.recording
    yield opened
    opened.finish()


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now_ns = time.monotonic_ns() & ~15

    def __call__(self) -> int:
        return self.now_ns

    def passes(self, seconds: float) -> None:
        self.now_ns += int(seconds * 1e9) // 16 * 16


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The Monitor's clock, and that with which the recording begins."""
    clock = Clock()
    monkeypatch.setattr(monitor_module, "monotonic_ns", clock)
    monkeypatch.setattr("trainer_hooks.monitor.time.monotonic", lambda: clock.now_ns / 1e9)
    monkeypatch.setattr("trainer_hooks.recording.time.monotonic_ns", clock)
    return clock


def phase_seconds(seen: Recorded, now_ns: int) -> dict[str, float]:
    seconds = seen.live.phase_seconds(seen.static.start_monotonic_ns, now_ns)
    return {phase: value for phase, value in seconds.items() if value}


def test_steps_batches_samples_and_tokens_are_counted_exactly(monitor: Monitor, tmp_path: Path) -> None:
    for step in range(7):
        for micro in range(3):
            monitor.batch(loss=1.0, samples=4, tokens=100 + micro, trained_tokens=90 + step)
        monitor.end_step()
    seen = only(tmp_path)
    assert seen.live.steps == seen.live.step == 7
    assert seen.live.batches == 21
    assert seen.live.samples == 84
    assert seen.live.tokens_all == 7 * (100 + 101 + 102)
    assert seen.live.tokens_trained == seen.live.loss_tokens == 3 * sum(range(90, 97))
    assert [record.step for record in seen.steps] == [1, 2, 3, 4, 5, 6, 7]
    assert [record.batches for record in seen.steps] == [3, 6, 9, 12, 15, 18, 21]


def test_batches_are_waited_for_in_phase_data_and_worked_on_in_another(clock: Clock, tmp_path: Path) -> None:
    monitor = Monitor(run="a-run", directory=tmp_path)

    def loader() -> Iterator[int]:
        for each in range(3):
            clock.passes(2.0)
            yield each
        clock.passes(4.0)

    began_ns = clock.now_ns
    for _ in monitor.batches(loader()):
        clock.passes(1.0)
    for _ in monitor.batches(loader()):
        break
    clock.passes(8.0)
    with monitor.phase("evaluation"):
        for _ in monitor.batches(loader()):
            clock.passes(1.0)
    monitor.enter(OTHER)
    assert clock.now_ns - began_ns == 36e9
    seconds = phase_seconds(only(tmp_path), clock.now_ns)
    assert {name: seconds[name] for name in ("data", "other", "evaluation")} == pytest.approx(
        {"data": 12.0, "other": 11.0, "evaluation": 13.0}
    )
    monitor.finish()


def test_a_batch_lives_no_longer_than_its_user_has_it(monitor: Monitor) -> None:
    alive = []

    def loader() -> Iterator[set[int]]:
        for each in range(3):
            alive.append([reference() is not None for reference in references])
            yield {each}

    references: list[weakref.ref[set[int]]] = []
    for batch in monitor.batches(loader()):
        references.append(weakref.ref(batch))
        del batch
    assert alive == [[], [False], [False, False]]


def test_what_a_loader_raises_passes_and_ends_the_wait(monitor: Monitor, tmp_path: Path) -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise OSError("no more disk")

    batches = monitor.batches(failing())
    assert (next(batches), only(tmp_path).live.phase) == (1, "other")
    with pytest.raises(OSError, match="no more disk"):
        next(batches)
    assert only(tmp_path).live.phase == "other"
    assert only(tmp_path).live.hook_errors == 0


def test_a_step_without_batches_is_one_batch(monitor: Monitor, tmp_path: Path) -> None:
    for _ in range(4):
        with monitor.step():
            pass
    assert only(tmp_path).live.batches == only(tmp_path).live.steps == 4


def test_the_loss_of_uneven_batches_is_weighted_by_their_tokens(monitor: Monitor, tmp_path: Path) -> None:
    windows = [[(2.5, 10), (1.0, 990)], [(3.0, 7)], [(0.5, 100), (0.25, 1), (4.0, 50)]]
    for window in windows:
        for loss, tokens in window:
            monitor.batch(loss=loss, tokens=tokens + 5, trained_tokens=tokens)
        monitor.end_step()
    seen = only(tmp_path)
    for record, window in zip(seen.steps, windows, strict=True):
        means, weights = zip(*window, strict=True)
        assert record.loss == pytest.approx(np.average(means, weights=weights))
    everything = list(itertools.chain.from_iterable(windows))
    assert seen.live.loss_token_sum == pytest.approx(math.fsum(loss * tokens for loss, tokens in everything))
    assert seen.live.loss_tokens == sum(tokens for _, tokens in everything)


def test_without_token_counts_batches_weigh_alike(monitor: Monitor, tmp_path: Path) -> None:
    monitor.batch(loss=1.0)
    monitor.batch(loss=4.0)
    monitor.end_step()
    assert only(tmp_path).live.loss == 2.5
    assert only(tmp_path).live.loss_tokens == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, torch.tensor(math.nan)])
def test_a_loss_that_is_not_finite_is_counted_and_not_published(
    monitor: Monitor, tmp_path: Path, bad: Any
) -> None:
    monitor.batch(loss=bad, trained_tokens=10)
    monitor.end_step()
    seen = only(tmp_path)
    assert seen.live.nonfinite_loss == 1
    assert seen.live.loss is None
    assert seen.live.tokens_trained == 10
    assert (seen.live.loss_tokens, seen.live.loss_token_sum) == (0, 0.0)
    monitor.batch(loss=2.0, trained_tokens=10)
    monitor.end_step()
    assert only(tmp_path).live.loss == 2.0


def test_a_gradient_norm_that_is_not_finite_is_counted_and_not_published(
    monitor: Monitor, tmp_path: Path
) -> None:
    monitor.log(gradient_norm=0.5)
    monitor.end_step()
    assert only(tmp_path).live.gradient_norm == 0.5
    monitor.log(gradient_norm=math.inf)
    monitor.end_step()
    seen = only(tmp_path)
    assert seen.live.nonfinite_gradient == 1
    assert seen.live.gradient_norm is None


def test_a_skipped_step_is_counted_beside_the_steps(monitor: Monitor, tmp_path: Path) -> None:
    monitor.end_step()
    monitor.skip_step()
    assert (only(tmp_path).live.steps, only(tmp_path).live.steps_skipped) == (1, 1)


def test_a_step_says_its_number_or_is_one_more_than_the_last(monitor: Monitor, tmp_path: Path) -> None:
    monitor.end_step(100)
    monitor.end_step()
    monitor.end_step(cast(Any, torch.tensor(200)))
    seen = only(tmp_path)
    assert [record.step for record in seen.steps] == [100, 101, 200]
    assert (seen.live.step, seen.live.steps) == (200, 3)


def test_a_resumed_run_continues_the_step_number(monitor: Monitor, tmp_path: Path) -> None:
    monitor.resume(40)
    monitor.end_step()
    seen = only(tmp_path)
    assert (seen.live.resumed_from_step, seen.live.step, seen.live.steps) == (40, 41, 1)
    assert seen.of("resume")[0]["step"] == 40


@pytest.mark.parametrize("deadline", [math.nan, math.inf, cast(Any, "soon")])
def test_a_deadline_that_is_no_time_harms_nobody(monitor: Monitor, tmp_path: Path, deadline: float) -> None:
    monitor.expect(steps=3, deadline=deadline)

    assert only(tmp_path).live.steps_expected == 3
    assert not [event for event in only(tmp_path).events if "deadline" in event]


def test_a_deadline_is_a_fact_of_the_run(monitor: Monitor, tmp_path: Path) -> None:
    monitor.expect(deadline=1795659374.6)

    assert [event["deadline"] for event in only(tmp_path).events if "deadline" in event] == ["1795659375"]


def test_the_time_of_a_slurm_job_is_known_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1795659374")

    with Monitor(run="a-run", rank=0, world_size=1, directory=tmp_path):
        assert only(tmp_path).static.info["deadline"] == "1795659374"


def test_what_is_expected_is_recorded(monitor: Monitor, tmp_path: Path) -> None:
    monitor.expect(steps=500, epochs=2.5)
    monitor.expect(steps=cast(Any, math.inf), epochs=-1.0)
    assert (only(tmp_path).live.steps_expected, only(tmp_path).live.epochs_expected) == (500, 2.5)


def test_phases_partition_the_wall_time(clock: Clock, tmp_path: Path) -> None:
    monitor = Monitor(run="a-run", directory=tmp_path)
    clock.passes(3)
    with monitor.phase("data"):
        clock.passes(0.5)
    with monitor.phase("evaluation"):
        clock.passes(2)
        with monitor.phase("data"):
            clock.passes(0.25)
        clock.passes(1)
    clock.passes(4)
    seconds = phase_seconds(only(tmp_path), clock.now_ns)
    assert seconds == pytest.approx({"init": 7, "data": 0.75, "evaluation": 3})
    monitor.finish()


def test_phases_add_up_to_the_age_at_every_moment(monitor: Monitor, tmp_path: Path) -> None:
    reader = RecordingReader(next(find(tmp_path)))
    for code in [DATA, FORWARD, BACKWARD, OPTIMIZER] * 200:
        monitor.enter(code)
        now = time.monotonic_ns()
        seconds = reader.live().phase_seconds(reader.static.start_monotonic_ns, now)
        assert sum(seconds.values()) == pytest.approx((now - reader.static.start_monotonic_ns) / 1e9)
    reader.close()


def test_a_step_is_compute_and_then_other(monitor: Monitor, tmp_path: Path) -> None:
    with monitor.step():
        assert only(tmp_path).live.phase == "compute"
        with monitor.phase("optimizer"):
            assert only(tmp_path).live.phase == "optimizer"
        assert only(tmp_path).live.phase == "compute"
    assert only(tmp_path).live.phase == "other"


def test_a_phase_returns_to_the_one_before_after_an_exception(monitor: Monitor, tmp_path: Path) -> None:
    with monitor.phase("data"), pytest.raises(KeyError), monitor.phase("evaluation"):
        raise KeyError
    assert only(tmp_path).live.phase == "init"


@pytest.mark.parametrize("name", ["warmup", "", 3, None, ["data"]])
def test_an_unknown_phase_is_harmless(monitor: Monitor, tmp_path: Path, name: Any) -> None:
    with monitor.phase(name):
        pass
    assert only(tmp_path).live.phase == "init"
    assert only(tmp_path).live.hook_errors == 1


@pytest.mark.parametrize("code", [99, "data", None, 1.5])
def test_an_unknown_phase_code_changes_nothing(clock: Clock, tmp_path: Path, code: Any) -> None:
    monitor = Monitor(run="a-run", directory=tmp_path)
    clock.passes(1)
    monitor.enter(code)
    clock.passes(1)
    monitor.enter(DATA)
    clock.passes(1)
    seen = only(tmp_path)
    assert phase_seconds(seen, clock.now_ns) == pytest.approx({"init": 2, "data": 1})
    assert seen.live.hook_errors == 1
    monitor.finish()


def test_a_step_does_not_last_through_initialisation_evaluation_and_checkpoints(
    clock: Clock, tmp_path: Path
) -> None:
    monitor = Monitor(run="a-run", directory=tmp_path)
    clock.passes(100)
    for _ in range(2):
        monitor.enter(DATA)
        clock.passes(0.25)
        monitor.enter(FORWARD)
        clock.passes(0.5)
        monitor.end_step()
        with monitor.phase("evaluation"):
            clock.passes(30)
        with monitor.checkpoint():
            clock.passes(20)
    with monitor.phase("evaluation"):
        clock.passes(5)
        monitor.end_step()
    seen = only(tmp_path)
    assert [record.duration_ns / 1e9 for record in seen.steps] == pytest.approx([0.75, 0.75, 0.0])
    assert seen.live.step_duration_sum_ns / 1e9 == pytest.approx(1.5)
    assert seen.live.checkpoint_seconds == pytest.approx(20)
    assert seen.steps[1].phase_ns[DATA] / 1e9 == pytest.approx(0.5)
    monitor.finish()


def test_the_wait_for_data_is_that_of_the_last_step(clock: Clock, tmp_path: Path) -> None:
    monitor = Monitor(run="a-run", directory=tmp_path)
    for seconds in (3.0, 0.5):
        monitor.enter(DATA)
        clock.passes(seconds)
        monitor.enter(FORWARD)
        clock.passes(1)
        monitor.end_step()
        assert only(tmp_path).live.data_seconds == pytest.approx(seconds)
    monitor.finish()


def test_every_step_is_in_the_bucket_of_its_duration(clock: Clock, tmp_path: Path) -> None:
    monitor = Monitor(run="a-run", directory=tmp_path)
    monitor.enter(FORWARD)
    for seconds in [0.001, *STEP_DURATION_BOUNDS_SECONDS, 100.0]:
        clock.passes(seconds)
        monitor.end_step()
    # A bound belongs to the bucket below it, as in Prometheus.
    assert only(tmp_path).live.step_duration_counts == (2, *[1] * 10, 1)
    monitor.finish()


def test_a_checkpoint_is_counted_with_its_size_and_duration(monitor: Monitor, tmp_path: Path) -> None:
    file, folder = tmp_path / "last.ckpt", tmp_path / "sharded"
    with monitor.checkpoint(file):
        assert only(tmp_path).live.phase == "checkpoint"
        file.write_bytes(bytes(1234))
    assert only(tmp_path).live.checkpoint_bytes == 1234
    with monitor.checkpoint(folder):
        (folder / "0").mkdir(parents=True)
        (folder / "0" / "a").write_bytes(bytes(10))
        (folder / "b").write_bytes(bytes(20))
    seen = only(tmp_path)
    assert seen.live.checkpoint_bytes == 30
    assert (seen.live.checkpoints_ok, seen.live.checkpoints_failed) == (2, 0)
    assert seen.live.checkpoint_seconds is not None
    assert seen.live.checkpoint_last_ns > seen.static.start_monotonic_ns
    assert [event["bytes"] for event in seen.of("checkpoint")] == [1234, 30]
    assert seen.live.phase == "init"


def test_the_interval_is_between_the_last_two_good_checkpoints_and_those_of_one_step_are_one(
    clock: Clock, tmp_path: Path
) -> None:
    monitor = Monitor(run="a-run", directory=tmp_path)
    intervals = []
    for seconds in (100, 300, 200):
        clock.passes(seconds)
        monitor.end_step()
        for _ in range(2):  # the best one, and the last one
            with monitor.checkpoint():
                clock.passes(5)
        with contextlib.suppress(OSError), monitor.checkpoint():
            raise OSError
        intervals.append(only(tmp_path).live.checkpoint_interval_seconds)
    monitor.finish()
    assert intervals == [None, pytest.approx(310), pytest.approx(210)]


def test_where_nobody_tells_the_steps_those_with_no_batch_between_them_are_one_checkpoint(
    clock: Clock, tmp_path: Path
) -> None:
    monitor = Monitor(run="a-run", directory=tmp_path)
    for seconds in (100, 300, 200):
        clock.passes(seconds)
        monitor.batch()
        for _ in range(2):
            with monitor.checkpoint():
                clock.passes(5)
    monitor.finish()
    assert only(tmp_path).live.checkpoint_interval_seconds == pytest.approx(210)


def test_those_before_the_first_step_are_one_checkpoint(clock: Clock, tmp_path: Path) -> None:
    monitor = Monitor(run="a-run", directory=tmp_path)
    for _ in range(2):
        with monitor.checkpoint():
            clock.passes(2)
    assert only(tmp_path).live.checkpoint_interval_seconds is None
    clock.passes(100)
    monitor.end_step()
    with monitor.checkpoint():
        clock.passes(2)
    monitor.finish()
    assert only(tmp_path).live.checkpoint_interval_seconds == pytest.approx(104)


def test_the_room_on_the_volume_of_a_checkpoint_is_what_this_process_can_still_take(
    monitor: Monitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = os.statvfs_result((4096, 1024, 1000, 300, 200, 0, 0, 0, 0, 255))
    asked: list[Path] = []

    def statvfs(path: Path) -> os.statvfs_result:
        asked.append(path)
        path.stat()
        return state

    monkeypatch.setattr(os, "statvfs", statvfs)
    with monitor.checkpoint(tmp_path / "last.ckpt"):
        (tmp_path / "last.ckpt").write_bytes(b"weights")
    live = only(tmp_path).live
    assert (live.checkpoint_volume_size_bytes, live.checkpoint_volume_free_bytes) == (1000 << 10, 200 << 10)
    with monitor.checkpoint(tmp_path / "of another rank"):
        pass
    assert asked == [tmp_path / "last.ckpt", tmp_path / "of another rank", tmp_path]


def test_the_volume_is_left_alone_by_other_ranks_and_when_a_checkpoint_fails(
    monitor: Monitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monitor.checkpoint(tmp_path):
        pass
    after_the_good_one = only(tmp_path).live.checkpoint_volume_free_bytes
    assert after_the_good_one is not None
    asked: list[Path] = []
    monkeypatch.setattr(os, "statvfs", asked.append)
    with contextlib.suppress(OSError), monitor.checkpoint(tmp_path):
        raise OSError
    assert only(tmp_path).live.checkpoint_volume_free_bytes == after_the_good_one
    with (
        Monitor(run="another", rank=1, world_size=2, directory=tmp_path / "1") as other,
        other.checkpoint(tmp_path),
    ):
        pass
    live = only(tmp_path / "1").live
    assert (live.checkpoints_ok, live.checkpoint_volume_free_bytes) == (1, None)
    assert asked == []


def test_a_volume_that_does_not_tell_or_does_not_answer_is_not_known(
    monitor: Monitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(path: Path) -> os.statvfs_result:
        raise OSError(errno.ENOTCONN, "")

    empty = os.statvfs_result((4096, 4096, 0, 0, 0, 0, 0, 0, 0, 255))
    for statvfs in (lambda path: empty, gone):
        with monitor.checkpoint(tmp_path):
            pass
        assert only(tmp_path).live.checkpoint_volume_free_bytes is not None
        with monkeypatch.context() as patched:
            patched.setattr(os, "statvfs", statvfs)
            with monitor.checkpoint(tmp_path):
                pass
        live = only(tmp_path).live
        assert (live.checkpoint_volume_size_bytes, live.checkpoint_volume_free_bytes) == (None, None)
    assert live.hook_errors == 0


def test_a_checkpoint_in_a_folder_of_other_things_is_what_was_written(
    monitor: Monitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "output"
    (folder / "checkpoint-1" / "deep").mkdir(parents=True)
    for name in ("data.bin", "model.bin", "checkpoint-1/model.bin", "checkpoint-1/deep/optimizer.bin"):
        (folder / name).write_bytes(bytes(1000))
    with monitor.checkpoint(folder):
        (folder / "new").write_bytes(bytes(7))
        (folder / "new").replace(folder / "model.bin")
        (folder / "checkpoint-2").mkdir()
        (folder / "checkpoint-2" / "model.bin").write_bytes(bytes(20))
    assert only(tmp_path).live.checkpoint_bytes == 27
    with monitor.checkpoint(folder):
        (folder / "checkpoint-2" / "deep").mkdir()
        (folder / "checkpoint-2" / "deep" / "optimizer.bin").write_bytes(bytes(20))
        (folder / "other.bin").write_bytes(bytes(20))
    assert only(tmp_path).live.checkpoint_bytes == 0  # not known, for it goes too deep
    monkeypatch.setattr("trainer_hooks.checkpoint_size._MOST_ENTRIES", 9)
    with monitor.checkpoint(folder):
        (folder / "another.bin").write_bytes(bytes(20))
    seen = only(tmp_path)
    assert (seen.live.checkpoint_bytes, seen.live.checkpoints_ok, seen.live.hook_errors) == (0, 3, 0)


def test_a_failed_checkpoint_is_counted_and_its_exception_goes_on(monitor: Monitor, tmp_path: Path) -> None:
    error = OSError(28, SECRET)
    with pytest.raises(OSError) as raised, monitor.checkpoint(tmp_path / "none"):  # noqa: PT011
        raise error
    assert raised.value is error
    seen = only(tmp_path)
    assert (seen.live.checkpoints_ok, seen.live.checkpoints_failed) == (0, 1)
    assert seen.of("checkpoint_failed")[0]["type"] == "OSError"
    assert seen.live.phase == "init"
    assert SECRET.encode() not in every_byte(tmp_path)


@pytest.mark.parametrize("path", ["s3://bucket/last.ckpt", "/nowhere/at/all", 7.5, "nul\0byte", object()])
def test_a_checkpoint_whose_size_cannot_be_told_counts_all_the_same(
    monitor: Monitor, tmp_path: Path, path: Any
) -> None:
    with monitor.checkpoint(path):
        pass
    seen = only(tmp_path)
    assert (seen.live.checkpoints_ok, seen.live.checkpoint_bytes, seen.live.hook_errors) == (1, 0, 0)
    assert seen.live.checkpoint_volume_free_bytes is None


def test_the_learning_rates_of_several_groups_are_recorded(monitor: Monitor, tmp_path: Path) -> None:
    monitor.learning_rates([1e-3, torch.tensor(2e-3, dtype=torch.float64), np.float64(3e-3), 4])
    monitor.end_step()
    seen = only(tmp_path)
    assert seen.live.learning_rates == (1e-3, 2e-3, 3e-3, 4.0, None, None, None, None)
    assert seen.steps[0].learning_rate == 1e-3


def test_groups_beyond_the_eighth_and_rates_that_are_not_finite_are_left_out(
    monitor: Monitor, tmp_path: Path
) -> None:
    monitor.learning_rates([math.nan, math.inf, *[0.1] * 20])
    assert only(tmp_path).live.learning_rates == (None, None, *[0.1] * 6)


def test_a_rate_that_is_no_number_is_a_fault(monitor: Monitor, tmp_path: Path) -> None:
    monitor.learning_rates(cast(Any, ["fast"]))
    monitor.learning_rates(cast(Any, None))
    monitor.learning_rates([0.5])
    assert only(tmp_path).live.hook_errors == 2
    assert only(tmp_path).live.learning_rates[0] == 0.5


def test_known_names_have_their_places(monitor: Monitor, tmp_path: Path) -> None:
    monitor.log(
        loss=2.0,
        learning_rate=0.1,
        gradient_norm=3.0,
        loss_scale=1024,
        accuracy=0.5,
        validation_accuracy=0.25,
        preprocessing_seconds=0.01,
        epoch=1.5,
    )
    monitor.end_step()
    live = only(tmp_path).live
    assert (live.loss, live.learning_rates[0], live.gradient_norm, live.loss_scale) == (2.0, 0.1, 3.0, 1024)
    assert (live.accuracy, live.validation_accuracy) == (0.5, 0.25)
    assert (live.preprocessing_seconds, live.epoch) == (0.01, 1.5)
    assert not only(tmp_path).of("scalar")


def test_other_names_become_scalars(monitor: Monitor, tmp_path: Path) -> None:
    monitor.log(**{"train/reward": 1.0, "success rate (é)": 2.0, "_kl": 3.0, "": 4.0, "self": 5.0})
    monitor.log(**{"train/reward": 7.0, "note": None})
    seen = only(tmp_path)
    slots = {event["name"]: event["slot"] for event in seen.of("scalar")}
    assert slots == {"train/reward": 0, "success_rate____": 1, "x_kl": 2, "x": 3, "self": 4}
    assert seen.live.scalars[:6] == (7.0, 2.0, 3.0, 4.0, 5.0, None)


def test_names_that_read_alike_share_a_scalar(monitor: Monitor, tmp_path: Path) -> None:
    monitor.log(**{"a b": 1.0, "a_b": 2.0, "a?b": 3.0, "n" * 64: 4.0, "n" * 70: 5.0})
    seen = only(tmp_path)
    assert [event["name"] for event in seen.of("scalar")] == ["a_b", "n" * 64]
    assert seen.live.scalars[:2] == (3.0, 5.0)


def test_scalars_beyond_the_sixty_fourth_are_dropped_and_counted(monitor: Monitor, tmp_path: Path) -> None:
    for round_ in (1.0, 2.0):
        for number in range(SCALARS + 6):
            monitor.log(**{f"scalar-{number}": round_ + number})
    seen = only(tmp_path)
    assert seen.live.scalars == tuple(2.0 + number for number in range(SCALARS))
    assert seen.live.hook_dropped == 12
    assert len(seen.of("scalar")) == SCALARS


def test_a_stage_is_one_line_among_the_events_until_the_next_is_told(
    monitor: Monitor, tmp_path: Path
) -> None:
    monitor.stage("foundation")
    with monitor.step():
        monitor.batch(loss=1.0)
    for name in ("foundation", "therapeutic expertise (é)", "therapeutic_expertise____", "foundation"):
        monitor.stage(name)
    told = [(event["name"], event["step"]) for event in only(tmp_path).of("stage")]
    assert told == [("foundation", 0), ("therapeutic_expertise____", 1), ("foundation", 1)]


def test_stages_beyond_the_sixty_fourth_are_dropped_and_counted(monitor: Monitor, tmp_path: Path) -> None:
    for number in range(66):
        monitor.stage(f"stage-{number}")
    monitor.stage("stage-0")
    seen = only(tmp_path)
    assert [event["name"] for event in seen.of("stage")] == [*(f"stage-{k}" for k in range(64)), "stage-0"]
    assert (seen.live.hook_dropped, seen.live.hook_errors) == (2, 0)


def test_a_stage_that_has_no_name_is_a_fault(monitor: Monitor, tmp_path: Path) -> None:
    monitor.stage(cast(Any, None))
    seen = only(tmp_path)
    assert (seen.of("stage"), seen.live.hook_errors) == ([], 1)


def test_a_scalar_that_is_not_finite_is_unknown(monitor: Monitor, tmp_path: Path) -> None:
    monitor.log(reward=1.0)
    monitor.log(reward=math.inf)
    assert only(tmp_path).live.scalars[0] is None
    assert only(tmp_path).live.hook_errors == 0


def test_an_evaluation_keeps_the_last_and_the_best_loss(monitor: Monitor, tmp_path: Path) -> None:
    for loss in (2.0, 1.0, 3.0):
        monitor.evaluated(loss=loss, tokens=1000, accuracy=loss / 10)
    live = only(tmp_path).live
    assert (live.validation_loss, live.validation_loss_best, live.validation_loss_tokens) == (3.0, 1.0, 1000)
    assert live.validation_accuracy == pytest.approx(0.3)
    monitor.evaluated(loss=math.nan, tokens=1000)
    seen = only(tmp_path)
    assert (seen.live.validation_loss, seen.live.validation_loss_best) == (None, 1.0)
    assert seen.live.nonfinite_loss == 1
    assert [event.get("loss") for event in seen.of("evaluation")] == [2.0, 1.0, 3.0, None]


def test_progress_is_a_sign_of_life_without_a_step(clock: Clock, tmp_path: Path) -> None:
    monitor = Monitor(run="a-run", directory=tmp_path)
    clock.passes(50)
    monitor.progress()
    live = only(tmp_path).live
    assert (live.last_progress_ns, live.steps) == (clock.now_ns, 0)
    assert live.last_step_ns == clock.now_ns - 50 * 10**9
    monitor.finish()


class Hostile:
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"no {name} here")


class SecretNumber:
    def __float__(self) -> float:
        raise ValueError(SECRET)


HOSTILE: dict[str, Any] = {
    "object": object(),
    "tensor of many": torch.zeros(3),
    "array of many": np.zeros(2),
    "number as text": "12",
    "bytes": b"1",
    "text": "abc",
    "huge": 10**400,
    "complex": 1j,
    "list": [1.0],
    "raises": Hostile(),
}
NO_COUNTS: dict[str, Any] = {
    **HOSTILE,
    "negative": -5,
    "nan": math.nan,
    "infinite": math.inf,
    "more than 64 bits": 2**64,
}


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
def test_a_value_that_is_no_number_is_counted_and_costs_no_other(
    monitor: Monitor, tmp_path: Path, value: Any
) -> None:
    monitor.log(reward=value, accuracy=0.5)
    monitor.batch(loss=value, samples=2, tokens=10, trained_tokens=8)
    monitor.evaluated(loss=value, tokens=10, accuracy=0.25)
    monitor.learning_rates([value])
    monitor.end_step()
    live = only(tmp_path).live
    assert live.hook_errors == 4
    assert (live.steps, live.batches, live.samples, live.tokens_all, live.tokens_trained) == (1, 1, 2, 10, 8)
    assert (live.accuracy, live.validation_accuracy) == (0.5, 0.25)
    assert (live.loss, live.scalars[0]) == (None, None)


@pytest.mark.parametrize("value", NO_COUNTS.values(), ids=NO_COUNTS)
@pytest.mark.parametrize("name", ["samples", "tokens", "trained_tokens"])
def test_a_count_that_is_none_does_not_spoil_those_that_follow(
    monitor: Monitor, tmp_path: Path, name: str, value: Any
) -> None:
    monitor.batch(**{"loss": 1.0, "samples": 2, "tokens": 10, "trained_tokens": 8, name: value})
    monitor.end_step()
    before = only(tmp_path).live
    assert before.hook_errors == 1
    assert (before.steps, before.batches) == (1, 1)
    monitor.batch(loss=3.0, samples=2, tokens=10, trained_tokens=8)
    monitor.end_step()
    after = only(tmp_path).live
    assert after.hook_errors == 1
    assert after.samples - before.samples == 2
    assert after.tokens_all - before.tokens_all == 10
    assert after.tokens_trained - before.tokens_trained == 8
    assert (after.steps, after.loss) == (2, 3.0)


@pytest.mark.parametrize("step", NO_COUNTS.values(), ids=NO_COUNTS)
def test_a_step_number_that_is_none_does_not_spoil_those_that_follow(
    monitor: Monitor, tmp_path: Path, step: Any
) -> None:
    monitor.end_step(4)
    monitor.end_step(step)
    monitor.resume(step)
    monitor.end_step()
    assert (only(tmp_path).live.step, only(tmp_path).live.hook_errors) == (5, 2)


def test_the_log_of_a_fault_names_its_place_and_never_quotes_the_value(
    monitor: Monitor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="trainvitals"):
        monitor.log(reward=SecretNumber())
        monitor.log(reward=SecretNumber())
    assert only(tmp_path).live.hook_errors == 2
    (record,) = [record for record in caplog.records if record.name == "trainvitals"]
    assert "ValueError at test_monitor.py:" in record.getMessage()
    assert record.getMessage().endswith(" in __float__")
    assert SECRET not in caplog.text
    assert SECRET.encode() not in every_byte(tmp_path)


def test_none_is_no_value_and_no_fault(monitor: Monitor, tmp_path: Path) -> None:
    monitor.log(reward=None, gradient_norm=None)
    monitor.batch(loss=None, tokens=None, trained_tokens=None)
    monitor.evaluated()
    assert only(tmp_path).live.hook_errors == only(tmp_path).live.hook_dropped == 0


def test_a_value_on_a_device_without_a_way_is_dropped_and_counted(monitor: Monitor, tmp_path: Path) -> None:
    monitor.batch(loss=torch.zeros((), device="meta"), trained_tokens=5)
    monitor.end_step()
    live = only(tmp_path).live
    assert (live.hook_dropped, live.hook_errors, live.tokens_trained, live.loss) == (1, 0, 5, None)


def test_an_event_that_is_no_json_is_counted(monitor: Monitor, tmp_path: Path) -> None:
    monitor.event("strange", value=object())
    monitor.event("strange", value=math.nan)
    monitor.event("fine", kind="of", value=1)
    seen = only(tmp_path)
    assert seen.live.hook_errors == 2
    assert not seen.of("strange")
    assert seen.of("fine")[0]["kind"] == "of"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("odd")])
@pytest.mark.parametrize("call", ["append", "event", "publish"])
@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_recorder_that_fails_costs_one_warning_and_no_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, call: str, after: int, error: Exception
) -> None:
    monitor = Monitor(run="a-run", directory=tmp_path)
    recorder = cast(Any, monitor)._recorder
    calls = itertools.count()

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call_or_fail(*arguments: Any) -> Any:
            if next(calls) >= after:
                raise error
            return real(*arguments)

        return call_or_fail

    setattr(recorder, call, failing(getattr(recorder, call)))
    cast(Any, monitor)._append, cast(Any, monitor)._publish = recorder.append, recorder.publish
    cast(Any, monitor)._must_publish = call == "publish"
    with caplog.at_level(logging.WARNING, logger="trainvitals"):
        for _ in range(10):
            monitor.enter(DATA)
            monitor.batch(loss=1.0, samples=1, tokens=2, trained_tokens=1)
            monitor.log(reward=1.0, gradient_norm=0.1)
            monitor.end_step()
            monitor.event("something")
            monitor.progress()
        with monitor.checkpoint():
            pass
        monitor.finish()
    assert len([record for record in caplog.records if record.name == "trainvitals"]) == 1
    live = only(tmp_path).live
    assert (live.steps, live.batches, live.samples, live.tokens_all) == (10, 10, 10, 20)
    assert live.loss == 1.0
    assert live.hook_errors > 0
    assert live.outcome == FINISHED


class _Strange:
    def __str__(self) -> str:
        raise RuntimeError("the client said that she")


def test_a_strangers_words_are_not_logged_and_ours_and_the_systems_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "jane").write_text("")
    with caplog.at_level(logging.WARNING, logger="trainvitals"):
        Monitor(run="a-run", directory=tmp_path, info={"model": cast(str, _Strange())})
        Monitor(run="a-run", directory=tmp_path / "jane")
        Monitor(run="a run", directory=tmp_path)
    lines = [record.getMessage() for record in caplog.records if record.name == "trainvitals"]
    assert lines[:2] == [
        "telemetry is off for this run: RuntimeError",
        "telemetry is off for this run: FileExistsError: File exists; "
        "TRAINVITALS_DIR chooses another directory",
    ]
    assert "run name 'a run' must match" in lines[2]


def test_a_directory_that_cannot_be_written_costs_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING, logger="trainvitals"):
        monitor = Monitor(run="a-run", directory=tmp_path / "file")
        with monitor, monitor.step(), monitor.phase("data"), monitor.checkpoint():
            monitor.log(loss=1.0)
            monitor.batch(loss=1.0)
            monitor.evaluated(loss=1.0)
            monitor.skip_step()
    assert not monitor.recording
    assert monitor.run is None
    assert ["telemetry is off" in record.message for record in caplog.records] == [True]


def test_a_name_no_folder_could_bear_turns_telemetry_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert not Monitor(run="../elsewhere", directory=tmp_path).recording
    assert "must match" in caplog.text
    assert not list(tmp_path.iterdir())


def test_pruning_that_fails_leaves_the_recording_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(directory: Path) -> None:
        raise FileNotFoundError(directory)

    monkeypatch.setattr("trainer_hooks.directory.prune", gone)
    monitor = Monitor(run="a-run", directory=tmp_path)
    assert monitor.recording
    monitor.finish()


def test_an_exception_leaves_its_type_and_place_and_never_its_message(tmp_path: Path) -> None:
    def deep_inside() -> None:
        raise ValueError(SECRET)

    with pytest.raises(ValueError, match=SECRET), Monitor(run="a-run", directory=tmp_path):
        deep_inside()
    seen = only(tmp_path)
    assert seen.live.outcome == FAILED
    (event,) = seen.of("exception")
    assert event["type"] == "ValueError"
    assert str(event["place"]).startswith("test_monitor.py:")
    assert str(event["place"]).endswith(" in deep_inside")
    assert seen.of("fail")[0]["type"] == "ValueError"
    assert SECRET.encode() not in every_byte(tmp_path)


def test_the_message_is_recorded_when_the_run_asks_for_it(tmp_path: Path) -> None:
    monitor = Monitor(run="a-run", directory=tmp_path, record_messages=True)
    monitor.fail(ValueError(SECRET + "x" * 1000))
    (event,) = only(tmp_path).of("exception")
    assert str(event["message"]).startswith(SECRET)
    assert len(str(event["message"])) == 512


def test_running_out_of_memory_is_counted(monitor: Monitor, tmp_path: Path) -> None:
    monitor.exception(torch.OutOfMemoryError("CUDA out of memory"))
    monitor.exception(MemoryError())
    monitor.exception(ValueError())
    assert only(tmp_path).live.ooms == 2


def test_a_clean_end_is_finished(tmp_path: Path) -> None:
    with Monitor(run="a-run", directory=tmp_path) as monitor:
        assert only(tmp_path).live.outcome == RUNNING
        assert only(tmp_path).alive
        monitor.end_step()
    seen = only(tmp_path)
    assert seen.live.outcome == FINISHED
    assert not seen.alive
    assert seen.live.end_ns >= seen.live.last_step_ns
    assert seen.of("finish")[0]["reason"] == "completed"


@pytest.mark.parametrize(
    ("error", "reason"),
    [(KeyboardInterrupt(), "interrupted"), (SystemExit(), "exit"), (SystemExit(0), "exit")],
)
def test_an_end_by_hand_is_no_failure(tmp_path: Path, error: BaseException, reason: str) -> None:
    with pytest.raises(type(error)), Monitor(run="a-run", directory=tmp_path):
        raise error
    assert only(tmp_path).live.outcome == FINISHED
    assert only(tmp_path).of("finish")[0]["reason"] == reason


def test_leaving_with_an_exit_status_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(SystemExit), Monitor(run="a-run", directory=tmp_path):
        sys.exit(3)
    assert only(tmp_path).live.outcome == FAILED


def test_an_exception_ends_no_step(monitor: Monitor, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), monitor.step():
        raise ZeroDivisionError
    assert (only(tmp_path).live.steps, only(tmp_path).live.phase) == (0, "other")


def test_after_its_end_a_monitor_does_nothing(tmp_path: Path) -> None:
    monitor = Monitor(run="a-run", directory=tmp_path)
    monitor.end_step()
    monitor.finish()
    before = every_byte(tmp_path)
    with monitor.step(), monitor.phase("data"), monitor.checkpoint():
        monitor.batch(loss=1.0, samples=1)
        monitor.log(loss=1.0, anything=2.0)
        monitor.learning_rates([1.0])
    monitor.evaluated(loss=1.0)
    monitor.event("late")
    monitor.exception(ValueError())
    monitor.skip_step()
    monitor.progress()
    monitor.resume(4)
    monitor.expect(steps=4)
    monitor.fail(ValueError())
    monitor.finish()
    assert every_byte(tmp_path) == before
    assert monitor.run == "a-run"


SCRIPT = """
import os, signal, sys
from trainer_hooks.monitor import Monitor
monitor = Monitor(run="a-run", directory=sys.argv[1])
for _ in range(3):
    monitor.end_step()
"""


@pytest.mark.parametrize(
    ("ending", "status", "outcome"),
    [
        ("", 0, FINISHED),
        ("raise ValueError('the client said that she')", 1, FAILED),
        ("def f(): raise ValueError\ntry: f()\nexcept ValueError: pass", 0, FINISHED),
        ("raise KeyboardInterrupt", -signal.SIGINT, FINISHED),
        ("os._exit(3)", 3, RUNNING),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, RUNNING),
    ],
)
def test_a_script_that_does_not_say_its_end(tmp_path: Path, ending: str, status: int, outcome: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT + ending, str(tmp_path)], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == status, done.stderr
    seen = only(tmp_path)
    assert (seen.live.outcome, seen.live.steps) == (outcome, 3)
    assert not seen.alive
    assert SECRET.encode() not in every_byte(tmp_path)


def test_a_forked_child_is_silent_and_does_not_disturb_its_parent(tmp_path: Path) -> None:
    script = SCRIPT + textwrap.dedent(
        """
        with monitor.phase("data"):
            child = os.fork()
            if child == 0:
                for _ in range(100):
                    with monitor.step():
                        monitor.batch(loss=9.0, samples=9)
                    monitor.log(other=9.0)
                    monitor.event("child")
                    monitor.stage("child")
                monitor.fail(ValueError())
                sys.exit(7)  # runs what is registered for the exit
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        with monitor.step():
            monitor.batch(loss=1.0, samples=1)
        monitor.event("parent")
        """
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    seen = only(tmp_path)
    assert (seen.live.steps, seen.live.samples, seen.live.loss) == (4, 1, 1.0)
    assert [event["event"] for event in seen.events] == ["start", "parent", "finish"]
    assert seen.live.outcome == FINISHED


def test_a_multiprocessing_child_without_a_rank_opens_nothing(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import multiprocessing, sys
        from trainer_hooks.monitor import Monitor
        def work():
            assert not Monitor(run="a-run", directory=sys.argv[1]).recording
        child = multiprocessing.get_context("fork").Process(target=work)
        child.start()
        child.join()
        sys.exit(child.exitcode)
        """
    )
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)], timeout=60).returncode == 0
    assert not list(tmp_path.iterdir())


def test_two_monitors_of_one_process_are_two_attempts(tmp_path: Path) -> None:
    first, second = Monitor(run="a-run", directory=tmp_path), Monitor(run="a-run", directory=tmp_path)
    first.end_step()
    second.end_step()
    second.end_step()
    first.finish()
    second.end_step()
    second.finish()
    assert [seen.live.steps for seen in recorded(tmp_path)] == [1, 3]
    assert [seen.live.outcome for seen in recorded(tmp_path)] == [FINISHED, FINISHED]


def test_no_thread_is_started_and_no_signal_handler_changed(tmp_path: Path) -> None:
    handled = [number for number in signal.valid_signals() if number not in (signal.SIGKILL, signal.SIGSTOP)]
    before = [signal.getsignal(number) for number in handled]
    threads, tasks = set(threading.enumerate()), set(os.listdir("/proc/self/task"))  # noqa: PTH208
    with Monitor(run="a-run", directory=tmp_path) as monitor, monitor.step():
        monitor.batch(loss=torch.tensor(1.0))
        assert [signal.getsignal(number) for number in handled] == before
        # Those of other tests may end meanwhile.
        assert set(threading.enumerate()) <= threads
        assert set(os.listdir("/proc/self/task")) <= tasks  # noqa: PTH208


def test_the_hook_counts_the_time_it_takes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # By a clock that stands still while other processes have the core: most of that may lie between calls.
    monkeypatch.setattr(monitor_module, "monotonic_ns", time.thread_time_ns)
    monitor = Monitor(run="a-run", directory=tmp_path, start_ns=time.thread_time_ns())
    opened_ns = monitor.hook_ns
    began = time.thread_time_ns()
    for step in range(500):
        for code in (DATA, FORWARD, BACKWARD, OPTIMIZER):
            monitor.enter(code)
        monitor.batch(loss=1.0, samples=1, tokens=2, trained_tokens=1)
        monitor.learning_rates([0.1])
        monitor.log(gradient_norm=1.0)
        monitor.resume(step)
        monitor.evaluated(loss=1.0)
        monitor.end_step()
    spent_ns = time.thread_time_ns() - began
    own_ns = monitor.hook_ns - opened_ns
    monitor.finish()
    assert 0.5 * spent_ns < own_ns <= 1.01 * spent_ns
    assert only(tmp_path).live.hook_ns >= own_ns


def test_an_adapters_faults_and_time_are_the_hooks(monitor: Monitor, tmp_path: Path) -> None:
    def part(value: int) -> None:
        time.sleep(0.01)
        monitor.end_step()
        raise KeyError(value)

    before = monitor.hook_ns
    monitor.guard(part, 5)
    assert only(tmp_path).live.hook_errors == 1
    assert monitor.hook_ns - before >= 10_000_000


def test_a_tensor_with_a_gradient_is_read_without_a_warning(monitor: Monitor, tmp_path: Path) -> None:
    loss = torch.ones((), requires_grad=True) * 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monitor.batch(loss=loss)
        monitor.end_step()
    assert only(tmp_path).live.loss == 2.0
    assert loss.requires_grad


def test_the_phases_a_monitor_knows_are_those_of_the_recording() -> None:
    codes = [getattr(monitor_module, phase.upper()) for phase in PHASES]
    assert codes == list(range(len(PHASES)))


def test_of_a_path_in_info_the_recording_holds_the_last_component(tmp_path: Path) -> None:
    with Monitor(run="a", directory=tmp_path, info={"dataset": "/home/jane.doe/clients/talks.jsonl"}):
        pass

    assert only(tmp_path).static.info["dataset"] == "talks.jsonl"
    assert b"jane" not in every_byte(tmp_path)
