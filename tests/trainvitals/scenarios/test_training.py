"""A training of a scenario is recorded as a real one is, at the scenario's own moments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from exporters import catalog
from exporters.catalog import Metric
from exporters.collector import Sample
from exporters.recordings import RecordingsCollector
from tests.trainer_hooks.recorded import recorded
from trainvitals.scenarios.clock import Clock
from trainvitals.scenarios.story import FINE_TUNING
from trainvitals.scenarios.training import Attempt, Place

START = 1_800_000_000.0
PLAN = replace(
    FINE_TUNING,
    run="short",
    steps=60,
    step_seconds=2.0,
    init_seconds=20,
    evaluate_every=20,
    checkpoint_every=30,
)


class Watched:
    """One training of two ranks, and the service's own collector beside it."""

    def __init__(self, directory: Path) -> None:
        self.clock = Clock(START)
        self._directory = directory
        self._collector = RecordingsCollector(
            [directory], monotonic_ns=self.clock.monotonic_ns, wall=self.clock.wall
        )
        self.attempt = self.begins()

    def begins(self, from_step: int = 0) -> Attempt:
        places = [Place("node", gpu, self._directory) for gpu in range(2)]
        self.attempt = Attempt(PLAN, places, self.clock, from_step)
        return self.attempt

    def at(self, seconds: float) -> list[Sample]:
        """What is published so many seconds after the start."""
        self.clock.set(START + seconds)
        self.attempt.advance(self.clock.now)
        return list(self._collector.collect())

    def close(self) -> None:
        self.attempt.close()
        self._collector.close()


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    watched = Watched(tmp_path)
    yield watched
    watched.close()


def value(samples: Sequence[Sample], metric: Metric, **labels: str) -> float:
    (found,) = (
        each.value for each in samples if each.metric is metric and labels.items() <= each.labels.items()
    )
    assert isinstance(found, float | int)
    return found


def state(samples: Sequence[Sample]) -> str:
    return next(
        each.labels["state"]
        for each in samples
        if each.metric is catalog.TRAINING_RUN_STATE and each.value == 1
    )


def test_it_initialises_trains_and_finishes(watched: Watched) -> None:
    early, later, late = watched.at(10), watched.at(60), watched.at(600)

    assert value(early, catalog.TRAINING_PHASE_ACTIVE, rank="1", phase="init") == 1
    assert value(early, catalog.TRAINING_STEP_CURRENT) == 0
    assert 10 < value(later, catalog.TRAINING_STEP_CURRENT) < 25
    assert (state(early), state(later), state(late)) == ("running", "running", "finished")
    assert value(late, catalog.TRAINING_STEP_CURRENT) == 60


def test_its_phases_add_up_to_its_age_at_any_moment(watched: Watched) -> None:
    for seconds in range(5, 200, 7):
        samples = watched.at(seconds)
        for rank in ("0", "1"):
            spent = [
                each.value
                for each in samples
                if each.metric is catalog.TRAINING_PHASE_SECONDS_TOTAL and each.labels["rank"] == rank
            ]
            assert sum(map(float, spent)) == pytest.approx(seconds, abs=0.1)  # type: ignore[arg-type]


def test_the_loss_falls_and_is_evaluated(watched: Watched) -> None:
    early, late = watched.at(30), watched.at(600)

    assert value(late, catalog.TRAINING_LOSS) < value(early, catalog.TRAINING_LOSS)
    assert value(late, catalog.VALIDATION_LOSS) == pytest.approx(value(late, catalog.TRAINING_LOSS), abs=0.4)
    assert value(late, catalog.TRAINING_CHECKPOINTS_TOTAL, result="ok") == 2


def test_a_killed_one_is_taken_up_again_from_its_checkpoint(watched: Watched, tmp_path: Path) -> None:
    watched.at(180)
    first = watched.attempt
    first.is_killed()
    killed = watched.at(181)
    watched.begins(first.checkpoint_step)
    resumed = watched.at(182)

    assert (state(killed), state(resumed)) == ("killed", "running")
    assert value(resumed, catalog.TRAINING_RESUMED_FROM_STEP) == first.checkpoint_step == 30
    assert value(resumed, catalog.TRAINING_RESTARTS_TOTAL) == 1
    told = [event["step"] for each in recorded(tmp_path) for event in each.of("resume")]
    assert told == [30, 30]  # of either rank


def test_a_stalled_one_waits_in_the_backward_pass(watched: Watched) -> None:
    watched.at(60)
    watched.attempt.stalls()
    samples = watched.at(60 + 1900)

    assert state(samples) == "stalled"
    assert value(samples, catalog.TRAINING_PHASE_ACTIVE, rank="0", phase="backward") == 1


def test_one_that_fails_says_so(watched: Watched) -> None:
    watched.at(60)
    watched.attempt.fails("OutOfMemoryError", "train.py:1")

    assert state(watched.at(61)) == "failed"
