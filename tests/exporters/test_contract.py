"""What is promised of the metrics of runs and ranks, over recordings that the real Monitor wrote."""

from __future__ import annotations

import itertools
import math
import shutil
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from exporters import recordings
from exporters.catalog import CATALOG
from exporters.collector import Histogram, Sample
from exporters.followed import Endings, SeenAlive
from exporters.gpu import node
from exporters.gpu.simulated import SimulatedGpus, Simulation
from exporters.recordings import RecordingsCollector
from tests.exporters.looks import Clocks, Look, counters, names, published, state, timestamps, value, values
from tests.exporters.trainers import Trainer, set_slot, small_recording
from trainer_hooks import recording
from trainer_hooks.monitor import Monitor
from trainer_hooks.recording import DEVICE_PHASES, FINISHED, PHASES, SLOT, Recorder

HOUR = 3600.0


def eventful_monitor(directory: Path) -> Monitor:
    """A run that has a value for every metric of a run and a rank."""
    monitor = Monitor(
        run="a-run",
        rank=0,
        world_size=1,
        directory=directory,
        loss_kind="cross_entropy",
        info={"model": "tiny", "dataset": "chat", "precision": "bf16", "framework": "torch"},
    )
    monitor.expect(steps=100, epochs=2, deadline=time.time() + HOUR)
    monitor.resume(10)
    monitor.stage("foundation")
    for _ in range(3):
        with monitor.step():
            monitor.batch(loss=2.0, samples=4, tokens=12, trained_tokens=10)
            monitor.log(gradient_norm=1.5)
        monitor.learning_rates([0.1] * recording.LEARNING_RATE_GROUPS)
        with monitor.checkpoint(directory / "checkpoint"):
            (directory / "checkpoint").write_bytes(b"weights")
    monitor.log(accuracy=0.5, epoch=0.1, loss_scale=1024.0, preprocessing_seconds=0.01)
    monitor.log(**{f"scalar/{index}": float(index) for index in range(recording.SCALARS + 5)})
    monitor.evaluated(loss=1.75, tokens=100, accuracy=0.25)
    assert monitor._recorder is not None
    as_with_a_device(monitor._recorder)
    return monitor


def as_with_a_device(recorder: Recorder) -> None:
    """What only a GPU would give."""
    set_slot(
        recorder,
        cuda_allocated_bytes=2.0**30,
        cuda_reserved_bytes=2.0**31,
        cuda_reserved_peak_bytes=2.0**32,
        cuda_alloc_retries=1.0,
        model_flops=1e15,
        peak_flops=989e12,
    )
    for place in range(len(DEVICE_PHASES)):
        recorder.doubles[SLOT["device_seconds"] + place] = 1.5


def test_every_series_is_in_the_catalog_with_exactly_its_labels_and_no_value_is_nan(
    tmp_path: Path, look: Look
) -> None:
    monitor = eventful_monitor(tmp_path)
    alive = look()
    monitor.finish()
    dead = look()

    for sample in [*alive, *dead]:
        metric = CATALOG[sample.metric.name]
        assert metric is sample.metric
        if metric.kind == "info":
            assert sample.labels.keys() >= set(metric.labels)
        else:
            assert sample.labels.keys() == set(metric.labels), metric.name
        if not isinstance(sample.value, Histogram):
            assert not math.isnan(sample.value), metric.name
    published_names = names([*alive, *dead])
    of_runs = {name for name, metric in CATALOG.items() if metric.scope in ("run", "rank")}
    assert of_runs - published_names == {"training_run_gpu_info"}, "which the GPUs' collector publishes"


def test_a_run_and_a_rank_keep_within_their_budget_of_series(tmp_path: Path, look: Look) -> None:
    monitor = eventful_monitor(tmp_path)
    series: dict[str, int] = {"run": 0, "rank": 0, "scalar": 0}
    for sample in look():
        scope = "scalar" if sample.metric.name == "training_scalar" else sample.metric.scope
        if scope in series:
            buckets = sample.value.cumulative_counts if isinstance(sample.value, Histogram) else ()
            series[scope] += len(buckets) + 2 if buckets else 1
    monitor.finish()

    print(f"series: {series}")
    assert series["rank"] <= 45
    assert series["run"] <= 150
    assert series["scalar"] == 64


