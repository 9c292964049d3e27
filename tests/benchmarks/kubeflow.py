"""How long a training waits for the answer to its status, posted to us as transformers posts to Kubeflow."""

from __future__ import annotations

import json
import statistics
import time
import urllib.request
from typing import NamedTuple

from tests.exporters.kubeflow import at_step

PAUSE_SECONDS = 0.02
MOST_SECONDS = 0.010  # on the machine of the benchmark; the issue's own limit


class Answers(NamedTuple):
    """Seconds from the call to the end of the answer."""

    median: float
    p99: float
    longest: float

    def __str__(self) -> str:
        return "Kubeflow status answered: " + ", ".join(
            f"{name} {seconds * 1000:.1f} ms" for name, seconds in zip(self._fields, self, strict=True)
        )


def answers(url: str, *, token: str = "", runs: int = 10, reports: int = 20) -> Answers:
    """Post so many reports of each of some runs to the service at `url`, one after the other.

    By urllib on a connection of its own for each, as the callback does. Raises urllib.error.HTTPError where
    the service does not take one.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    seconds = []
    for step in range(1, reports + 1):
        status = {"trainerStatus": at_step(step, reports, loss=1 / step, learning_rate=0.1, epoch=step / 50)}
        for run in range(runs):
            request = urllib.request.Request(
                f"{url}/api/v1/kubeflow/benchmark-{run}",
                data=json.dumps(status).encode(),
                headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
                method="POST",
            )
            began = time.perf_counter()
            with opener.open(request, timeout=60) as answer:
                answer.read()
            seconds.append(time.perf_counter() - began)
            time.sleep(PAUSE_SECONDS)
    return Answers(statistics.median(seconds), statistics.quantiles(seconds, n=100)[98], max(seconds))
