"""The service of one node: its collectors, what it keeps, and the application over both."""

from __future__ import annotations

import functools
import logging
import socket
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from apscheduler.schedulers.background import BackgroundScheduler
from fastapi import APIRouter
from starlette.types import ASGIApp

from exporters import exposition
from exporters.access.access import Access
from exporters.access.guard import Guard
from exporters.access.routes import access_routes
from exporters.api import discovery, kubeflow
from exporters.api.app import create_app
from exporters.collector import Collector, Runner, Sample, stop_all
from exporters.gpu.dcgm import VideoCollector, dcgm_samples
from exporters.gpu.node import Gpus, NvmlGpus, Ranks, published
from exporters.gpu.simulated import SimulatedGpus, Simulation
from exporters.history import kubeflow as kubeflow_history
from exporters.history import retention
from exporters.history.acknowledgements import Acknowledgements
from exporters.history.database import Database
from exporters.history.endings import StoredEndings
from exporters.history.gauges import GaugesCollector
from exporters.history.known import KnownRuns
from exporters.history.kubeflow import KubeflowHistoryCollector
from exporters.history.runs import RunsCollector
from exporters.history.writer import HistoryCollector
from exporters.kubeflow import KubeflowCollector
from exporters.recordings import RecordingsCollector, living_ranks
from exporters.registration import Registration
from exporters.runs import RunStatus

logger = logging.getLogger(__name__)

THIN_EVERY_SECONDS = 600.0


@dataclass(frozen=True)
class Trainings:
    """Where the recordings are, and the database in which the service keeps what it learns of them."""

    directories: Sequence[Path]
    database: Database
    stall_after_seconds: float = 1800.0


class Service:
    """Everything between a start and a stop. Without trainings it tells of GPUs only."""

    def __init__(
        self,
        access: Access,
        trainings: Trainings | None = None,
        *,
        simulation: Simulation = Simulation(0),  # noqa: B008
        names_of_dcgm: bool = False,
        registration: Registration | None = None,
    ) -> None:
        """Raises sqlite3.Error where the database cannot be read."""
        self._access = access
        self._registration = registration
        self._database = trainings.database if trainings else None
        self._said: set[str] = set()
        self._runners: list[Runner] = []
        self._scheduler = BackgroundScheduler(timezone="UTC")
        known: KnownRuns | None = None
        ranks: Ranks = tuple
        routers = [access_routes(access)]
        if trainings:
            known, ranks, more = self._follow(trainings)
            routers += more
        self._gpus = _gpus(simulation, ranks, names_of_dcgm)
        self._add(*self._gpus.collectors)
        application = create_app(
            self._runners,
            self._gpus,
            known,
            more=routers,
            samples=_with_names_of_dcgm if names_of_dcgm else published,
        )
        self.app: ASGIApp = Guard(application, access)

    def start(self) -> None:
        for runner in self._runners:
            runner.start()
        if self._database is not None:
            self._every(THIN_EVERY_SECONDS, functools.partial(_thin, self._database), "retention")
        if self._registration is not None:
            self._every(self._registration.interval_seconds, self._registration.register, "registration")
            self._scheduler.add_job(self._registration.register, id="first registration")
        self._scheduler.start()

    def stop(self) -> None:
        if self._registration is not None:
            self._registration.close()  # which ends a call that waits for its answer
        if self._scheduler.running:  # not where the start was interrupted
            self._scheduler.shutdown(wait=False)
        stop_all(self._runners)
        self._gpus.close()
        self._access.close()
        if self._database is not None:
            self._database.close()

    def _follow(self, trainings: Trainings) -> tuple[KnownRuns, Ranks, list[APIRouter]]:
        """The collectors of trainings, and those that keep what these say."""
        database, stall_after = trainings.database, trainings.stall_after_seconds
        acknowledgements = Acknowledgements(database)
        recordings = RecordingsCollector(
            trainings.directories,
            stall_after_seconds=stall_after,
            last_seen=StoredEndings(database),
            acknowledgement=acknowledgements.of,
        )
        reports = KubeflowCollector(
            stall_after_seconds=stall_after,
            restored=kubeflow_history.restored(database),
            recorded=lambda: recordings.runs,
            attempts_before=functools.partial(kubeflow_history.attempts_before, database),
            acknowledgement=acknowledgements.of,
        )
        known = KnownRuns(
            database,
            acknowledgements,
            [lambda: recordings.runs, lambda: reports.runs],
            lambda: recordings.processes,
        )
        recordings_runner = Runner(recordings, said=self._said)

        def seen() -> list[RunStatus] | None:
            """The runs; None until all recordings have been looked at, and while they cannot be."""
            looked = recordings.is_complete and recordings_runner.error is None
            return known.current if looked else None

        self._runners.append(recordings_runner)
        self._add(
            reports,
            HistoryCollector(trainings.directories, database),
            KubeflowHistoryCollector(reports, database),
            RunsCollector(seen, database),
            GaugesCollector(lambda: exposition.gather(self._runners), database),
        )
        ranks = functools.partial(living_ranks, recordings, recordings_runner)
        return known, ranks, [kubeflow.routes(reports), discovery.routes(database)]

    def _add(self, *collectors: Collector) -> None:
        self._runners += [Runner(each, said=self._said) for each in collectors]

    def _every(self, seconds: float, job: Callable[[], None], name: str) -> None:
        self._scheduler.add_job(
            job, "interval", seconds=seconds, id=name, coalesce=True, misfire_grace_time=None
        )


def _thin(database: Database) -> None:
    try:
        retention.keep(database)
    except sqlite3.Error as error:
        logger.error("the history could not be thinned: %s", error)


def _gpus(simulation: Simulation, ranks: Ranks, names_of_dcgm: bool) -> Gpus:
    if simulation.count:
        return SimulatedGpus(simulation, ranks)
    return NvmlGpus(ranks, more=[VideoCollector] if names_of_dcgm else [])


def _with_names_of_dcgm(samples: Iterable[Sample]) -> Iterable[Sample]:
    samples = list(samples)
    return [*published(samples), *dcgm_samples(samples, socket.gethostname())]