def test_a_gpu_keeps_within_its_budget_of_series() -> None:
    series = Counter(
        sample.labels["gpu"]
        for sample in node.published(SimulatedGpus(Simulation(2)).collect())
        if sample.metric.scope == "gpu"
    )

    assert series.keys() == {"0", "1"}
    assert max(series.values()) <= 60


def test_what_is_not_known_is_absent_and_counters_of_known_kinds_begin_at_0(
    tmp_path: Path, look: Look
) -> None:
    small_recording(tmp_path, "a-run")

    samples = look()

    assert names(samples) & {name for name, metric in CATALOG.items() if metric.scope == "run"} == {
        "training_step_current",
        "training_step_duration_seconds",
        "training_checkpoints_total",
        "training_run_start_timestamp_seconds",
        "training_run_state",
        "training_restarts_total",
        "training_world_size",
        "training_run_info",
    }
    assert values(samples, "training_checkpoints_total", "result") == {"ok": 0, "failed": 0}
    assert values(samples, "training_nonfinite_total", "what") == {"loss": 0, "gradient": 0}
    assert values(samples, "training_tokens_processed_total", "kind") == {"all": 0, "trained": 0}
    assert values(samples, "training_phase_seconds_total", "phase").keys() == set(PHASES)
    assert values(samples, "training_run_state", "state") == {
        "running": 1,
        "stalled": 0,
        "finished": 0,
        "failed": 0,
        "killed": 0,
        "aborted": 0,
    }


def test_lifecycle_series_stay_for_25_hours_after_the_end_and_all_others_for_15_minutes(
    tmp_path: Path, clocks: Clocks, look: Look
) -> None:
    eventful_monitor(tmp_path).finish()
    lifecycle = {name for name, metric in CATALOG.items() if metric.lifecycle}
    of_runs = {name for name, metric in CATALOG.items() if metric.scope in ("run", "rank")}

    clocks.ahead_seconds = 14 * 60
    samples = look()
    assert {"training_loss", *lifecycle} < names(samples)
    assert published(samples) == {"full": 1, "lifecycle": 0, "hidden": 0}
    clocks.ahead_seconds = 16 * 60
    samples = look()
    assert names(samples) & of_runs == lifecycle
    assert published(samples) == {"full": 0, "lifecycle": 1, "hidden": 0}
    clocks.ahead_seconds = 25 * HOUR - 60
    assert names(look()) & of_runs == lifecycle
    clocks.ahead_seconds = 25 * HOUR + 60
    samples = look()
    assert names(samples) & of_runs == set()
    assert published(samples) == {"full": 0, "lifecycle": 0, "hidden": 1}


def test_at_most_50_runs_are_published_in_full_and_200_at_all_the_living_first(
    tmp_path: Path, look: Look, collector: RecordingsCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recordings, "_NEW_RECORDINGS_SECONDS", math.inf)
    small_recording(tmp_path, "began-first-and-lives")
    for number in range(205):
        small_recording(tmp_path, f"short-{number}").close(FINISHED, time.monotonic_ns())
        time.sleep(0.001)  # starts are told to the millisecond

    samples = look()

    assert published(samples) == {"full": 50, "lifecycle": 150, "hidden": 6}
    full = values(samples, "training_step_current", "run").keys()
    assert full == {"began-first-and-lives", *(f"short-{number}" for number in range(156, 205))}
    known = {labels["run"] for labels in (s.labels for s in samples) if "run" in labels}
    assert known == {"began-first-and-lives", *(f"short-{number}" for number in range(6, 205))}
    assert len(collector.runs) == 206


def test_the_phases_add_up_to_the_age(tmp_path: Path, clocks: Clocks, look: Look) -> None:
    monitor = Monitor(run="a-run", rank=0, world_size=1, directory=tmp_path)
    for phase in ("data", "forward", "backward", "optimizer", "evaluation"):
        with monitor.phase(phase):
            time.sleep(0.002)
    clocks.stopped_at_ns = time.monotonic_ns() + 5 * 10**9
    seconds = values(look(), "training_phase_seconds_total", "phase")
    monitor.finish()

    (path,) = recording.find(tmp_path)
    age_ns = clocks.stopped_at_ns - recording.RecordingReader(path).static.start_monotonic_ns
    taken = {phase: each for phase, each in seconds.items() if not isinstance(each, Histogram)}
    assert sum(taken.values()) == pytest.approx(age_ns / 1e9, abs=1e-6)
    for phase in ("data", "forward", "backward", "optimizer", "evaluation"):
        assert taken[phase] >= 0.002
    assert taken["compute"] == taken["checkpoint"] == 0


