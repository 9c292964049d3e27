"""A rank of a scenario records what the Monitor would, did it live through the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from exporters import catalog
from exporters.collector import Histogram
from exporters.recordings import RecordingsCollector
from trainer_hooks import monitor as monitor_module
from trainer_hooks.monitor import Monitor
from trainer_hooks.recording import FINISHED, PHASE_CODES
from trainvitals.scenarios.rank import Part, RankRecording, Step

START_NS, START_WALL_NS = 160_000_000_000_000, 1_800_000_000 * 10**9
INFO = {"framework": "plain", "model": "tiny"}
RESUMED_FROM = 40
INIT_SECONDS, EVALUATION_SECONDS, CHECKPOINT_SECONDS = 20.0, 8.0, 4.0
PARTS = (
    *(Part("data", 0.25), Part("forward", 1.0), Part("backward", 2.0), Part("optimizer", 0.5)),
    Part("other", 0.25),
)
STEPS = [
    Step(RESUMED_FROM + number, 1, 4, 1000, 750, 2.0 - 0.1 * number, 1e-4 / number, 0.5 + 0.1 * number)
    for number in (1, 2, 3, 4)
]
OF_THIS_MACHINE = (
    *(catalog.TRAINING_HOST_MEMORY_BYTES, catalog.RECORDINGS_VOLUME_SIZE_BYTES),
    catalog.RECORDINGS_VOLUME_FREE_BYTES,
)


class Clock:
    """A monotonic clock that moves when it is told to."""

    now_ns = START_NS

    def __call__(self) -> int:
        return self.now_ns

    def passes(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)

    def wall(self) -> float:
        return (START_WALL_NS + self.now_ns - START_NS) / 1e9


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The Monitor's, and that with which a recording begins."""
    clock = Clock()
    monkeypatch.setattr(monitor_module, "monotonic_ns", clock)
    monkeypatch.setattr("trainer_hooks.monitor.time.monotonic", lambda: clock.now_ns / 1e9)
    monkeypatch.setattr("trainer_hooks.recording.time.monotonic_ns", clock)
    monkeypatch.setattr("trainer_hooks.recording.time.time_ns", lambda: round(clock.wall() * 1e9))
    return clock


def told_by_a_monitor(directory: Path, clock: Clock) -> Monitor:
    monitor = Monitor(run="a-run", rank=0, world_size=1, directory=directory, info=INFO)
    assert monitor.recording
    monitor.resume(RESUMED_FROM)
    monitor.expect(steps=100, epochs=2)
    clock.passes(INIT_SECONDS)
    monitor.stage("sft")

    def steps(these: Sequence[Step]) -> None:
        for step in these:
            for phase, seconds in PARTS:
                monitor.enter(PHASE_CODES[phase])
                clock.passes(seconds)
            monitor.batch(
                loss=step.loss, samples=step.samples, tokens=step.tokens, trained_tokens=step.trained_tokens
            )
            monitor.learning_rates([step.learning_rate])
            monitor.log(gradient_norm=step.gradient_norm, margin=0.25)
            monitor.end_step(step.number)

    steps(STEPS[:2])
    with monitor.phase("evaluation"):
        clock.passes(EVALUATION_SECONDS)
        monitor.evaluated(loss=1.8, tokens=500, accuracy=0.5)
    with monitor.checkpoint():
        clock.passes(CHECKPOINT_SECONDS)
    steps(STEPS[2:])
    return monitor


def told_by_a_scenario(directory: Path, clock: Clock) -> RankRecording:
    rank = RankRecording(
        directory,
        run="a-run",
        node="node-a",
        rank=0,
        gpu=0,
        world_size=1,
        start_ns=clock.now_ns,
        start_wall_ns=round(clock.wall() * 1e9),
        info=INFO,
    )
    rank.count("resumed_from_step", RESUMED_FROM)
    rank.count("step", RESUMED_FROM)
    rank.event("resume", clock.now_ns, step=RESUMED_FROM)
    rank.count("steps_expected", 100)
    rank.tell("epochs_expected", 2)
    clock.passes(INIT_SECONDS)
    rank.event("stage", clock.now_ns, name="sft")

    def steps(these: Sequence[Step]) -> None:
        for step in these:
            began = clock.now_ns
            clock.passes(sum(part.seconds for part in PARTS))
            rank.stepped(step, PARTS, began, clock.now_ns)
            rank.tell("data_seconds", PARTS[0].seconds)
            rank.tell("learning_rates", step.learning_rate)
            rank.scalar("margin", 0.25, clock.now_ns)

    steps(STEPS[:2])
    rank.enter("evaluation", clock.now_ns)
    clock.passes(EVALUATION_SECONDS)
    rank.progressed(clock.now_ns)
    for slot, value in (("loss", 1.8), ("loss_best", 1.8), ("accuracy", 0.5)):
        rank.tell(f"validation_{slot}", value)
    rank.count("validation_loss_tokens", 500)
    rank.event("evaluation", clock.now_ns, tokens=500, loss=1.8, accuracy=0.5)
    rank.resumes(clock.now_ns)
    rank.enter("other", clock.now_ns)
    rank.enter("checkpoint", clock.now_ns)
    clock.passes(CHECKPOINT_SECONDS)
    rank.progressed(clock.now_ns)
    rank.count("checkpoint_last_ns", clock.now_ns)
    rank.count("checkpoints_ok", 1)
    rank.tell("checkpoint_seconds", CHECKPOINT_SECONDS)
    rank.event("checkpoint", clock.now_ns, seconds=CHECKPOINT_SECONDS, bytes=0)
    rank.resumes(clock.now_ns)
    rank.enter("other", clock.now_ns)
    steps(STEPS[2:])
    return rank


def published(directory: Path, clock: Clock) -> dict[tuple[str, ...], object]:
    collector = RecordingsCollector([directory], monotonic_ns=clock, wall=clock.wall)
    samples = list(collector.collect())
    collector.close()
    found: dict[tuple[str, ...], object] = {}
    for metric, labels, value in samples:
        if metric not in OF_THIS_MACHINE:
            shown = (*value.cumulative_counts, value.sum) if isinstance(value, Histogram) else float(value)
            found[(metric.name, *(f"{name}={labels[name]}" for name in sorted(labels)))] = shown
    return found


def test_the_collector_publishes_of_it_what_it_would_of_a_monitor(tmp_path: Path, clock: Clock) -> None:
    real, made = tmp_path / "real", tmp_path / "made"
    monitor = told_by_a_monitor(real, clock)
    before = published(real, clock)
    monitor.finish()
    at_the_end = published(real, clock)

    clock.now_ns = START_NS
    rank = told_by_a_scenario(made, clock)
    assert published(made, clock) == before
    rank.event("finish", clock.now_ns, reason="completed")
    rank.close(FINISHED, clock.now_ns)
    assert published(made, clock) == at_the_end
    assert before != at_the_end
