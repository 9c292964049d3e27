"""The application over real recordings, without the threads of the collectors."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from exporters import exposition
from exporters.access.roles import Caller, Role
from exporters.api.app import create_app
from exporters.collector import Runner
from exporters.gpu.simulated import SimulatedGpus, Simulation
from exporters.history.acknowledgements import Acknowledgements
from exporters.history.database import Database
from exporters.history.endings import StoredEndings
from exporters.history.gauges import GaugesCollector
from exporters.history.known import KnownRuns
from exporters.history.runs import RunsCollector
from exporters.history.writer import HistoryCollector
from exporters.recordings import RecordingsCollector

CALLER = Caller("a-person", Role.admin)


class Service:
    """`look` has every collector look once."""

    def __init__(self, directory: Path, *, stall_after_seconds: float = 1800.0) -> None:
        self.directory = directory / "recordings"
        self.database = Database(directory / "history.db")
        acknowledgements = Acknowledgements(self.database)
        recordings = RecordingsCollector(
            [self.directory],
            stall_after_seconds=stall_after_seconds,
            last_seen=StoredEndings(self.database),
            acknowledgement=acknowledgements.of,
        )
        self.known = KnownRuns(
            self.database, acknowledgements, [lambda: recordings.runs], lambda: recordings.processes
        )
        self.gpus = SimulatedGpus(Simulation(2), lambda: recordings.processes)
        self.recordings = Runner(recordings)
        self.gpu_runner = Runner(self.gpus)
        self.runners = [self.recordings, self.gpu_runner]
        self.history = [
            Runner(HistoryCollector([self.directory], self.database, buckets_every_seconds=0)),
            Runner(RunsCollector(lambda: self.known.current, self.database)),
            Runner(GaugesCollector(lambda: exposition.gather(self.runners), self.database)),
        ]
        self.app = create_app(self.runners, self.gpus, self.known)
        self.client = client_of(self.app)

    def look(self) -> None:
        for runner in (*self.runners, *self.history):
            runner.run_once()
            assert runner.error is None

    def look_at_recordings(self) -> None:
        self.recordings.run_once()
        assert self.recordings.error is None

    def close(self) -> None:
        for runner in (*self.runners, *self.history):
            runner.stop()
        self.database.close()


def client_of(app: FastAPI) -> TestClient:
    """Of somebody who may do everything."""
    return TestClient(called(app), base_url="http://127.0.0.1:8003", raise_server_exceptions=False)


def called(app: ASGIApp) -> ASGIApp:
    async def with_caller(scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {}).update(caller=CALLER, still_allowed=lambda: True)
        await app(scope, receive, send)

    return with_caller