def test_times_do_not_jitter_between_looks_and_services(tmp_path: Path, look: Look, clocks: Clocks) -> None:
    monitor = eventful_monitor(tmp_path)
    small_recording(tmp_path, "dead").disarm()
    first = timestamps(look())
    assert len(first) == 10

    for drift in (0.0, 0.2, -0.2):
        clocks.wall_set_by_seconds = drift
        other = RecordingsCollector([tmp_path], monotonic_ns=clocks.monotonic_ns, wall=clocks.wall)
        assert timestamps(look()) == timestamps(list(other.collect())) == first
        other.close()
    monitor.finish()


def test_times_follow_a_clock_that_was_set(tmp_path: Path, look: Look, clocks: Clocks) -> None:
    small_recording(tmp_path, "a-run")
    before = timestamps(look())

    clocks.wall_set_by_seconds = 3600

    for _ in range(2):
        after = timestamps(look())
        for series, moment in before.items():
            assert after[series] == pytest.approx(moment + 3600, abs=0.01)
    assert state(look()) == "running"


class RememberedEndings(Endings):
    """Endings kept in memory, as StoredEndings keeps them in a file."""

    def __init__(self) -> None:
        self.seen: dict[tuple[Path, str, int], SeenAlive] = {}

    def last_seen(self, path: Path, boot_id: str, start_ns: int) -> SeenAlive | None:
        return self.seen.get((path, boot_id, start_ns))

    def remember(self, seen: Iterable[SeenAlive]) -> None:
        self.seen.update({(each.path, each.boot_id, each.start_ns): each for each in seen})


def assert_none_fell(before: list[Sample], after: list[Sample]) -> None:
    later = counters(after)
    for series, count in counters(before).items():
        assert later[series] >= count, f"{series} fell from {count} to {later[series]}"


@pytest.mark.parametrize("last_line", ["kill", "sys.exit()"])
def test_no_counter_falls_while_a_run_lives_when_it_ends_and_when_the_service_is_restarted(
    tmp_path: Path, last_line: str
) -> None:
    endings = RememberedEndings()
    collector = RecordingsCollector([tmp_path], last_seen=endings)
    with Trainer(tmp_path) as trainer:
        looks = [list(collector.collect())]
        for _ in range(20):
            trainer.do("steps(20)")
            looks.append(list(collector.collect()))
        time.sleep(0.05)  # silent, yet seen alive: its last sign of life is older than the last look
        looks.append(list(collector.collect()))
        if last_line == "kill":
            trainer.kill()
        else:
            trainer.end(last_line)
    looks += [list(collector.collect()) for _ in range(2)]
    collector.close()
    restarted = RecordingsCollector([tmp_path], last_seen=endings)
    looks += [list(restarted.collect()) for _ in range(2)]
    restarted.close()

    for before, after in itertools.pairwise(looks):
        assert_none_fell(before, after)
    assert state(looks[-1]) == ("killed" if last_line == "kill" else "finished")
    assert timestamps(looks[-1]) == timestamps(looks[-3])


@pytest.mark.parametrize("service_was_killed", [False, True])
def test_no_counter_falls_where_a_silent_trainer_dies_while_the_service_is_away(
    tmp_path: Path, clocks: Clocks, service_was_killed: bool
) -> None:
    def collector() -> RecordingsCollector:
        return RecordingsCollector(
            [tmp_path], last_seen=endings, monotonic_ns=clocks.monotonic_ns, wall=clocks.wall
        )

    endings = RememberedEndings()
    first = collector()
    trainer = small_recording(tmp_path, "a-run")
    before = list(first.collect())
    for seconds in (11, 3):
        clocks.ahead_seconds += seconds
        before = before if service_was_killed and seconds == 3 else list(first.collect())
    if not service_was_killed:
        first.close()
    trainer.disarm()  # lets the lock go and says nothing: what the kernel does for a killed process
    second = collector()
    after = list(second.collect())
    second.close()
    first.close()

    assert state(after) == "killed"
    assert_none_fell(before, after)
    silent = value(after, "training_phase_seconds_total", phase="init")
    assert isinstance(silent, float)
    assert silent > 10


