"""What transformers posts of a training, and a service that hears it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.types import ASGIApp

from exporters.api import kubeflow as api
from exporters.collector import Sample
from exporters.history import kubeflow as history
from exporters.history import series
from exporters.history.database import Database
from exporters.history.kubeflow import KubeflowHistoryCollector
from exporters.history.runs import RunsCollector
from exporters.kubeflow import KubeflowCollector
from exporters.runs import RunStatus

SCRIPT = """
import sys
from pathlib import Path
from tests.trainer_hooks.huggingface import trainer

folder, steps = sys.argv[1:]
trainer(Path(folder), max_steps=int(steps), eval_strategy="steps", eval_steps=5).train()
"""


class Clock:
    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Service:
    """The collectors and the route over a database, without threads: `look` has each look once."""

    def __init__(self, folder: Path, clock: Clock, **options: Any) -> None:
        self.clock = clock
        self.database = Database(folder / "history.db", wall=clock)
        self.reports = KubeflowCollector(
            restored=history.restored(self.database),
            attempts_before=lambda run: history.attempts_before(self.database, run),
            wall=clock,
            **options,
        )
        self.writer = KubeflowHistoryCollector(self.reports, self.database, buckets_every_seconds=0)
        self.keeper = RunsCollector(lambda: self.reports.runs, self.database, wall=clock)
        self.app = FastAPI()
        self.app.include_router(api.routes(self.reports, wall=clock), prefix="/api/v1")
        self.client = TestClient(self.app, base_url="http://127.0.0.1:8003")
        self.look()

    def look(self, *, after_seconds: float = 0.0) -> list[Sample]:
        self.clock.now += after_seconds
        samples = list(self.reports.collect())
        list(self.writer.collect())
        list(self.keeper.collect())
        return samples

    def post(self, run: str = "a-run", *, after_seconds: float = 0.0, **status: Any) -> int:
        self.clock.now += after_seconds
        answer = self.client.post(f"/api/v1/kubeflow/{run}", json={"trainerStatus": status})
        return answer.status_code

    def run(self, run: str = "a-run") -> RunStatus:
        (found,) = (each for each in self.reports.runs if each.run == run)
        return found

    def curve(self, name: str, run: str = "a-run") -> list[tuple[int, float]]:
        """Steps and values."""
        with self.database.read() as connection:
            found = series.of_steps(connection, run, [name])
        return [pair for each in found for pair in zip(each.points.step, each.points.mean, strict=True)]

    def close(self) -> None:
        self.client.close()
        self.database.close()


def begin(steps: int = 100) -> dict[str, Any]:
    return {"progressPercentage": 0, "metrics": metrics(total_steps=steps)}


def at_step(step: int, steps: int = 100, **logged: Any) -> dict[str, Any]:
    """After `logged` at some step before: 100 steps are two epochs."""
    return {
        "progressPercentage": min(99, step * 100 // steps),
        "estimatedRemainingSeconds": steps - step,
        "metrics": metrics(
            **logged, current_step=step, total_steps=steps, current_epoch=round(step / steps * 2, 2)
        ),
    }


def end(**logged: object) -> dict[str, Any]:
    return {
        "progressPercentage": 100,
        "estimatedRemainingSeconds": 0,
        "metrics": metrics(**{"epoch": 2.0, **logged}),
    }


def metrics(**values: object) -> list[dict[str, str]]:
    return [{"name": name, "value": str(value)} for name, value in values.items()]


@contextmanager
def served(app: ASGIApp) -> Iterator[str]:
    """The URL of the application, served by uvicorn on a free port."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "uvicorn did not start"
            threading.Event().wait(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
