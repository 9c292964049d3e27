"""A node of a scenario: its trainings, its GPUs, and the service's collectors over both."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random

from exporters import catalog
from exporters.collector import Runner, Sample
from exporters.gpu.node import published
from exporters.history.database import Database
from exporters.history.writer import HistoryCollector
from exporters.recordings import RecordingsCollector, living_ranks
from trainvitals.scenarios.clock import Clock
from trainvitals.scenarios.gpus import EVALUATING, HEALTHY, HUNG, IDLE, Fault, ScenarioGpus
from trainvitals.scenarios.training import GIB, Attempt, Place

_VOLUME_BYTES, _VOLUME_FREE_BYTES = 64 * GIB, 41 * GIB
_OF_THIS_MACHINE = (catalog.RECORDINGS_VOLUME_SIZE_BYTES, catalog.RECORDINGS_VOLUME_FREE_BYTES)


class Node:
    """A machine with GPUs, and the service on it."""

    def __init__(
        self,
        name: str,
        directory: Path,
        clock: Clock,
        *,
        gpus: int,
        faults: Mapping[int, Sequence[Fault]] | None = None,
        mig: frozenset[int] = frozenset(),
        cluster: str,
    ) -> None:
        self.name = name
        self.cluster = cluster
        self.gpus = gpus
        self.service_is_up = True
        self._random = Random(name)
        self._clock = clock
        self._started = clock.now
        self._attempts: list[Attempt] = []
        self._recordings_directory = directory / name / "recordings"
        self._recordings_directory.mkdir(parents=True)
        directories = [self._recordings_directory]
        self._database = Database(directory / name / "trainvitals.db")
        self._recordings = RecordingsCollector(directories, monotonic_ns=clock.monotonic_ns, wall=clock.wall)
        recordings_runner = self._runner(self._recordings)
        history = HistoryCollector(directories, self._database, monotonic=clock.monotonic, wall=clock.wall)
        gpus_collector = ScenarioGpus(
            name,
            gpus,
            self._work,
            lambda: living_ranks(self._recordings, recordings_runner),
            clock.wall,
            faults or {},
            mig,
        )
        self._runners = [recordings_runner, self._runner(history), self._runner(gpus_collector)]

    def place(self, gpu: int) -> Place:
        return Place(self.name, gpu, self._recordings_directory)

    def hosts(self, attempt: Attempt) -> None:
        """The attempt has ranks here."""
        self._attempts.append(attempt)

    def publishes(self) -> list[Sample]:
        """What the service has on its page now."""
        for runner in self._runners:
            runner.run_once()
        return published(self._samples())

    def close(self) -> None:
        for runner in self._runners:
            runner.collector.close()
        self._database.close()

    def _runner(self, collector: RecordingsCollector | HistoryCollector | ScenarioGpus) -> Runner:
        return Runner(collector, monotonic=self._clock.monotonic, wall=self._clock.wall)

    def _samples(self) -> Iterator[Sample]:
        for runner in self._runners:
            yield from (each for each in runner.samples() if each.metric not in _OF_THIS_MACHINE)
        # What is of the machine on which the scenario is made is no part of it.
        yield Sample(catalog.RECORDINGS_VOLUME_SIZE_BYTES, {}, _VOLUME_BYTES)
        yield Sample(catalog.RECORDINGS_VOLUME_FREE_BYTES, {}, _VOLUME_FREE_BYTES)
        for rank in self._recordings.processes:
            grown = 3 * (1 - math.exp((self._started - self._clock.now) / 1800))
            used = (9 + 0.6 * rank.local_rank + grown + self._random.gauss(0, 0.06)) * GIB
            yield Sample(catalog.TRAINING_HOST_MEMORY_BYTES, rank.labels, round(used))
        yield Sample(catalog.WALLCLOCK_SECONDS, {}, self._clock.wall())

    def _work(self, gpu: int) -> str:
        """What a GPU does: that of the newest training on it."""
        for attempt in reversed(self._attempts):
            if any(place.gpu == gpu and place.node == self.name for place in attempt.places):
                if attempt.state == "stalled":
                    return HUNG
                phase = attempt.phase if attempt.state == "running" else ""
                return {"step": HEALTHY, "evaluation": EVALUATING}.get(phase, IDLE)
        return IDLE