def test_a_recording_does_not_get_the_ending_of_an_earlier_one_of_its_name(
    tmp_path: Path, clocks: Clocks
) -> None:
    def looked(ahead_seconds: float) -> list[Sample]:
        clocks.ahead_seconds = ahead_seconds
        collector = RecordingsCollector(
            [tmp_path], last_seen=endings, monotonic_ns=clocks.monotonic_ns, wall=clocks.wall
        )
        samples = list(collector.collect())
        collector.close()
        return samples

    endings = RememberedEndings()
    small_recording(tmp_path, "a-run")
    looked(ahead_seconds=100)
    shutil.rmtree(tmp_path / "a-run")
    small_recording(tmp_path, "a-run").disarm()

    seconds = value(looked(ahead_seconds=200), "training_phase_seconds_total", phase="init")

    assert isinstance(seconds, float)
    assert seconds < 50


def test_no_phase_falls_when_the_writer_stores_its_change_of_phase_late(
    tmp_path: Path, clocks: Clocks, look: Look
) -> None:
    """It took its clock, was preempted while a look was made, and went on."""
    trainer = small_recording(tmp_path, "a-run")
    start_ns, second_ns = trainer.static.start_monotonic_ns, 10**9
    forward, backward = recording.PHASE_CODES["forward"], recording.PHASE_CODES["backward"]
    set_slot(trainer, phase_word=start_ns & ~recording.PHASE_MASK | forward)
    clocks.stopped_at_ns = start_ns + second_ns + second_ns // 100
    before = look()
    trainer.unsigned[recording.SLOT["phase_ns"] + forward] = second_ns
    set_slot(trainer, phase_word=(start_ns + second_ns) & ~recording.PHASE_MASK | backward)
    after = look()

    assert value(before, "training_phase_seconds_total", phase="forward") == 1.01
    assert_none_fell(before, after)
    clocks.stopped_at_ns += second_ns
    assert value(look(), "training_phase_seconds_total", phase="backward") == 1.01


def test_no_counter_falls_while_a_process_records_a_thousand_steps_a_second(
    tmp_path: Path, look: Look
) -> None:
    with Trainer(tmp_path) as trainer:
        trainer.do("import time")
        trainer.begin("while True: steps(1); time.sleep(0.0005)")
        before = look()
        for _ in range(100):
            after = look()
            assert_none_fell(before, after)
            before = after


def test_perplexity_is_that_of_all_tokens_of_the_window_over_the_ranks(tmp_path: Path, look: Look) -> None:
    losses = {0: [(3.0, 10), (1.0, 1000), (2.0, 7)], 1: [(0.5, 400)]}
    monitors = [
        Monitor(run="a-run", rank=rank, world_size=2, directory=tmp_path, loss_kind="cross_entropy")
        for rank in losses
    ]
    for rank, batches in losses.items():
        for loss, tokens in batches:
            with monitors[rank].step():
                monitors[rank].batch(loss=loss, trained_tokens=tokens)
    monitors[0].evaluated(loss=2.5, tokens=300)

    samples = look()

    flat = [batch for batches in losses.values() for batch in batches]
    mean = math.fsum(loss * tokens for loss, tokens in flat) / sum(tokens for _, tokens in flat)
    assert value(samples, "training_perplexity") == pytest.approx(math.exp(mean))
    assert value(samples, "validation_perplexity") == pytest.approx(math.exp(2.5))
    for monitor in monitors:
        monitor.finish()


@pytest.mark.parametrize("loss_kind", [None, "mse", "cross_entropy_with_auxiliary"])
def test_there_is_no_perplexity_of_another_loss(tmp_path: Path, look: Look, loss_kind: str | None) -> None:
    monitor = Monitor(run="a-run", rank=0, world_size=1, directory=tmp_path, loss_kind=loss_kind)
    with monitor.step():
        monitor.batch(loss=2.0, trained_tokens=10)
    monitor.evaluated(loss=2.0, tokens=10)

    samples = look()
    monitor.finish()

    assert {"training_loss", "validation_loss"} < names(samples)
    assert {"training_perplexity", "validation_perplexity"}.isdisjoint(names(samples))


@pytest.mark.parametrize("loss_kind", [None, "policy_gradient", "cross_entropy"])
def test_a_loss_that_may_be_negative_has_no_sum_that_could_fall(
    tmp_path: Path, look: Look, loss_kind: str | None
) -> None:
    monitor = Monitor(run="a-run", rank=0, world_size=1, directory=tmp_path, loss_kind=loss_kind)
    with monitor.step():
        monitor.batch(loss=2.0 if loss_kind == "cross_entropy" else -2.0, trained_tokens=10)

    samples = look()
    monitor.finish()

    sums = {"training_loss_token_sum_total", "training_loss_tokens_total"}
    assert sums & names(samples) == (sums if loss_kind == "cross_entropy" else set())


def test_a_loss_that_is_not_finite_is_counted_and_not_published(tmp_path: Path, look: Look) -> None:
    monitor = Monitor(run="a-run", rank=0, world_size=1, directory=tmp_path, loss_kind="cross_entropy")
    for loss in (math.nan, math.inf):
        with monitor.step():
            monitor.batch(loss=loss, trained_tokens=10)

    samples = look()
    monitor.finish()

    assert "training_loss" not in names(samples)
    assert "training_perplexity" not in names(samples)
    assert value(samples, "training_nonfinite_total", what="loss") == 2


def test_a_perplexity_that_no_number_can_hold_is_infinite(tmp_path: Path, look: Look) -> None:
    monitor = Monitor(run="a-run", rank=0, world_size=1, directory=tmp_path, loss_kind="cross_entropy")
    with monitor.step():
        monitor.batch(loss=1e4, trained_tokens=10)
    samples = look()
    monitor.finish()

    assert value(samples, "training_perplexity") == math.inf
    assert value(samples, "training_loss") == 1e4


def test_the_time_to_the_end_of_a_resumed_run_counts_its_own_steps_only(tmp_path: Path, look: Look) -> None:
    monitor = Monitor(run="a-run", rank=0, world_size=1, directory=tmp_path)
    monitor.expect(steps=1100)
    monitor.resume(1000)
    before, inside = time.monotonic(), [0.0] * 2
    for number in range(10):
        with monitor.step():
            inside[0] = inside[0] if number else time.monotonic()
            time.sleep(0.005)
            inside[1] = time.monotonic()
    after = time.monotonic()

    eta = value(look(), "training_eta_seconds")
    monitor.finish()

    assert isinstance(eta, float)
    # Since the last step it counts down, by a step at most.
    assert 89 * (inside[1] - inside[0]) / 10 <= eta <= 90 * (after - before) / 10


def test_a_service_that_comes_when_the_ring_has_lost_the_first_steps_knows_the_pace_of_the_rest(
    tmp_path: Path, look: Look, collector: RecordingsCollector
) -> None:
    recorder = small_recording(tmp_path, "a-run", info={"loss_kind": "cross_entropy"})
    step_ns = 10**8
    start_ns = time.monotonic_ns() - 1000 * step_ns
    for step in range(1, 1001):
        recorder.append(
            recording.BODY.pack(
                *(step, start_ns + step * step_ns, step_ns, *(0,) * len(PHASES), step, step),
                *(100 * step, 100 * step, 100 * step),
                *(200.0 * step if step < 998 else 200.0 * 997 + 100.0 * (step - 997), 2.0, 0.1, 1.0),
            )
        )
    set_slot(recorder, step=1000, steps=1000, steps_expected=2000, last_progress_ns=time.monotonic_ns())

    samples = look()

    assert value(samples, "training_eta_seconds") == pytest.approx(100, abs=2)
    assert collector.runs[0].tokens_per_second == pytest.approx(1000)
    assert value(samples, "training_perplexity") == pytest.approx(math.e)


def test_a_look_at_64_living_ranks_is_quick(tmp_path: Path, look: Look) -> None:
    """Printed; what it takes on a busy machine says nothing."""
    recorders = [small_recording(tmp_path, "a-run", rank=rank, world_size=64) for rank in range(64)]
    look()
    began = time.perf_counter()
    samples = look()
    print(f"one look at {len(recorders)} ranks, {len(samples)} samples: {time.perf_counter() - began:.3f} s")

    assert len(values(samples, "training_steps_total", "rank")) == 64
